"""Finding the image that a table's row names, however table and folder write the name.

Tables come from other systems than the folders: ids without an ending, separators of Windows,
letters that macOS takes apart, folders that the one names and the other does not. What is found in
one way only is taken; what could be two images is not.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final, Literal, Protocol

import pandas as pd

from fedmed.base.errors import UserError

ENDINGS: Final = (
    ".png",
    ".jpg",
    ".jpeg",
    ".dcm",
    ".dicom",
    ".dcm.gz",
    ".nii.gz",
    ".nii",
    ".npy",
    ".npz",
    ".zip",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".jp2",
)
"""What the name of an image may end in where a table leaves it out."""

Missing = Literal["refuse", "leave-out"]


class Named(Protocol):
    """A store of images as far as names go."""

    def names(self) -> Iterable[str]:
        """Every image's name."""
        ...

    def __contains__(self, name: str) -> bool: ...


def located(
    names: pd.Series, images: Named, where: str, place: str, missing: Missing
) -> tuple[pd.Series, list[int], list[str]]:
    """Each name as the store has it (<NA> for an empty one), the places left out, and notes.

    ``where`` names the table in messages and ``place`` the folder or zip. Raises
    :class:`UserError` for the first image that is not there (under "leave-out": where none is),
    and for one that could be two.
    """
    given = names.astype("string").str.strip()
    places = _Places(images, _shared_folders(given), PurePosixPath(place).stem.casefold())
    chosen: list[str | None] = []
    absent: list[int] = []
    for row, name in enumerate(given, start=1):
        if pd.isna(name) or name == "":
            chosen.append(None)
            continue
        plain = str(PurePosixPath(name))
        at = [plain] if plain in images else places.of(plain)
        if len(at) > 1:
            raise UserError(
                f"{where}, row {row}: image '{name}' is in {place} as '{at[0]}' and '{at[1]}'; "
                "write which, with its folder and ending"
            )
        if not at:
            absent.append(row - 1)
        chosen.append(at[0] if at else None)
    if absent and (missing == "refuse" or len(absent) == len(given)):
        raise _not_there(str(given.iloc[absent[0]]), absent, len(given), where, place)
    notes = []
    if absent:
        notes.append(
            f"{len(absent):,} of {len(given):,} rows left out, whose images are not there "
            "(data.missing-images)"
        )
    return pd.Series(chosen, index=names.index, dtype="string"), absent, notes


class _Places:
    """Names of a store by what they have in common with those of tables."""

    def __init__(self, images: Named, shared: int, root: str) -> None:
        self._images, self._shared, self._own = images, shared, root
        self._whole: dict[str, list[str]] | None = None
        self._last: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}

    def of(self, name: str) -> list[str]:
        """Where an image may be that is not there as its name stands; the surest way decides.

        As it is spelt; without folders that all names of the table share, or the one that holds
        the images, as the public sets are unpacked; by its last part where no folder is left; each
        without regard to case, and with an ending where it has none. A folder that tells names of
        the table apart is never taken away: the image could be another hospital's.
        """
        ways = self._ways(name.replace("\\", "/"))
        for way in ways:  # of a folder too, which is a series
            if way in self._images:
                return [way]
        if self._whole is None:
            self._whole = self._read()
        for way in map(_key, ways):
            for known in (self._whole, self._stems):
                if way in known:
                    return known[way]
        last = _key(ways[-1])
        if "/" in last:
            return []
        return self._last.get(last) or self._last.get(f"{last}.*") or []

    def _ways(self, name: str) -> list[str]:
        parts = name.split("/")
        most = max(self._shared, int(parts[0].casefold() == self._own))
        return ["/".join(parts[first:]) for first in range(min(most, len(parts) - 1) + 1)]

    def _read(self) -> dict[str, list[str]]:
        whole: dict[str, list[str]] = {}
        for name in self._images.names():
            if _is_rubbish(name):
                continue
            key = _key(name)
            whole.setdefault(key, []).append(name)
            last = key.rpartition("/")[2]
            self._last.setdefault(last, []).append(name)
            ending = next((end for end in ENDINGS if key.endswith(end)), "")
            if ending:
                self._stems.setdefault(key.removesuffix(ending), []).append(name)
                self._last.setdefault(f"{last.removesuffix(ending)}.*", []).append(name)
        return whole


def _shared_folders(names: pd.Series) -> int:
    """How many folders at the beginning all names have in common."""
    folders = [str(n).replace("\\", "/").split("/")[:-1] for n in names.dropna() if n]
    shared = 0
    for parts in zip(*folders, strict=False):  # as deep as the shallowest name
        if len(set(parts)) > 1:
            break
        shared += 1
    return shared


def _key(name: str) -> str:
    """A name as it is compared: composed letters, slashes, no case."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").casefold()


def _is_rubbish(name: str) -> bool:
    """What macOS leaves in folders and archives."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _not_there(name: str, absent: list[int], rows: int, where: str, place: str) -> UserError:
    if len(absent) == rows:
        return UserError(
            f"{where}, row {absent[0] + 1}: image '{name}' is not in {place}, nor is any other of "
            f"{rows:,}; correct data.images"
        )
    others = f", nor are {len(absent) - 1:,} others of {rows:,}" if len(absent) > 1 else ""
    return UserError(
        f"{where}, row {absent[0] + 1}: image '{name}' is not in {place}{others}; add them, drop "
        'their rows, or set data.missing-images = "leave-out"'
    )
