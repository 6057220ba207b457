"""Releases of features at a hospital and its guard: policy, ledger, and the head that fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import PROBE, SIZE, guard, make
from support.probes import hospital, plan_of, probe, sent, settings_of, two_films
from torch import Tensor, nn

import fedmed.config.settings
from fedmed.config import Settings
from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.federation.members import make_member_plan
from fedmed.hospital import hospital as module
from fedmed.hospital.guard import caches
from fedmed.hospital.guard.answering import Guard
from fedmed.hospital.refusals import Refusal, refusing
from fedmed.models.features import FeatureNetwork
from fedmed.privacy.ledger.deciding import against_evaluation, decide
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import ImagePlan, NoPrivacy, part
from fedmed.privacy.plans.evaluation import evaluation_plan
from fedmed.training import released_features as released

POLICY = 'maximum-epsilon = 8.0\ndelta = 1e-3\npublic-size = 40\narms = ["feature-laplace"]\n'
CONFIG: dict[str, Any] = {"privacy.arm": "feature-laplace", "privacy.epsilon": 8.0, **PROBE}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    module._model.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    """A guard whose server has public images of its own to project by."""
    monkeypatch.setattr(fedmed.config.settings, "check_evaluation", lambda *_: None)
    return guard.guard(tmp_path, policy=POLICY)


def asked(network: nn.Module, run: str = "run-1", **config: Any) -> Any:
    parameters, frozen = sent(network)
    return guard.request(run=run, config=CONFIG | config, model=parameters, frozen=frozen)


def test_a_guard_releases_once_and_refuses_a_second_projection(site: Guard) -> None:
    first = guard.ask(site, asked(probe(settings_of())))
    assert first[1].keys() == {"fc.weight", "fc.bias"}
    assert (first[0]["loss"], first[0]["images"]) == (None, None)
    again = guard.ask(site, asked(probe(settings_of()), "run-2"))
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])
    assert guard.code(site, asked(probe(settings_of(), public=1), "run-3")) == "policy"
    (plan, reserved) = site.ledger.rows()
    assert (plan.kind, reserved.kind, reserved.steps) == ("plan", "reserve", 1)
    assert (plan.account, plan.body["unit"]) == ("ledger/patient", "patient")
    assert plan.body["arm"].startswith("feature-laplace-3-norm-1.0-epsilon-8.0")
    site.ledger.verify()


def test_no_row_is_read_for_a_projection_without_room(
    site: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.ask(site, asked(probe(settings_of())))

    def read(*_: object) -> None:
        raise AssertionError("the data were touched")

    monkeypatch.setattr(module, "hospital_for", read)
    assert guard.code(site, asked(probe(settings_of(), public=1), "run-3")) == "policy"
    monkeypatch.setattr(caches, "MOST_POOLS", 1)
    assert guard.code(site, asked(probe(settings_of(), public=1), "run-3")) == "requests"


def test_another_epsilon_or_norm_is_another_release(site: Guard) -> None:
    guard.ask(site, asked(probe(settings_of())))
    assert guard.code(site, asked(probe(settings_of()), "run-2", **{"privacy.epsilon": 0.5})) == (
        "policy"
    )
    change = {"privacy.clipping-norm": 0.5}
    assert guard.code(site, asked(probe(settings_of()), "run-3", **change)) == "policy"


def test_a_policy_decides_before_the_projection_is_known(tmp_path: Path) -> None:
    settings, plan = settings_of(), plan_of(settings_of())
    ledger = Ledger(tmp_path / "hospital-1.sqlite")
    small, enough = (Policy(maximum_epsilon=e, arms=["feature-laplace"]) for e in (4.0, 8.0))

    def answer(policy: Policy) -> tuple[bool, str]:
        decision = decide(settings, "hospital-1", plan, policy, ledger, 12)
        return decision.accepts, decision.reason

    assert "limit" in answer(small)[1]
    assert answer(enough) == (True, "")
    hospital(tmp_path, policy=enough).train("a run", 1, *sent(probe(settings)))
    assert answer(enough) == (True, ""), "what was released is still to be had"
    assert not Policy(arms=["dp-sgd"]).allows("feature-laplace")
    assert Policy(maximum_epsilon=8.0).allows("feature-laplace")


def test_histograms_come_after_what_the_release_will_cost(tmp_path: Path) -> None:
    settings = settings_of(**{"evaluation.where": "both", "evaluation.epsilon": 2.0})
    ledger, plan = Ledger(tmp_path / "hospital-1.sqlite"), plan_of(settings)
    free = NoPrivacy()  # a training that costs nothing leaves room
    for limit, training, refused in ((8.0, plan, True), (8.0, free, False), (900.0, plan, False)):
        policy = Policy(maximum_epsilon=limit, evaluation="shared")
        against = against_evaluation(
            settings, training, evaluation_plan(settings), policy, ledger, "r", fixed_split=True
        )
        assert bool(against) == refused, against


def test_a_hospital_that_declares_more_or_fewer_tells_so_many(tmp_path: Path) -> None:
    for declared in (5, 30):
        plan = plan_of(settings_of(), 12, declared)
        assert (plan.units, plan.declared) == (declared, True)
        made = released.released_features(
            probe(settings_of()),
            two_films(),
            settings_of(),
            plan,
            NoiseSource(1),
            lambda *_: None,
            member="h",
        )
        assert made.images.shape == (declared, 3)
        assert set(np.unique(made.labels)) <= {0.0, 1.0}


def test_a_refusal_for_the_limit_is_not_said_to_be_the_datas(
    tmp_path: Path,
) -> None:
    """Of images and of features alike."""
    policy = Policy(maximum_epsilon=1.0, arms=["feature-laplace"])
    with pytest.raises(Refusal) as refusal:
        hospital(tmp_path, policy=policy).train("a run", 1, *sent(probe(settings_of())))
    assert refusal.value.code == "policy"
    settings = make(privacy={"arm": "pixel-laplace", "epsilon": 4.0})
    plan = part(make_member_plan(settings, "hospital-1"), ImagePlan)
    assert plan is not None
    small = Policy(unit="pixels", maximum_epsilon=0.1)
    pay = module._payment(
        Ledger(tmp_path / "other.sqlite"),
        settings,
        plan,
        small,
        two_films(),
        "h",
    )
    with pytest.raises(Refusal) as refusal, refusing("data", "h"):
        released_shard(two_films(), plan.mechanism, NoiseSource(), before=pay)
    assert refusal.value.code == "policy"


def planted(seed: int, patients: int = 4000) -> tuple[FeatureNetwork, Tensor]:
    """A released shard whose labels rest on the first component alone, and what was put in."""
    settings = settings_of()
    network, plan, rng = probe(settings), plan_of(settings, patients), np.random.default_rng(seed)
    scale = np.sqrt(released.public_variance(network))
    clean = rng.normal(size=(patients, 3)) * scale / 2
    labels = clean[:, 0] > 0
    drawn = [
        plan.mechanism.release(vector, bool(label), NoiseSource(seed), str(row))
        for row, (vector, label) in enumerate(zip(clean, labels, strict=True))
    ]
    shard = two_films()
    table = shard.table.iloc[np.zeros(patients, dtype=int)].reset_index(drop=True)
    table["label"] = [int(one.answer) for one in drawn]
    vectors = plan.mechanism.vectors(np.stack([one.steps for one in drawn])).astype(np.float32)
    released.fit_released(network, Shard("planted", vectors, table), plan)
    assert isinstance(network.fc, nn.Linear)
    return network, network.fc.weight.detach()[0]


def test_the_head_is_the_discriminant_of_what_was_released() -> None:
    """The covariance of label and first component is recovered; the others' is within 5 errors.

    It is half the mean of 4,000 signed vectors.
    """
    network, weight = planted(0)
    variance = released.public_variance(network)
    # E[x y] of x normal with deviation s and y = (x > 0): s / sqrt(2 pi).
    expected = 4 * np.sqrt(variance[0]) / 2 / np.sqrt(2 * np.pi) / variance[0]
    deviation = plan_of(settings_of()).mechanism.deviation
    errors = 4 * (deviation + 0.5) / 2 / np.sqrt(4000) / variance
    assert abs(float(weight[0]) - expected) < 5 * errors[0] < 0.5 * expected
    assert (np.abs(weight[1:].numpy()) < 5 * errors[1:]).all()


def test_the_public_variance_is_that_of_the_projected_public_features() -> None:
    settings = settings_of()
    network = probe(settings)
    images = np.random.default_rng(100).integers(0, 256, (30, SIZE, SIZE), np.uint8)
    features = released.featured(network, Shard("public", images, two_films().table), 1)
    projected = (torch.from_numpy(np.array(features.images)) - network.centre) @ network.project
    own = projected.double().numpy().var(0, ddof=1)
    np.testing.assert_allclose(released.public_variance(network), own, rtol=1e-3)
    with torch.no_grad():
        network.project[:, 1] = 0
    known = released.public_variance(network)
    assert np.isfinite(known).all()
    assert (known > 0).all()


def test_what_is_released_in_a_round_replaces_what_the_server_sent(tmp_path: Path) -> None:
    """A solution, not a step from it: so that rounds after the first change nothing."""
    settings: Settings = settings_of()
    network = probe(settings)
    heads = []
    for number in (1, 2):
        parameters, frozen = sent(network)
        reply = hospital(tmp_path).train("a run", number, parameters, frozen)
        assert reply.update is not None
        heads.append({name: parameters[name] + reply.update[name] for name in parameters})
        with torch.no_grad():
            for name, value in network.named_parameters():
                if name in parameters:
                    value += 7.0
    for name, value in heads[0].items():
        torch.testing.assert_close(value, heads[1][name], atol=1e-4, rtol=1e-4)
