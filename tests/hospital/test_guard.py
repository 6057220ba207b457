"""Hostile apps ask a site's guard: each gets a code, or what its policy has paid for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import goes_red, half_frozen_network, refuses
from support import use_tiny_models as use
from support.guard import CONFIG, POLICY, SITE, ask, code, guard, model, request

from fedmed import models
from fedmed.data.remembering import forget
from fedmed.federation import exchange
from fedmed.hospital import hospital
from fedmed.hospital.guard.answering import Guard
from fedmed.privacy.ledger.filtering import Limit
from fedmed.site.file import read_site
from fedmed.site.settings import site_settings


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use(monkeypatch)
    hospital._model.cache_clear()
    forget()
    yield
    hospital._model.cache_clear()
    forget()


def lines(one: Guard) -> list[dict[str, Any]]:
    return one.ledger.log.entries()


def test_an_honest_app_joins_trains_and_evaluates(tmp_path: Path) -> None:
    one = guard(tmp_path)
    joining = ask(one, request("query"))[0]["joining"]
    assert (joining["hospital"], joining["accepts"], joining["public_size"]) == (
        "st-mary",
        True,
        40,
    )
    header, update = ask(one, request())
    assert header["hospital"] == "st-mary"
    assert (header["loss"], header["images"]) == (None, None)
    assert sorted(update) == sorted(model())
    assert ask(one, request(round_number=2, model=model(1)))[1]
    header, counts = ask(one, request("evaluate"))
    assert {"all", "sex", "age"} <= counts.keys()
    assert header["clustering"] == 1.0
    assert one.ledger.verify() == len(one.ledger.rows())
    assert one.ledger.steps("run-1") == 2 * 7  # 40 declared units in batches of 6


def test_buffers_that_came_once_are_known_by_their_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that was started again has none: it says so before anything is spent."""

    monkeypatch.setattr(models, "build", half_frozen_network)
    whole = model()
    frozen = {n: v for n, v in whole.items() if n.startswith("0.")}
    trained = {n: v for n, v in whole.items() if n not in frozen}
    known = exchange.fingerprint(frozen)
    assert min(len(frozen), len(trained)) == 2
    one = guard(tmp_path)
    by_name = request(model=trained, buffers=known)
    assert code(one, by_name) == "buffers"
    assert one.ledger.rows() == []
    first = ask(one, request(model=trained, frozen=frozen))[1]
    assert sorted(first) == sorted(trained)
    assert code(one, request(model=trained, buffers="0" * 64)) == "buffers"
    by_name = request(model=trained, buffers=known, round_number=2)
    second = ask(one, by_name)[1]
    assert sorted(second) == sorted(trained)
    again = guard(tmp_path)
    assert code(again, by_name) == "buffers"
    assert code(again, request(model=trained, frozen=frozen, round_number=2)) == ""
    assert all(torch.equal(ask(again, by_name)[1][n], second[n]) for n in second)


def test_a_repeated_round_gives_the_stored_bytes_and_costs_nothing(tmp_path: Path) -> None:
    one = guard(tmp_path)
    first, steps = ask(one, request())[1], one.ledger.steps("run-1")
    again = ask(guard(tmp_path), request())[1]  # as after a restart
    assert all(torch.equal(again[n], first[n]) for n in first)
    assert one.ledger.steps("run-1") == steps


UNPROTECTED = [
    {"privacy.arm": "none"},
    {"privacy.arm": "brightness-shift"},
    {"privacy.arm": "central-fixed"},
    {"privacy.arm": "central-adaptive"},
]


@pytest.mark.parametrize("change", UNPROTECTED, ids=lambda change: change["privacy.arm"])
@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_an_app_that_asks_for_no_noise_gets_nothing(
    kind: str, change: dict[str, str], tmp_path: Path
) -> None:
    def check(one: Guard) -> None:
        assert code(one, request(kind, config=change)) == "policy"

    check(guard(tmp_path))
    # A policy that names the arm wants it: then the raw update leaves, and the check sees it.
    named = POLICY.replace('"dp-sgd"', f'"{change["privacy.arm"]}"')
    goes_red(check, guard(tmp_path, named))


