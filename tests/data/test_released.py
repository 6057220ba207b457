"""Noised images are drawn once: every further draw would be another release."""

import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import SIZE, goes_red, refuses, tiny_shard

from fedmed.data.released import released_shard
from fedmed.data.shard import Shard
from fedmed.privacy.mechanisms.images import BrightnessShift, DPPix, PixelLaplace
from fedmed.privacy.mechanisms.noise import NoiseSource

LAPLACE = PixelLaplace(0.5, SIZE**2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def some_rows(shard: Shard, rows: list[int], key: str) -> Shard:
    """Another shard with some of the same images: another partition, say."""
    return Shard(key, shard.images[rows], shard.table.iloc[rows].reset_index(drop=True))


def check_one_release(first: Shard, second: Shard) -> None:
    assert first.images.tobytes() == second.images.tobytes()


def test_released_images_are_not_drawn_again() -> None:
    first = released_shard(tiny_shard(), LAPLACE, NoiseSource())
    check_one_release(first, released_shard(tiny_shard(), LAPLACE, NoiseSource()))
    assert first.images.dtype == np.float32
    assert isinstance(first.images, np.memmap)
    noise = np.asarray(first.images, dtype=np.float64) - tiny_shard().images / 255
    # Mean of 6144 absolute draws: five standard errors, false alarms below one in a million.
    assert abs(np.abs(noise).mean() - 0.5) < 5 * 0.5 / np.sqrt(noise.size)
    # Pitfall 23: drawn for every epoch.
    redrawn = LAPLACE.apply(np.asarray(tiny_shard().images), NoiseSource().numpy())
    goes_red(check_one_release, first, Shard("k", redrawn, first.table))


def test_another_partition_shows_the_same_noise_on_the_same_images() -> None:
    whole = tiny_shard()
    first = released_shard(whole, LAPLACE, NoiseSource())
    rows = [3, 20, 7]
    part = released_shard(some_rows(whole, rows, "other"), LAPLACE, NoiseSource())
    np.testing.assert_array_equal(part.images, first.images[rows])


def test_equal_images_get_noise_of_their_own() -> None:
    """The same noise on two equal images would show that they are equal."""
    shard = tiny_shard(2)
    same = replace(shard, images=shard.images[[0, 0]])
    noised = released_shard(same, LAPLACE, NoiseSource()).images
    assert not np.array_equal(noised[0], noised[1])


def test_another_process_gets_the_same_released_images(home: Path) -> None:
    here = np.array(released_shard(tiny_shard(), LAPLACE, NoiseSource()).images)
    shutil.rmtree(home / "cache")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from support import tiny_shard\n"
        "from fedmed.data.released import released_shard\n"
        "from fedmed.privacy.mechanisms.images import BrightnessShift, DPPix, PixelLaplace\n"
        "from fedmed.privacy.mechanisms.noise import NoiseSource\n"
        "shard = released_shard(tiny_shard(), PixelLaplace(0.5, 256), NoiseSource())\n"
        "sys.stdout.buffer.write(shard.images.tobytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == here.tobytes()


def test_requests_at_once_release_one_copy() -> None:
    def draw(_: int) -> bytes:
        return released_shard(tiny_shard(), LAPLACE, NoiseSource()).images.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(4)))) == 1


def test_another_scale_image_or_seed_is_another_release() -> None:
    first = released_shard(tiny_shard(), LAPLACE, NoiseSource())
    for shard, mechanism, source in (
        (tiny_shard(), PixelLaplace(0.6, 256), NoiseSource()),
        (tiny_shard(seed=1), LAPLACE, NoiseSource()),
        (tiny_shard(), LAPLACE, NoiseSource(3)),
    ):
        goes_red(check_one_release, first, released_shard(shard, mechanism, source))


def test_the_cache_may_go_the_release_stays(home: Path) -> None:
    first = np.array(released_shard(tiny_shard(), LAPLACE, NoiseSource()).images)
    shutil.rmtree(home / "cache")
    again = released_shard(tiny_shard(), LAPLACE, NoiseSource()).images
    np.testing.assert_array_equal(first, again)


def test_a_copy_whose_release_is_gone_is_not_served(home: Path) -> None:
    first = np.array(released_shard(tiny_shard(), LAPLACE, NoiseSource()).images)
    shutil.rmtree(home / "released")
    again = np.array(released_shard(tiny_shard(), LAPLACE, NoiseSource()).images)
    assert not np.array_equal(first, again)
    check = released_shard(tiny_shard(), LAPLACE, NoiseSource()).images
    np.testing.assert_array_equal(again, check)


