"""A deployed federation: sites with data, settings and faults of their own, no image here."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, MessageType
from safetensors.torch import load_file
from support import goes_red, half_frozen_network, make, refuses
from support.sites import SITES, SiteGrid, joined, make_site

import fedmed.hospital.hospital
import fedmed.models
from fedmed import __version__
from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.coordinator import joining
from fedmed.coordinator.central import CentralGaussian
from fedmed.coordinator.coordinator import coordinate
from fedmed.data import network
from fedmed.federation import messages
from fedmed.privacy.statement.contents import check as check_statement
from fedmed.site import own_settings

A, B, C = SITES


@pytest.fixture(autouse=True)
def _tiny(tiny_hospitals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_POLL", 0.01)
    monkeypatch.setattr(joining, "_ASK_AGAIN", 0.01)


def asked(arm: str = "none", **changes: Any) -> Settings:
    """What the researcher asks of three sites."""
    flat = {
        "data.sites": ", ".join(SITES),
        "data.hospitals": 3,
        "evaluation.where": "hospitals",
        "evaluation.resamples": 100,
        "train.rounds": 2,
        "train.local-epochs": 1,
        "train.batch-size": 8,
        "train.join-timeout": 0.2,
        "train.timeout": 5,
        "privacy.arm": arm,
        "privacy.delta": 1e-3,
        "privacy.reproducible-noise": False,
    }
    return make().replaced(flat | changes)


def federation(folder: Path, settings: Settings, **own: str) -> SiteGrid:
    """Three sites; ``b`` = lines of the second one's own settings."""
    files = {name: make_site(folder, name, settings=own.get(name[0], "")) for name in SITES}
    return SiteGrid(files, settings.to_flat())


def read(folder: Path, name: str = "privacy.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def failures(folder: Path) -> list[list[tuple[str, str]]]:
    """Of each round."""
    return [[(f["hospital"], f["code"]) for f in line["failures"]] for line in history(folder)[1:]]


# The server has no data.


def test_the_coordinator_reads_no_image_and_plans_from_what_sites_declare(tmp_path: Path) -> None:
    settings = asked("dp-sgd")
    result = coordinate(federation(tmp_path, settings), settings, tmp_path / "run")
    told = read(tmp_path / "run")
    check_statement(told)
    members = {m["hospital"]: m for m in told["hospitals"]}
    assert list(members) == list(SITES)
    assert {m["size"] for m in members.values()} == {36}, "the declared size, not the exact one"
    assert all(m["size_declared"] and m["sampling_rate"] == 8 / 36 for m in members.values())
    assert members[A]["guarantee"] is None
    assert result["cohort"] == f"of {A}, {B}, {C}"
    assert result["metrics"]["hospitals"] == list(SITES)
    assert not (tmp_path / "run" / "predictions.parquet").exists()
    refuses(lambda: network.load_network(settings.data), "data.sites", A)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluation.where": "server"}, ["evaluation.where", "use 'hospitals'"]),
        ({"data.hospitals": 4}, ["data.hospitals", "set data.hospitals = 3"]),
        ({"train.scheme": "pooled"}, ["train.scheme", "'federated'"]),
        ({"privacy.public-size": "50"}, ["privacy.public-size", "remove it"]),
        ({"data.sites": "a, b, a"}, ["data.sites", "'a' is named twice"]),
        ({"data.sites": "a, b, pooled"}, ["data.sites", "'pooled'"]),
    ],
)
def test_settings_that_a_deployed_federation_cannot_have(
    change: dict[str, Any], words: list[str]
) -> None:
    refuses(lambda: asked(**change), *words)


def test_data_of_the_coordinators_own_are_refused(tmp_path: Path) -> None:
    for key in ("run.policies", "run.sites"):
        settings = asked(**{key: str(tmp_path)})
        refuses(partial(own_settings.check_coordinator, settings), key, "remove it")


def test_a_site_without_a_declared_size_is_refused(tmp_path: Path) -> None:
    settings = asked("dp-sgd")
    grid = federation(tmp_path, settings)
    (tmp_path / B / "policy.toml").write_text("allow-reproducible-noise = true\n")
    refuses(
        lambda: coordinate(grid, settings, tmp_path / "run"),
        f"{B} did not join",
        "plan",
        error=RunError,
    )
    refuses(lambda: own_settings.declared_plan(settings, B, 0), B, "public-size")