def test_without_a_list_of_arms_what_is_not_noised_is_refused_too(tmp_path: Path) -> None:
    policy = "maximum-epsilon = 120.0\ndelta = 1e-3\npublic-size = 40\n"
    for change in UNPROTECTED:
        assert code(guard(tmp_path, policy), request(config=change)) == "policy"
    assert code(guard(tmp_path, policy), request()) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"privacy.epsilon": 1e9},
        {"privacy.noise-multiplier": 1e-9},
        {"privacy.noise-multiplier": -1.0},
        {"privacy.clipping-norm": 0.0},
        {"privacy.delta": 0.5},
        {"privacy.arm": "DP-SGD"},
        {"train.scheme": "pooled"},
        {"data.hospitals": 0},
        {"secret.key": 1},
        {"data.image-size": "x.y"},
    ],
    ids=str,
)
def test_a_plan_that_is_none_gets_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request(config=change)) == "plan"
    assert not one.ledger.path.exists()


@pytest.mark.parametrize(
    "change", [{}, {"train.rounds": 50}, {"train.local-epochs": 30.0}], ids=str
)
def test_a_plan_over_the_limit_gets_no_round(change: dict[str, Any], tmp_path: Path) -> None:
    """The query's refusal is not what protects: a train request that comes all the same fails."""
    wanted = {"privacy.noise-multiplier": 0.3, "privacy.epsilon": 9999.0, **change}

    def check(one: Guard) -> None:
        assert code(one, request(config=wanted)) == "policy"
        assert one.ledger.steps("run-1") == 0

    check(guard(tmp_path, POLICY.replace("120.0", "5.0")))
    goes_red(check, guard(tmp_path, POLICY.replace("120.0", "1e9")))


def test_the_limit_ends_what_leaves_over_all_runs(tmp_path: Path) -> None:
    one = guard(tmp_path, POLICY.replace("120.0", "30.0"))
    answers = [code(one, request(run=f"run-{n}")) for n in range(8)]
    assert answers[0] == ""
    assert answers[-1] == "policy"
    assert answers == sorted(answers)  # once there is no room there is none again


def test_noise_that_the_app_could_draw_itself_is_refused(tmp_path: Path) -> None:
    def check(one: Guard) -> None:
        known = {"privacy.reproducible-noise": True, "run.seed": 1}
        for kind in ("train", "evaluate"):
            assert code(one, request(kind, config=known)) == "policy"

    check(guard(tmp_path))
    goes_red(check, guard(tmp_path, POLICY + "allow-reproducible-noise = true\n"))


def test_the_seed_of_a_request_does_not_fix_the_noise(tmp_path: Path) -> None:
    one = guard(tmp_path)
    first = ask(one, request(config={"run.seed": 3}, run="a"))[1]
    other = ask(one, request(config={"run.seed": 3}, run="b"))[1]
    assert not any(torch.equal(first[n], other[n]) for n in first)


@pytest.mark.parametrize(
    "change",
    [
        {"round_number": 0},
        {"round_number": 3},
        {"round_number": 1, "model": model(5)},
        {"round_number": 2, "model": model(5)},
    ],
    ids=["zero", "beyond the plan", "back", "again with another model"],
)
def test_a_round_that_is_not_the_next_gets_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request()) == ""
    assert code(one, request(round_number=2, model=model(1))) == ""
    spent = one.ledger.steps("run-1")
    assert code(one, request(**change)) == "plan"
    assert one.ledger.steps("run-1") == spent


def test_a_run_cannot_be_asked_for_more_steps_than_it_began_with(tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request()) == ""
    for more in ({"train.rounds": 3}, {"train.local-epochs": 2.0}, {"privacy.epsilon": 31.0}):
        assert code(one, request(round_number=2, model=model(1), config=more)) == "ledger"
    assert one.ledger.steps("run-1") == 7


