"""What an interruption costs: no round is lost, nothing is spent unseen, the numbers stay."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import goes_red
from support.runs import ALL_ARMS, run, weights, written

import fedmed.coordinator.coordinator
import fedmed.hospital.hospital
import fedmed.hospital.rounds
from fedmed.base.errors import RunError
from fedmed.experiment.directory import RunDirectory
from fedmed.federation.members import epsilon_after

pytestmark = pytest.mark.usefixtures("tiny_hospitals")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The experiment of every arm."""
    return written(tmp_path, ALL_ARMS)


class Interrupted(BaseException):
    """A crash that nothing catches."""


def crash_in(monkeypatch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Let the ``call``-th call of a training function of the hospitals crash."""
    original = getattr(fedmed.hospital.rounds, function)
    calls = []

    def crashing(*arguments: Any) -> Any:
        if arguments[-2][:2] != ("rehearsal", 1):  # on images of nobody, before the first round
            calls.append(1)
        if len(calls) == call:
            raise Interrupted
        return original(*arguments)

    monkeypatch.setattr(fedmed.hospital.rounds, function, crashing)


@pytest.mark.parametrize(
    ("arm", "function", "options"),
    [
        ("none", "train_plain", []),
        ("dp-sgd", "train_private", ["privacy.reproducible-noise=true"]),
        ("local-update", "train_plain", ["privacy.reproducible-noise=true"]),
        ("central-fixed", "train_plain", ["privacy.reproducible-noise=true"]),
        ("central-adaptive", "train_plain", ["privacy.reproducible-noise=true"]),
        ("local-only", "train_plain", []),
        ("none", "train_plain", ["train.round-average=0.8"]),
        (
            "local-only",
            "train_plain",
            ["train.round-average=0.8", "train.server-optimizer=momentum"],
        ),
    ],
)
def test_an_interrupted_run_resumes_and_ends_with_the_same_numbers(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arm: str,
    function: str,
    options: list[str],
) -> None:
    (whole,) = run(file, tmp_path / "whole", arm, assignments=options)
    with monkeypatch.context() as patch:
        # Two hospitals: the fourth call is the second one's in round 2.
        crash_in(patch, function, 4)
        with pytest.raises(Interrupted):
            run(file, tmp_path / "cut", arm, assignments=options)
    assert not (tmp_path / "cut" / arm / "seed-0" / "result.json").exists()
    (resumed,) = run(file, tmp_path / "cut", arm, assignments=options)
    assert resumed["metrics"] == whole["metrics"]
    left = weights(tmp_path / "whole" / arm / "seed-0")
    right = weights(tmp_path / "cut" / arm / "seed-0")
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=0, atol=1e-6)


def test_no_round_after_an_interruption_tells_less_epsilon_than_the_ledgers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(out: Path) -> None:
        with monkeypatch.context() as patch:
            crash_in(patch, "train_private", 4)
            with pytest.raises(Interrupted):
                run(file, out, "dp-sgd")
        run(file, out, "dp-sgd")
        lines = (out / "dp-sgd/seed-0/history.jsonl").read_text().splitlines()
        told = [json.loads(line)["epsilon_spent"] for line in lines]
        assert told[1] > 0, "of the rounds before it everything is known"
        assert len(told) > 2
        assert told[2:] == [None] * (len(told) - 2)

    check(tmp_path / "a")
    monkeypatch.setattr(
        fedmed.coordinator.coordinator._Run,
        "_epsilon_spent",
        lambda self, number: epsilon_after(
            self.setup.settings, self.setup.participants.plans.values(), number
        ),
    )
    goes_red(check, tmp_path / "b")


def test_a_resumed_run_goes_on_with_the_clipping_norm_of_its_checkpoint(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["privacy.reproducible-noise=true", "privacy.clip-rate=3.0"]

    def norms(out: Path) -> list[float]:
        lines = (out / "central-adaptive/seed-0/history.jsonl").read_text().splitlines()
        return [json.loads(line)["clipping_norm"] for line in lines[1:]]

    def check(out: Path) -> None:
        with monkeypatch.context() as patch:
            crash_in(patch, "train_plain", 4)
            with pytest.raises(Interrupted):
                run(file, out, "central-adaptive", assignments=options)
        run(file, out, "central-adaptive", assignments=options)
        found = norms(out)
        assert len(found) == 3
        assert found == norms(tmp_path / "whole")

    run(file, tmp_path / "whole", "central-adaptive", assignments=options)
    assert norms(tmp_path / "whole")[0] == 1.0
    assert norms(tmp_path / "whole")[1] != 1.0
    check(tmp_path / "cut")
    monkeypatch.setattr(RunDirectory, "clipping_norm", lambda self: None)
    goes_red(check, tmp_path / "forgotten")


@pytest.mark.parametrize(
    ("arm", "function"), [("dp-sgd", "train_private"), ("local-update", "train_plain")]
)
def test_interruption_is_paid_for_and_never_exceeds_the_target(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, function: str
) -> None:
    """Fresh noise after a crash is a fresh spend: who paid it sits the last round out."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        crash_in(patch, function, 4)
        with pytest.raises(Interrupted):
            run(file, out, arm)
    (result,) = run(file, out, arm)
    assert result["rounds"] == result["rounds_planned"] == 3
    lines = (out / arm / "seed-0" / "history.jsonl").read_text().splitlines()
    failed = [json.loads(line)["failures"] for line in lines]
    assert failed == [[], [], [], [{"hospital": "hospital-2", "code": "budget"}]]
    assert result["epsilon"] <= 8
    privacy = json.loads((out / arm / "seed-0" / "privacy.json").read_text())
    taken = {h["hospital"]: h["steps"] for h in privacy["hospitals"]}
    planned = privacy["steps_planned"]
    # hospital-2 reserved round 2 twice; hospital-1's round 2 was answered from its ledger.
    assert max(taken.values()) == planned
    assert result["epsilon"] == pytest.approx(max(h["epsilon"] for h in privacy["hospitals"]))


@pytest.mark.parametrize(
    ("arm", "ledger"), [("dp-sgd", "hospital-1"), ("central-fixed", "server.central")]
)
def test_a_missing_ledger_is_charged_in_full_and_never_as_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, ledger: str
) -> None:
    """Whoever deletes a ledger before a resume, or keeps it elsewhere, gets no epsilon of 0.

    While its audit log is there, nothing goes on; where both are gone, the whole plan is charged.
    """
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        crash_in(patch, "train_private" if arm == "dp-sgd" else "train_plain", 5)
        with pytest.raises(Interrupted):
            run(file, out, arm)
    folder = out / arm / "seed-0"
    (out / "ledgers" / f"{ledger}.sqlite").unlink()
    fedmed.hospital.hospital.hospital_for.cache_clear()
    reason = "hospital-1: ledger|was deleted, cut short"
    with pytest.raises(RunError, match=reason):
        run(file, out, arm)
    assert not (folder / "result.json").exists()
    (out / "ledgers" / f"{ledger}.audit.jsonl").unlink()
    fedmed.hospital.hospital.hospital_for.cache_clear()
    (result,) = run(file, out, arm)
    privacy = json.loads((folder / "privacy.json").read_text())
    assert privacy["steps_taken"] == privacy["steps_planned"]
    assert 7.9 < result["epsilon"] <= 8


def test_a_crash_between_checkpoint_and_history_loses_no_round(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RunDirectory.save_checkpoint
    (whole,) = run(file, tmp_path / "whole", "none")

    def crash(self: RunDirectory, number: int, *rest: Any) -> None:
        original(self, number, *rest)
        if number == 2:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", crash)
        with pytest.raises(Interrupted):
            run(file, tmp_path / "cut", "none")
    (resumed,) = run(file, tmp_path / "cut", "none")
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["rounds"] == 3
    lines = (tmp_path / "cut/none/seed-0/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1, 2, 3]
    uncut = (tmp_path / "whole/none/seed-0/history.jsonl").read_text().splitlines()
    for line, other in zip(lines, uncut, strict=True):
        assert json.loads(line)["bytes_sent"] == json.loads(other)["bytes_sent"]
