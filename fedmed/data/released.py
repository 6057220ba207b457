"""Noised images: each is drawn once, whatever hospital, split, run or process asks for it.

An image is known by its name and its preprocessed pixels; under another name, or at another size or
mechanism, it counts as another image, and its epsilons add up.

The noised pixels of every image, at one size and by one mechanism, lie in one SQLite file under
fedmed's home, keyed by the image's identity. That file is the release itself: deleting it means
another release when the images are noised again. What is assembled from it is only a cache.
"""

import hashlib
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmed.base import files
from fedmed.base.errors import UserError
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
    if source.reproducible:
        what += f"-seed-{source.seed}"
    pool = files.home() / "released" / f"{what}.sqlite"
    try:
        with files.disk_errors(pool):
            pool.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(pool, timeout=600, isolation_level=None)) as db:
            db.execute("pragma synchronous = full")
            identity = _pool_id(db)
            assembled = hashlib.sha256(f"{shard.key}|{identity}".encode()).hexdigest()[:32]
            folder = files.home() / "cache" / "released" / assembled
            whole = (folder / "images.npy").is_file()
            new = "" if whole else "".join(_not_in(db, shard))
            before(f"{what}:{identity}", new and hashlib.sha256(new.encode()).hexdigest()[:16])
            if not whole:
                _keep(_draw(shard, mechanism, source, db), folder)
    except sqlite3.Error as error:
        raise UserError(
            f"the noised images in {pool} cannot be kept ({error}); check the disk, and do not "
            "delete the file: drawing the noise again would be another release"
        ) from error
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return replace(shard, images=clipped(images) if clip else images)


def _pool_id(db: sqlite3.Connection) -> str:
    """Name of this very file: what was assembled from one that is gone is not served."""
    db.execute("create table if not exists noised (image text primary key, pixels blob)")
    db.execute("create table if not exists pool (one integer primary key check (one = 1), id text)")
    db.execute("insert or ignore into pool values (1, ?)", (secrets.token_hex(16),))
    return str(db.execute("select id from pool").fetchone()[0])


def _not_in(db: sqlite3.Connection, shard: Shard) -> list[str]:
    """Identities of the shard's images that were never noised."""
    query = "select 1 from noised where image = ?"
    return [i for i in _identities(shard) if db.execute(query, (i,)).fetchone() is None]


def _draw(
    shard: Shard, mechanism: ImageMechanism, source: NoiseSource, db: sqlite3.Connection
) -> NDArray[np.float32]:
    """Every image's noised pixels, from the pool or drawn into it, in one transaction."""
    shape = shard.images.shape[1:]
    noised = np.empty(shard.images.shape, dtype=np.float32)
    db.execute("begin immediate")
    for row, image in enumerate(_identities(shard)):
        known = db.execute("select pixels from noised where image = ?", (image,)).fetchone()
        if known is None:
            rng = source.numpy(mechanism.key, image)
            clean = np.asarray(shard.images[row], dtype=np.uint8)
            noised[row] = mechanism.apply(clean[None], rng)[0]
            db.execute("insert into noised values (?, ?)", (image, noised[row].tobytes()))
        else:
            noised[row] = np.frombuffer(known[0], dtype=np.float32).reshape(shape)
    db.execute("commit")  # an exception before this closes the connection, which rolls back
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