@pytest.mark.parametrize("run", ["../ledger", "run-1/evaluation", "a b", "", "x" * 200, "a:b"])
def test_a_run_name_that_is_the_ledgers_own_gets_nothing(run: str, tmp_path: Path) -> None:
    assert code(guard(tmp_path), request(run=run)) == "frame"


def no_data(*_: object) -> None:
    raise AssertionError("data were touched")


def test_a_model_with_arrays_left_out_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier round trained, without noise, is still in the process's model.

    And it is refused before any data are read, which a clock would tell.
    """

    def check(one: Guard, wanted: dict[str, torch.Tensor]) -> None:
        arm = {"privacy.arm": "local-update"}
        assert code(one, request("evaluate", config=arm, model=wanted)) == "mismatch"

    one, whole = guard(tmp_path), model()
    check(one, {name: value for name, value in whole.items() if name != "0.weight"})
    check(one, whole | {"0.weight": torch.zeros(2)})
    check(one, whole | {"extra": torch.zeros(2)})
    goes_red(check, one, whole)
    monkeypatch.setattr(hospital, "hospital_for", no_data)
    assert code(one, request(model=whole | {"extra": torch.zeros(2)})) == "mismatch"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_costs_nothing(value: float, tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request(model=model() | {"0.bias": torch.full((4,), value)})) == "not-finite"
    assert one.ledger.steps("run-1") == 0


PLACES = {
    "data.source": "table",
    "data.path": "/etc/passwd",
    "data.images": "/etc",
    "data.patients": 999,
    "data.seed": 5,
    "data.split": "patient",
    "data.validation-fraction": 0.01,
    "data.test-fraction": 0.01,
    "data.partition": "even",
    "data.columns.label": "secret",
    "data.unknown-patients": "leave-out",
    "model.weights": "/home/app/weights.pth",
    "run.out": "/tmp/elsewhere",
    "run.ledgers": "/tmp/fresh",
    "run.policies": "/tmp/mild",
    "run.sites": "/tmp/mine",
    "run.pretrained": "/tmp/weights.pth",
    "run.device": "cuda",
    "run.threads": 64,
    "run.trackers": "mlflow",
}


def test_a_request_names_no_file_and_no_machine_of_the_site(tmp_path: Path) -> None:
    honest = guard(tmp_path)
    plain = site_settings(honest.site, CONFIG).used
    lying = site_settings(honest.site, CONFIG | PLACES).used
    assert lying.data == plain.data
    assert lying.run == plain.run
    assert (plain.data.sites, plain.data.patients, plain.run.device) == ("st-mary", 80, "cpu")
    assert not [v for v in lying.to_flat().values() if isinstance(v, str) and "/" in v]
    assert ask(honest, request(config=PLACES))[1]
    assert not Path("/tmp/elsewhere").exists()
    assert one_budget(honest)


def one_budget(one: Guard) -> bool:
    """All that was spent is in the site's own ledger."""
    return one.ledger.steps("run-1") > 0 and one.policy.limit == Limit(120.0, 1e-3)


def test_the_sites_own_values_win_where_they_are_stricter(tmp_path: Path) -> None:
    own = SITE + '"privacy.epsilon" = 2.0\n"privacy.arm" = "local-update"\n'
    own += '"train.batch-size" = 4\n"privacy.noise-multiplier" = 1.5\n'
    site = guard(tmp_path, site=own).site
    used = site_settings(site, CONFIG).used
    assert (used.privacy.epsilon, used.train.batch_size) == (2.0, 4)
    assert (used.privacy.arm, used.privacy.noise_multiplier) == ("local-update", 1.5)
    milder = site_settings(site, CONFIG | {"privacy.epsilon": 0.5}).used
    assert milder.privacy.epsilon == 0.5
    refuses(lambda: site_settings(site, CONFIG | {"privacy.arm": "central-fixed"}), "server's")


