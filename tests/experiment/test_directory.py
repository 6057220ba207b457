"""A run's files: another run's folder is refused, half a line is dropped, a checkpoint is whole."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from support import goes_red, make, refuses
from torch import Tensor

from fedmed.experiment import directory as run_directory
from fedmed.experiment.directory import RunDirectory

MODELS = {
    "hospital-2": {"z.weight": torch.randn(3, 2), "a.bias": torch.randn(4), "m": torch.ones(())},
    "hospital-1": {"z.weight": torch.randn(3, 2), "a.bias": torch.randn(4), "m": torch.zeros(())},
}


def test_the_same_settings_open_the_folder_again(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").open(make(), "arm")
    RunDirectory(tmp_path / "run").open(make(), "arm")
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["arm"], written["seed"]) == ("arm", 0)
    assert written["config"]["data.image-size"] == 16


@pytest.mark.parametrize(
    "changes",
    [{"train.rounds": 9}, {"privacy.epsilon": 1.5}, {"run.seed": 4}, {"data.patients": 77}],
)
def test_other_settings_are_refused_by_key(tmp_path: Path, changes: dict[str, object]) -> None:
    directory = RunDirectory(tmp_path)
    directory.open(make(), "arm")
    (key,) = changes
    refuses(
        lambda: directory.open(make().replaced(changes), "arm"),
        str(tmp_path),
        key,
        repr(changes[key]),
        "choose another --out",
    )
    directory.open(make(), "arm")


def test_the_place_of_a_run_may_change(tmp_path: Path) -> None:
    RunDirectory(tmp_path).open(make(), "arm")
    moved = make().replaced({"run.out": "elsewhere", "run.threads": 3, "run.device": "cpu"})
    RunDirectory(tmp_path).open(moved, "arm")


def test_a_half_written_line_of_the_history_is_dropped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.history() == []
    entries = [{"round": 0, "auroc": 0.5}, {"round": 1, "auroc": None}]
    directory.write_history(entries)
    assert directory.history() == entries
    path = tmp_path / "history.jsonl"
    text = path.read_text()
    for cut in range(len(text) - 1, text.index("\n") + 1, -1):
        path.write_text(text[:cut])
        assert directory.history() in (entries[:1], entries)
    path.write_text(text + '{"round": 2, "aur')
    assert directory.history() == entries


def check_order(arrays: dict[str, dict[str, Tensor]]) -> None:
    assert [list(m) for m in arrays.values()] == [list(m) for m in MODELS.values()]
    assert list(arrays) == list(MODELS)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.load_checkpoint() is None
    directory.save_checkpoint(3, MODELS, 2)
    loaded = directory.load_checkpoint()
    assert loaded is not None
    assert loaded[:2] == (3, 2)
    assert loaded[2].keys() == MODELS.keys()
    for owner, arrays in MODELS.items():
        assert all(torch.equal(loaded[2][owner][name], v) for name, v in arrays.items())
    directory.drop_checkpoint()
    assert directory.load_checkpoint() is None
    directory.drop_checkpoint()


def test_the_order_of_arrays_survives_so_that_resumed_noise_is_the_same(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(1, MODELS, 0)
    for _ in range(5):
        loaded = directory.load_checkpoint()
        assert loaded is not None
        check_order(loaded[2])
    goes_red(check_order, {o: dict(sorted(m.items())) for o, m in MODELS.items()})


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, part: float) -> None:
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(1, MODELS, 0)
    path = tmp_path / "checkpoint.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refuses(directory.load_checkpoint, str(path), "damaged", "run again")


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(1, MODELS, 0)

    def full(*_: object) -> None:
        text = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise SafetensorError(text)  # word for word what a full file system gives

    monkeypatch.setattr(run_directory, "save_file", full)
    refuses(lambda: directory.save_checkpoint(2, MODELS, 0), "checkpoint", "disk is full")
    loaded = directory.load_checkpoint()
    assert loaded is not None
    assert loaded[0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_the_checkpoints_before_the_last_stay_and_are_few(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for number in range(12):  # round-10 is later than round-9, whatever letters say
        directory.keep_earlier()
        directory.save_checkpoint(number, {"global": {"w": torch.full((1,), float(number))}}, 0)
    kept = sorted(path.name for path in (tmp_path / "earlier").iterdir())
    assert kept == ["round-10.safetensors", "round-8.safetensors", "round-9.safetensors"]
    (tmp_path / "checkpoint.safetensors").write_bytes(
        (tmp_path / "earlier" / "round-9.safetensors").read_bytes()
    )
    loaded = directory.load_checkpoint()
    assert loaded is not None
    assert loaded[0] == loaded[2]["global"]["w"].item() == 9
    directory.drop_checkpoint(earlier=False)
    assert (tmp_path / "earlier").exists()
    directory.drop_checkpoint()
    assert not (tmp_path / "earlier").exists()


def test_without_links_earlier_checkpoints_are_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.link", no_links)
    directory = RunDirectory(tmp_path)
    directory.save_checkpoint(4, MODELS, 2)
    directory.keep_earlier()
    kept = tmp_path / "earlier" / "round-4.safetensors"
    assert kept.read_bytes() == (tmp_path / "checkpoint.safetensors").read_bytes()


def test_updates_that_waited_before_a_crash_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{run_directory.WAITING}abc").mkdir()
    RunDirectory(tmp_path).start()
    assert not list(tmp_path.iterdir())


def test_a_run_is_finished_when_it_has_its_result(tmp_path: Path) -> None:
    assert not RunDirectory(tmp_path).finished
    (tmp_path / "result.json").write_text("{}")
    assert RunDirectory(tmp_path).finished


def test_owners_whose_names_hold_a_slash_come_back_whole(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    models = {
        "St Mary/East": {"conv.weight": torch.ones(2)},
        "St Mary": {"fc.bias": torch.zeros(1)},
    }
    directory.save_checkpoint(3, models, 2)
    kept = directory.load_checkpoint()
    assert kept is not None
    assert {owner: list(arrays) for owner, arrays in kept[2].items()} == {
        "St Mary/East": ["conv.weight"],
        "St Mary": ["fc.bias"],
    }


def test_the_selected_model_is_the_one_that_the_checkpoint_names(tmp_path: Path) -> None:
    """A crash between keeping round 2's model and the checkpoint leaves both; round 1 counts."""
    directory = RunDirectory(tmp_path)
    for number in (1, 2):
        arrays = {"global": {"w": torch.full((1,), float(number))}}
        directory.selected(number).save_checkpoint(number, arrays, number)
    kept = directory.selected(1).load_checkpoint()
    assert kept is not None
    assert kept[2]["global"]["w"].item() == 1
    directory.keep_selected(2)
    assert [p.name for p in (tmp_path / "selected").iterdir()] == ["round-2"]
    directory.drop_checkpoint()
    assert not (tmp_path / "selected").exists()
