"""DICOM files from anywhere: what they unpack to is known before it is taken, and nothing prints.

A deflated data set of kilobytes inflates to gigabytes, and a compressed frame may claim another
size than its header. Decoders in C write their complaints on standard error, past Python.
"""

import contextlib
import io
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, Final

import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, size

MOST_INFLATED: Final = 256 * MIB
"""Bytes of a deflated data set: the largest radiograph has a quarter of it."""

_CHUNK: Final = MIB
_silent = threading.Lock()


def read(data: bytes, where: str, **options: Any) -> FileDataset:
    """The data set in a file's bytes, ``options`` those of pydicom.

    Raises :class:`UserError` naming ``where`` for one that inflates to too much; what pydicom
    raises on a damaged file is left to the caller.
    """
    source = io.BytesIO(data)
    _check_inflated(source, where)
    source.seek(0)
    return pydicom.dcmread(source, **options)


def pixels(dataset: FileDataset, where: str) -> NDArray[Any]:
    """The stored values of one frame; raises :class:`UserError` where its size is another's."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_frame(dataset, where)
    with silence():
        return dataset.pixel_array


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing that is written to standard error meanwhile is seen, not even from C."""
    with _silent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _check_inflated(source: io.BytesIO, where: str) -> None:
    read_preamble(source, force=False)
    meta = _read_file_meta_info(source)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflating, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    left = source.read()
    while left and not inflating.eof:
        count += len(inflating.decompress(left, _CHUNK))
        left = inflating.unconsumed_tail
        if count > MOST_INFLATED:
            raise UserError(f"{where}: inflates to over {size(MOST_INFLATED)}; drop its row")


def _check_frame(dataset: FileDataset, where: str) -> None:
    """Compare a JPEG's own size with the header's, before a decoder takes memory for it."""
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if frame[:2] not in (b"\xff\xd8", b"\xff\x4f") and frame[4:8] != b"jP  ":
        return  # run lengths, say: what they unpack to is the header's
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
        found = picture.height, picture.width
    if found != (int(dataset.Rows), int(dataset.Columns)):
        raise UserError(f"{where}: pixels that do not fit its header; export the image again")
