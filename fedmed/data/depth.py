"""How many bits the values of a hospital's 16-bit files have, as ``data.bits-stored`` says.

A file of 16 bits may hold values of 12, and only its owner knows. What is declared decides, for a
whole hospital at once: were it the largest value of the images, one patient's film would decide how
all others look, and the guarantee is that nobody's film does.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.stores import FolderStore, Image, ZipStore


class DeclaredStore:
    """A store whose files' bits are known: by image, and ``rest`` for all others (0: nobody's)."""

    def __init__(self, store: FolderStore | ZipStore, bits: Mapping[str, int], rest: int) -> None:
        self.store = store
        self.bits = dict(bits)
        self.rest = rest

    def read(self, name: str) -> Image:
        """The image, by the bits of its hospital's files."""
        return self.store.read(name, self._bits(name))

    def digest(self, name: str) -> str:
        """The file's digest and the bits: other bits make other pixels."""
        bits = self._bits(name)
        return f"{self.store.digest(name)}|{bits} bits" if bits else self.store.digest(name)

    def identity(self, name: str) -> str:
        """The file's, whatever its bits."""
        return self.store.identity(name)

    def _bits(self, name: str) -> int:
        return self.bits.get(name, self.rest)


def declared(cohort: Cohort, data: Data) -> Cohort:
    """The cohort with its files read by ``data.bits-stored``, and a note that says so.

    Raises :class:`UserError` where that names a site which the cohort has not.
    """
    given = {site: int(bits) for site, bits in data.depths.items()}
    if not given or not isinstance(cohort.images, FolderStore | ZipStore):
        return cohort
    rest = given.pop("", 0)
    sites = cohort.table.get("site", pd.Series(dtype="string")).astype("string").str.strip()
    unknown = sorted(set(given) - set(sites.dropna()))
    if unknown:
        raise UserError(
            f"data.bits-stored: {cohort.name} has no site '{unknown[0]}'; use "
            + (", ".join(sorted(set(sites.dropna()))[:20]) or "a number of bits: it has no sites")
        )
    known = sites.map(given).dropna()
    bits = dict(zip(cohort.table["image"].loc[known.index], known.astype(int), strict=True))
    store = DeclaredStore(cohort.images, bits, rest)
    each = [f"{bits} at {site}" for site, bits in given.items()]
    told = ", ".join([*each, *([f"{rest}{' elsewhere' if each else ''}"] if rest else [])])
    note = f"16-bit files hold values of these bits, as data.bits-stored says: {told}"
    return replace(cohort, images=store, notes=(*cohort.notes, note))