# Settings of a site's own.

LAPLACE = '"privacy.arm" = "pixel-laplace"\n"privacy.epsilon" = 4.0'


def test_each_hospitals_own_guarantee_is_told_where_arms_are_mixed(tmp_path: Path) -> None:
    settings = asked("dp-sgd", **{"evaluation.epsilon": 4.0})
    coordinate(federation(tmp_path, settings, b=LAPLACE), settings, tmp_path / "run")
    told = read(tmp_path / "run")
    check_statement(told)
    assert told["epsilon"] is None
    assert told["unit"] == "none"
    own = {
        m["hospital"]: (m["guarantee"]["arm"], m["guarantee"]["unit"]) for m in told["hospitals"]
    }
    assert own == {
        A: ("dp-sgd", "patient"),
        B: ("pixel-laplace", "image"),
        C: ("dp-sgd", "patient"),
    }
    epsilons = {m["hospital"]: m["epsilon"] for m in told["hospitals"]}
    assert epsilons[B] == pytest.approx(4.0)
    assert 7 < epsilons[A] <= 8
    for words in (f"{B} (pixel-laplace) protects one image", f"{A} (dp-sgd) protects one patient"):
        assert words in told["summary"]
    assert "protects nobody" not in told["summary"]


def test_a_stricter_epsilon_of_a_hospitals_own_is_its_own(tmp_path: Path) -> None:
    settings = asked("dp-sgd", **{"evaluation.epsilon": 4.0})
    grid = federation(tmp_path, settings, c='"privacy.epsilon" = 2.0')
    coordinate(grid, settings, tmp_path / "run")
    told = read(tmp_path / "run")
    epsilons = {m["hospital"]: m["epsilon"] for m in told["hospitals"]}
    assert 1.8 < epsilons[C] <= 2 < 7 < epsilons[A] <= 8
    assert told["epsilon"] == max(epsilons.values()), "the worst is the run's"


def test_the_same_settings_of_ones_own_in_a_simulation(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "hospital-2.toml").write_text(LAPLACE)
    data = {"hospitals": 2, "patients": 60}
    privacy = {"arm": "dp-sgd", "delta": 1e-3}
    train = {"rounds": 1, "local-epochs": 1, "batch-size": 8}
    settings = make(data=data, privacy=privacy, train=train, run={"sites": str(folder)})
    from fedmed.launch import run_inline

    run_inline(settings, tmp_path / "run", "dp-sgd", lambda *_: None)
    own = {m["hospital"]: m["guarantee"]["arm"] for m in read(tmp_path / "run")["hospitals"]}
    assert own == {"hospital-1": "dp-sgd", "hospital-2": "pixel-laplace"}


@pytest.mark.parametrize(
    ("arm", "own", "words"),
    [
        ("dp-sgd", {"privacy.epsilon": 9.0}, ["privacy.epsilon = 9", "weaker"]),
        ("dp-sgd", {"privacy.delta": 9e-3}, ["privacy.delta = 0.009", "weaker"]),
        ("dp-sgd", {"privacy.arm": "none"}, ["the arm none", "adds no noise"]),
        ("none", {"privacy.arm": "central-fixed"}, ["central-fixed"]),
        ("central-fixed", {"privacy.arm": "dp-sgd"}, ["central-fixed", "the server's"]),
        ("dp-sgd", {"train.rounds": 9}, ["train.rounds", "not a hospital's own"]),
    ],
)
def test_a_weaker_setting_or_noise_that_cannot_be_mixed_is_refused(
    arm: str, own: dict[str, Any], words: list[str]
) -> None:
    refuses(lambda: own_settings.check_own(asked(arm), own, B), B, *words)
    own_settings.check_own(asked("dp-sgd"), {"privacy.epsilon": 7.0}, B)


def test_a_hospital_that_protects_itself_sends_no_exact_histograms(tmp_path: Path) -> None:
    """Rule 3: under an arm of its own a hospital's counts are noised, or do not leave."""
    settings = asked("none")
    own = '"privacy.arm" = "dp-sgd"'
    result = coordinate(federation(tmp_path, settings, b=own), settings, tmp_path / "run")
    assert result["metrics"]["hospitals"] == [A, C]

    def check(used: Settings) -> None:
        assert own_settings.against_evaluation(settings, used)

    check(settings.replaced({"privacy.arm": "dp-sgd"}))
    goes_red(check, settings)


