"""What is noised once: a file that keeps every release, and gives the same one again.

Each kind of release (a mechanism, at one size) has one SQLite file under fedmed's home, with a row
for each item that was noised, by the item's identity. That file is the release itself: deleting it
means another release when the items are noised again.
"""

import hashlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.privacy.mechanisms.noise import NoiseSource


@dataclass(frozen=True)
class Pool:
    """One kind of release; ``name`` is that of this very file: another file is another release."""

    name: str
    _db: sqlite3.Connection

    def new(self, items: Sequence[str]) -> str:
        """A name for those of ``items`` that were never noised; empty where all were."""
        query = "select 1 from noised where image = ?"
        new = "".join(i for i in items if self._db.execute(query, (i,)).fetchone() is None)
        return new and hashlib.sha256(new.encode()).hexdigest()[:16]

    def values(self, items: Sequence[str], draw: Callable[[int], bytes]) -> Iterator[bytes]:
        """Each item's release, from the file or drawn into it, all in one transaction.

        ``draw`` makes that of the item at a place. All have to be taken: an iteration that ends
        early leaves nothing behind.
        """
        self._db.execute("begin immediate")
        for place, item in enumerate(items):
            known = self._db.execute("select pixels from noised where image = ?", (item,))
            value = known.fetchone()
            if value is None:
                value = (draw(place),)
                self._db.execute("insert into noised values (?, ?)", (item, value[0]))
            yield value[0]
        self._db.execute("commit")  # an exception before this closes the connection: rolled back


def path_of(what: str, source: NoiseSource) -> Path:
    """Where the releases of a kind lie; those of reproducible noise by its seed."""
    seed = f"-seed-{source.seed}" if source.reproducible else ""
    return files.home() / "released" / f"{what}{seed}.sqlite"


@contextmanager
def opened(what: str, source: NoiseSource) -> Iterator[Pool]:
    """The pool of a kind; raises :class:`UserError` where the disk is full or the file damaged."""
    path = path_of(what, source)
    try:
        with files.disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=600, isolation_level=None)) as db:
            db.execute("pragma synchronous = full")
            yield Pool(f"{path.stem}:{_identity(db)}", db)
    except sqlite3.Error as error:
        raise UserError(
            f"what was released in {path} cannot be kept ({error}); check the disk, and do not "
            "delete the file: drawing the noise again would be another release"
        ) from error


def _identity(db: sqlite3.Connection) -> str:
    # Images came first, and the file's names have to stay.
    db.execute("create table if not exists noised (image text primary key, pixels blob)")
    db.execute("create table if not exists pool (one integer primary key check (one = 1), id text)")
    db.execute("insert or ignore into pool values (1, ?)", (secrets.token_hex(16),))
    return str(db.execute("select id from pool").fetchone()[0])
