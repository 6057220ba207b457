"""Shards: decoded once, keyed by content, safe for two processes, whole or not there at all."""

import errno
import io
import multiprocessing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import goes_red, refuses

from fedmed.data import form as module
from fedmed.data.cohort import Cohort, validate
from fedmed.data.form import Form
from fedmed.data.shard import Shard, load_shard, shard_key
from fedmed.data.stores import ArrayStore


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def cohort(seed: int = 0, count: int = 6) -> Cohort:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 24, 20), dtype=np.uint8)
    table = pd.DataFrame(
        {
            "image": [f"x/{row}" for row in range(count)],
            "label": [row % 2 for row in range(count)],
            "patient_id": [f"p{row // 2}" for row in range(count)],
        }
    )
    return Cohort("made", validate(table, "made"), ArrayStore({"x": pixels}))


def test_images_are_a_read_only_memory_map_of_uint8() -> None:
    shard = load_shard(cohort(), Form(16))
    assert isinstance(shard.images, np.memmap)
    assert (shard.images.dtype, shard.images.shape) == (np.uint8, (6, 16, 16))
    with pytest.raises(ValueError, match="read-only"):
        shard.images[0, 0, 0] = 1
    assert shard.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert shard.labels.dtype == np.float32
    expected = module.to_square(cohort().images.read("x/3"), 16)
    np.testing.assert_array_equal(shard.images[3], expected)


def test_a_shard_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_shard(cohort(), Form(16))

    def never(image: object, size: int) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "to_square", never)
    again = load_shard(cohort(), Form(16))
    np.testing.assert_array_equal(first.images, again.images)
    goes_red(load_shard, cohort(1), Form(16))


def test_the_key_follows_content_size_and_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(first: str, second: str) -> None:
        assert first != second

    key = shard_key(cohort(), Form(16))
    assert key == shard_key(cohort(), Form(16))
    changed = cohort()
    changed.images.arrays["x"][5, 0, 0] ^= 1  # type: ignore[attr-defined]  # a shard of volumes
    check(key, shard_key(changed, Form(16)))
    check(key, shard_key(cohort(), Form(17)))
    relabelled = cohort().table.assign(label=0)
    check(key, shard_key(cohort().with_table(relabelled), Form(16)))
    goes_red(check, key, shard_key(cohort(), Form(16)))
    monkeypatch.setattr(module, "PREPROCESSING", "another")
    check(key, shard_key(cohort(), Form(16)))


def test_two_processes_at_once_make_one_shard(home: Path) -> None:
    made = cohort(count=400)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(partial(load_shard, made), [Form(16), Form(16)], chunksize=1)
    np.testing.assert_array_equal(first.images, second.images)
    folder = home / "cache" / "shards"
    assert [p.name for p in folder.iterdir()] == [f"{first.key}-2"], "nothing else is left"
    np.testing.assert_array_equal(first.images, load_shard(made, Form(16)).images)


class Full(io.BytesIO):
    """A file on a disk that is full after 200 bytes."""

    def write(self, data: object) -> int:
        if self.tell() > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]  # as os.write takes them


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def opened(path: Path, mode: str = "r", *rest: object, **named: object) -> object:
        full = path.name == "images.npy" and "w" in mode
        return Full() if full else real(path, mode, *rest, **named)  # type: ignore[call-overload]  # every overload is passed on

    monkeypatch.setattr(Path, "open", opened)


def test_a_full_disk_is_named_and_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch)
        refuses(lambda: load_shard(cohort(), Form(16)), "cannot write", "disk is full")
    assert list((home / "cache" / "shards").iterdir()) == []
    assert len(load_shard(cohort(), Form(16))) == 6


def test_an_image_that_cannot_be_read_leaves_nothing(home: Path) -> None:
    broken = cohort()
    broken = broken.with_table(broken.table.assign(image=[f"x/{r}" for r in (0, 1, 2, 3, 4, 99)]))
    object.__setattr__(broken.images, "digest", lambda name: "known")
    refuses(lambda: load_shard(broken, Form(16)), "x/99")
    assert list((home / "cache" / "shards").iterdir()) == []


def test_patients_group_the_rows_of_their_images() -> None:
    table = pd.DataFrame({"label": [0, 1, 0, 1], "patient_id": ["b", "a", "b", "c"]})
    shard = Shard("k", np.zeros((4, 2, 2), dtype=np.uint8), table)
    assert [rows.tolist() for rows in shard.patients()] == [[0, 2], [1], [3]]