def test_what_a_hospital_declared_stays_for_the_whole_run(tmp_path: Path) -> None:
    settings = asked("dp-sgd", **{"train.rounds": 1})
    run = tmp_path / "run"
    coordinate(federation(tmp_path / "1", settings), settings, run)
    (run / "result.json").unlink()
    grid = federation(tmp_path / "2", settings, b='"privacy.epsilon" = 2.0')
    refuses(
        lambda: coordinate(grid, settings, run), B, "joined this run with", "2.0", error=RunError
    )


# Faults.


def going_on(arm: str = "none", **changes: Any) -> Settings:
    return asked(arm, **{"train.on-failure": "continue", "train.minimum-hospitals": 2, **changes})


def test_another_version_is_refused_with_both_named(tmp_path: Path) -> None:
    def old(name: str, message: Message, reply: Message) -> Message:
        if name != B or message.metadata.message_type != MessageType.QUERY:
            return reply
        told = dataclasses.replace(joined(reply), version="0.1.9")
        return Message(messages.join_content(told), reply_to=message)

    settings = asked()
    grid = federation(tmp_path, settings)
    grid.meddle = old
    refuses(
        lambda: coordinate(grid, settings, tmp_path / "run"),
        f"{B} runs fedmed 0.1.9",
        f"the server {__version__}",
        error=RunError,
    )
    settings = going_on()
    grid = federation(tmp_path / "2", settings)
    grid.meddle = old
    coordinate(grid, settings, tmp_path / "run-2")
    assert failures(tmp_path / "run-2") == [[(B, "absent")]] * 2


def test_too_few_who_join_stop_the_run_with_a_state_and_it_goes_on(tmp_path: Path) -> None:
    settings = asked()
    grid = federation(tmp_path, settings)
    grid.present = {A, C}
    run = tmp_path / "run"
    refuses(
        lambda: coordinate(grid, settings, run),
        f"{B} did not join within train.join-timeout = 0.2 s",
        error=RunError,
    )
    state = read(run, "stopped.json")
    assert (state["rounds"], state["present"], state["absent"]) == (0, [A, C], [B])
    assert B in state["reason"]
    grid.present.add(B)
    coordinate(grid, settings, run)
    assert not (run / "stopped.json").exists()
    settings = going_on(**{"train.minimum-hospitals": 3})
    grid = federation(tmp_path / "2", settings)
    grid.present = {A, C}
    refuses(
        lambda: coordinate(grid, settings, tmp_path / "run-2"),
        "2 of 3 hospitals",
        "train.minimum-hospitals = 3",
        error=RunError,
    )


def test_a_hospital_that_joins_late_trains_from_the_next_round(tmp_path: Path) -> None:
    settings = going_on(**{"train.rounds": 3})
    grid = federation(tmp_path, settings)
    grid.present = {A, C}

    def arrive(number: int, rounds: int, auroc: float | None) -> None:
        if number == 1:
            grid.present.add(B)

    # The query is answered while round 2 goes on; from round 3 the hospital is there for sure.
    coordinate(grid, settings, tmp_path / "run", on_round=arrive)
    found = failures(tmp_path / "run")
    assert found[0] == [(B, "absent")]
    assert found[2] == []
    assert [line["hospitals"] for line in history(tmp_path / "run")][1::2] == [2, 3]


def test_a_hospital_that_leaves_or_answers_too_late_is_missed_for_that_round(
    tmp_path: Path,
) -> None:
    settings = going_on("local-update", **{"train.timeout": 0.3})
    grid = federation(tmp_path, settings)

    def late(name: str, message: Message, reply: Message) -> Message | None:
        training = message.metadata.message_type == MessageType.TRAIN
        return None if training and name == B and message.metadata.group_id == "1" else reply

    grid.meddle = late
    coordinate(grid, settings, tmp_path / "run")
    assert failures(tmp_path / "run") == [[(B, "no-answer")], []]
    told = {m["hospital"]: m for m in read(tmp_path / "run")["hospitals"]}
    # What it released and nobody used is spent all the same.
    assert told[B]["steps"] == told[A]["steps"] == 2