def test_a_full_disk_releases_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        refuses(lambda: released_shard(tiny_shard(), LAPLACE, NoiseSource()), "disk is full")
    assert list(home.rglob("*.npy")) == []
    assert released_shard(tiny_shard(), LAPLACE, NoiseSource()).images.shape == (24, SIZE, SIZE)


def test_a_release_is_named_before_the_first_image_is_read() -> None:
    """Its payer writes it down then; a refusal leaves no noised image behind."""

    class Unpaid(Exception):
        pass

    class Closed(Shard):
        """Images that nobody may read yet."""

        def __len__(self) -> int:
            raise AssertionError("read before it was paid for")

    names: list[tuple[str, str]] = []

    def heard(release: str, new: str) -> None:
        names.append((release, new))

    released_shard(tiny_shard(), LAPLACE, NoiseSource(), before=heard)
    released_shard(tiny_shard(), LAPLACE, NoiseSource(), before=heard)
    assert names[1] == (names[0][0], ""), "the same release, and nothing new"
    released_shard(tiny_shard(), PixelLaplace(0.6, SIZE**2), NoiseSource(), before=heard)
    # The same pixels under other names are noised anew, so they are another release.
    renamed = tiny_shard()
    table = renamed.table.assign(image="again-" + renamed.table["image"])
    released_shard(
        replace(renamed, table=table, key="renamed"), LAPLACE, NoiseSource(), before=heard
    )
    assert names[2][0] != names[0][0]
    assert names[3][0] == names[0][0]
    assert names[3][1] not in ("", names[0][1])

    def refuse(name: str, new: str) -> None:
        raise Unpaid(name)

    other = tiny_shard(seed=3)
    closed = Closed(other.key, other.images, other.table)
    for _ in range(2):
        with pytest.raises(Unpaid):
            released_shard(closed, LAPLACE, NoiseSource(), before=refuse)


def test_a_pool_that_was_deleted_is_another_release(home: Path) -> None:
    names: list[str] = []

    def heard(release: str, new: str) -> None:
        names.append(release)

    for _ in range(2):
        released_shard(tiny_shard(), LAPLACE, NoiseSource(), before=heard)
        shutil.rmtree(home / "released")
    assert names[0] != names[1]


@pytest.mark.parametrize("mechanism", [DPPix(0.5, 4, 1, SIZE), BrightnessShift(0.5)])
def test_every_mechanism_is_drawn_once(mechanism: DPPix | BrightnessShift) -> None:
    first = released_shard(tiny_shard(), mechanism, NoiseSource())
    check_one_release(first, released_shard(tiny_shard(), mechanism, NoiseSource()))
    goes_red(check_one_release, first, released_shard(tiny_shard(), LAPLACE, NoiseSource()))


def test_clipping_changes_what_is_shown_and_not_the_release() -> None:
    first = np.array(released_shard(tiny_shard(), LAPLACE, NoiseSource()).images)
    shown = released_shard(tiny_shard(), LAPLACE, NoiseSource(), clip=True).images
    np.testing.assert_array_equal(shown, first.clip(0, 1))
    assert first.min() < 0 < 1 < first.max()
    again = released_shard(tiny_shard(), LAPLACE, NoiseSource()).images
    np.testing.assert_array_equal(again, first)


def test_volumes_and_images_of_one_side_do_not_share_a_pool(home: Path) -> None:
    shard = tiny_shard(3)
    deep = Shard("deep", np.repeat(shard.images[:, None], SIZE, axis=1), shard.table)
    flat = released_shard(shard, LAPLACE, NoiseSource())
    cubes = released_shard(deep, PixelLaplace(0.5, SIZE**3, "voxel"), NoiseSource())
    assert cubes.images.shape == (3, SIZE, SIZE, SIZE)
    assert cubes.images.tobytes() == released_shard(deep, LAPLACE, NoiseSource()).images.tobytes()
    pools = sorted(path.name for path in (home / "released").glob("*.sqlite"))
    assert pools == ["laplace-scale-0.5-16px.sqlite", "laplace-scale-0.5-16x16x16px.sqlite"]
    assert np.abs(cubes.images[:, 3] - flat.images).max() > 0.5
