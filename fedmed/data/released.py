"""Noised images: each is drawn once, whatever hospital, split, run or process asks for it.

An image is known by its name and its preprocessed pixels; under another name, or at another size or
mechanism, it counts as another image, and its epsilons add up.

The noised pixels of every image, at one size and by one mechanism, lie in one file, which is the
release itself (:mod:`fedmed.data.pools`). What is assembled from it is only a cache.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmed.base import files
from fedmed.data import pools
from fedmed.data.pools import Pool
from fedmed.data.shard import Shard, rename_once
from fedmed.privacy.mechanisms.images import ImageMechanism, clipped
from fedmed.privacy.mechanisms.noise import NoiseSource


def released_shard(
    shard: Shard,
    mechanism: ImageMechanism,
    source: NoiseSource,
    *,
    clip: bool = False,
    before: Callable[[str, str], None] = lambda release, new: None,
) -> Shard:
    """The shard with its images noised by ``mechanism``, float32, read as a memory map.

    An image that was noised at this size and by this mechanism before, for whatever shard, shows
    the same noise again. ``clip`` cuts what was released to [0, 1]. ``before`` hears, before any
    image is noised, the name of the release and a name for those images of it that are new (empty:
    none is): a pool that was deleted is another release, and so is an image under another name.
    Raises :class:`UserError` where the disk is full or the file cannot be
    used.
    """
    sides = shard.images.shape[1:] if shard.images.ndim > 3 else shard.images.shape[1:2]
    what = f"{mechanism.key}-{'x'.join(map(str, sides))}px"
    with pools.opened(what, source) as pool:
        identity = pool.name.rpartition(":")[2]
        assembled = hashlib.sha256(f"{shard.key}|{identity}".encode()).hexdigest()[:32]
        folder = files.home() / "cache" / "released" / assembled
        whole = (folder / "images.npy").is_file()
        items = [] if whole else list(_identities(shard))
        before(pool.name, pool.new(items))
        if not whole:
            _keep(_draw(shard, mechanism, source, pool, items), folder)
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return replace(shard, images=clipped(images) if clip else images)


def _draw(
    shard: Shard, mechanism: ImageMechanism, source: NoiseSource, pool: Pool, items: Sequence[str]
) -> NDArray[np.float32]:
    """Every image's noised pixels, from the pool or drawn into it, in one transaction."""

    def draw(row: int) -> bytes:
        rng = source.numpy(mechanism.key, items[row])
        clean = np.asarray(shard.images[row], dtype=np.uint8)
        return bytes(mechanism.apply(clean[None], rng)[0].tobytes())

    noised = np.empty(shard.images.shape, dtype=np.float32)
    for row, pixels in enumerate(pool.values(items, draw)):
        noised[row] = np.frombuffer(pixels, dtype=np.float32).reshape(noised.shape[1:])
    return noised


def _identities(shard: Shard) -> Iterator[str]:
    """What tells an image from every other: its name and its pixels.

    Pixels alone are not enough: equal noise on two equal images would show that they are equal.
    """
    for name, pixels in zip(shard.table["image"], shard.images, strict=True):
        yield hashlib.sha256(f"{name}|".encode() + pixels.tobytes()).hexdigest()


def _keep(noised: NDArray[np.float32], folder: Path) -> None:
    with files.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".assembling."))
        try:
            with (temporary / "images.npy").open("wb") as target:
                np.save(target, noised)
                target.flush()
                os.fsync(target.fileno())
            rename_once(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