def test_a_restarted_hospital_has_a_new_node_and_its_old_ledger(tmp_path: Path) -> None:
    settings = going_on("local-update")
    grid = federation(tmp_path, settings)

    def restart(number: int, rounds: int, auroc: float | None) -> None:
        if number == 1:
            fedmed.hospital.hospital.hospital_for.cache_clear()
            grid.numbers[B] = 9

    coordinate(grid, settings, tmp_path / "run", on_round=restart)
    assert failures(tmp_path / "run") == [[], []]
    ledger = fedmed.hospital.hospital.Ledger(tmp_path / B / "ledger.sqlite")
    assert sum(1 for _ in ledger.rows()) >= 2


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    settings = asked()
    grid = federation(tmp_path, settings)
    grid.meddle = lambda name, message, reply: (
        Message(
            messages.join_content(dataclasses.replace(joined(reply), hospital=A)), reply_to=message
        )
        if message.metadata.message_type == MessageType.QUERY
        else reply
    )
    refuses(
        lambda: coordinate(grid, settings, tmp_path / "run"),
        f"two nodes call themselves '{A}'",
        error=RunError,
    )


@pytest.mark.parametrize("kind", ["NaN", "shape", "names"])
def test_an_update_that_is_not_finite_or_not_of_the_form_changes_nothing(
    kind: str, tmp_path: Path
) -> None:
    settings = going_on(**{"train.rounds": 1})

    def broken(name: str, message: Message, reply: Message) -> Message:
        if name != B or message.metadata.message_type != MessageType.TRAIN:
            return reply
        arrays = messages.decode_arrays(reply.content.array_records["update"])
        last = list(arrays)[-1]  # the others would be folded in before it is seen
        if kind == "NaN":
            arrays[last].view(-1)[-1] = float("nan")
        elif kind == "shape":
            arrays[last] = torch.zeros(3)
        else:
            del arrays[last]
        reply.content["update"] = messages.encode_arrays(arrays)
        return reply

    grid = federation(tmp_path, settings)
    grid.meddle = broken
    coordinate(grid, settings, tmp_path / "run")
    assert failures(tmp_path / "run") == [[(B, "bad-update")]]
    without = federation(tmp_path / "2", settings)
    without.present = {A, C}
    coordinate(without, settings, tmp_path / "run-2")
    mine, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("run", "run-2"))
    for name, value in mine.items():
        assert torch.equal(value, theirs[name])
        assert np.isfinite(value.numpy()).all()


def test_central_noise_is_whole_when_hospitals_drop_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise and divisor are those of three hospitals planned, though two answer."""
    seen: list[tuple[float, int]] = []
    real = CentralGaussian._step

    def spy(self: CentralGaussian, mean: dict[str, torch.Tensor]) -> None:
        seen.append((self.plan.noise_standard_deviation, self.plan.hospitals))
        real(self, mean)

    monkeypatch.setattr(CentralGaussian, "_step", spy)
    settings = going_on("central-fixed", **{"privacy.delta": 1e-2})
    for number, present in enumerate([set(SITES), {A, C}]):
        grid = federation(tmp_path / str(number), settings)
        grid.present = present
        coordinate(grid, settings, tmp_path / f"run-{number}")
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0][1] == 3


def test_only_trainable_parameters_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network with a frozen first layer the rest alone comes back, as float32."""

    monkeypatch.setattr(fedmed.models, "build", half_frozen_network)
    settings = going_on(**{"train.rounds": 1})
    grid = federation(tmp_path, settings)
    sent: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def weigh(name: str, message: Message, reply: Message) -> Message:
        if message.metadata.message_type == MessageType.TRAIN:
            records = (
                message.content.array_records["model"],
                reply.content.array_records["update"],
            )
            sent.append(tuple({n: a.dtype for n, a in r.items()} for r in records))  # type: ignore[arg-type]  # arrays alone are recorded
        return reply

    grid.meddle = weigh
    coordinate(grid, settings, tmp_path / "run")
    trained = dict.fromkeys(["1.weight", "1.bias", "4.weight", "4.bias"], "float32")
    assert sent == [(trained, trained)] * 3
