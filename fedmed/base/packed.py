"""Zips from anywhere: what they unpack to is added up before any of it is unpacked."""

import zipfile
from pathlib import Path
from typing import BinaryIO, Final

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, opened

MOST_MEMBERS: Final = 10_000
_UNSUSPECTED: Final = 256 * MIB
_RATIO: Final = 500  # images pack to a half, drawn masks to 1 in 220, zeros to 1 in 1,000
MOST_DIRECTORY: Final = 128 * MIB
"""Bytes of a zip's own list of its files, which is read as a whole: enough for a million."""

_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_TAIL: Final = (1 << 16) + 200  # the list's own place stands in the last bytes, before a comment


def is_zip(path: Path) -> bool:
    """Whether a regular file is a zip; raises :class:`UserError` for a pipe or a device."""
    with opened(path, 1 << 40, "give a folder or a zip of images") as source:
        return zipfile.is_zipfile(source)


def check_directory(path: Path) -> None:
    """Raise :class:`UserError` where a zip's list of files is too long to be read."""
    with opened(path, 1 << 40) as source:
        source.seek(max(0, source.seek(0, 2) - _TAIL))
        tail = source.read(_TAIL)
    for mark, start, end in ((_END, 12, 16), (_END_64, 40, 48)):
        at = tail.rfind(mark)
        claimed = int.from_bytes(tail[at + start : at + end], "little") if at >= 0 else 0
        # All bits set stand for "see the larger record".
        if MOST_DIRECTORY < claimed < 2 ** (8 * (end - start)) - 1:
            raise UserError(f"{path} lists more files than can be read; give a folder instead")


def check_zip(source: BinaryIO, most: int, where: str) -> None:
    """Raise :class:`UserError` for a zip whose members unpack to more than ``most`` bytes together.

    So does one of more than 256 MiB that unpacks to over 500 times its size. A file that is no zip
    is left to its reader. ``source`` stands at its start again. What a member's header claims is
    what zipfile unpacks at most.
    """
    try:
        if not zipfile.is_zipfile(source):
            return
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError):
        return
    finally:
        source.seek(0)
    if len(members) > MOST_MEMBERS:
        raise UserError(f"{where} holds over {MOST_MEMBERS} files; give one with fewer")
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if total > most or total > max(_UNSUSPECTED, _RATIO * packed):
        raise UserError(f"{where} unpacks to {total >> 20} MiB; give a smaller file")
