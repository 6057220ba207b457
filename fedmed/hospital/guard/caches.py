"""What a guard keeps on the disk of its data: so many shards, whatever sizes are asked for."""

import shutil
from pathlib import Path
from typing import Final

from fedmed.base import files

MOST_SHARDS: Final = 16  # a training and an evaluation shard for each form that was asked for
MOST_FEATURES: Final = 16
MOST_POOLS: Final = (
    16  # of noised images or patients; a pool is the release itself, and never removed
)


def prune(*, shards: bool) -> None:
    """Remove the oldest caches above those numbers.

    ``shards`` only while none is open: a cohort whose file is gone counts as changed.
    """
    cache = files.home() / "cache"
    if shards:
        _keep(cache / "shards", MOST_SHARDS - 2)
        _keep(cache / "released", MOST_SHARDS - 2)
    _keep(cache / "features", MOST_FEATURES - 1)


def room_for_pool(kind: str) -> bool:
    """Whether a release of this kind may be drawn: a new one needs room for its pool.

    ``kind`` is an image mechanism's key, or a name of :func:`released_features.release_name`.
    """
    known = [path.name for path in (files.home() / "released").glob("*.sqlite")]
    return len(known) < MOST_POOLS or any(
        name.startswith((f"{kind}-", f"{kind}.")) for name in known
    )


def _keep(folder: Path, most: int) -> None:
    """Keep the ``most`` newest entries of a folder, but those that are still being made."""
    if not folder.is_dir():
        return
    whole = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    whole.sort(key=lambda entry: entry.stat().st_mtime_ns)
    for old in whole[: max(0, len(whole) - most)]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