def test_a_site_that_is_stricter_says_so_when_it_joins(tmp_path: Path) -> None:
    one = guard(tmp_path, site=SITE + '"privacy.epsilon" = 9.0\n')
    joining = ask(one, request("query"))[0]["joining"]
    assert joining["own"] == {"privacy.epsilon": 9.0}
    first = dict(one.ledger.rows()[0].body) if one.ledger.path.exists() else {}
    assert first == {}  # to be asked spends nothing
    assert code(one, request()) == ""


def test_histograms_of_a_second_model_are_not_had_for_the_same_money(tmp_path: Path) -> None:
    one = guard(tmp_path)
    first = ask(one, request("evaluate"))[1]
    again = ask(one, request("evaluate"))[1]
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert code(one, request("evaluate", model=model(3))) == "budget"
    assert code(one, request("evaluate", edges=(0.0,))) == "budget"


def test_an_app_of_another_version_gets_nothing(tmp_path: Path) -> None:
    assert code(guard(tmp_path), request(version="0.0.1")) == "version"


def test_only_a_bundle_that_the_policy_names_may_run(tmp_path: Path) -> None:
    good, bad = "a" * 64, "b" * 64
    one = guard(tmp_path, POLICY + f'apps = ["{good}"]\n')
    assert code(one, request("app", app=good)) == ""
    assert code(one, request("app", app=bad)) == "app"
    assert [line["app"] for line in lines(one)] == [good, good, bad, bad]
    assert code(guard(tmp_path), request("app", app=bad)) == ""  # a policy without a list


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("public-size = 40\n", ("maximum-epsilon",)),
        ('public-size = 40\narms = ["none", "dp-sgd"]\n', ("maximum-epsilon",)),
        ("maximum-epsilon = 3.0\n", ("public-size",)),
        (POLICY + 'apps = ["abc"]\n', ("apps", "SHA-256")),
        (POLICY + "magic = 1\n", ("unknown key 'magic'",)),
    ],
)
def test_a_policy_that_limits_nothing_makes_no_guard(
    policy: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    refuses(lambda: guard(tmp_path, policy), "policy.toml", *words)


def test_every_request_refusal_and_release_is_a_line_and_no_line_is_about_patients(
    tmp_path: Path,
) -> None:
    one = guard(tmp_path)
    ask(one, request("query"))
    ask(one, request())
    ask(one, request(config={"privacy.arm": "none"}))
    ask(one, request("evaluate"))
    one.answer({"kind": "?"}, b"", 1000)
    told = [(line["what"], line.get("kind"), line.get("code")) for line in lines(one)]
    for kind in ("query", "train", "evaluate"):
        assert ("request", kind, None) in told
        assert ("answered", kind, None) in told
    assert ("refused", "train", "policy") in told
    assert ("refused", None, "frame") in told
    known = {
        "what", "kind", "peer", "run", "run-id", "round", "arm", "code", "bytes", "reason", "steps",
        "account", "rows", "head", "previous", "hash", "time",
    }  # fmt: skip
    assert {key for line in lines(one) for key in line} <= known
    text = one.ledger.log.path.read_text()
    site = read_site(tmp_path / "site.toml")
    table = hospital.member_shard(site_settings(site, CONFIG).used, "st-mary").table
    assert not [name for name in table["patient_id"].astype(str) if f'"{name}"' in text]


def test_without_an_audit_log_nothing_leaves(tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request("query")) == ""
    path = one.ledger.log.path
    text = path.read_text().splitlines()
    text[-1] = json.dumps(json.loads(text[-1]) | {"peer": 3})
    path.write_text("\n".join(text) + "\n")
    assert code(one, request()) == "ledger"
    assert code(one, request("query")) == "ledger"


def test_what_fails_inside_leaves_as_a_code_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "patient-17 is 93 years old"

    def fail(*_: object) -> None:
        raise RuntimeError(secret)

    one = guard(tmp_path)
    monkeypatch.setattr(hospital.Hospital, "train", fail)
    assert code(one, request()) == "internal"
    assert secret not in one.ledger.log.path.read_text()
    monkeypatch.setattr(hospital.Hospital, "train", lambda *_: bytes(10**18))
    assert code(one, request()) == "memory"
