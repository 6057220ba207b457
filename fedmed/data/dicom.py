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

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, size
from fedmed.data import compression

MOST_INFLATED: Final = 256 * MIB
"""Bytes of a deflated data set or a ``.dcm.gz``: the largest radiograph has a quarter of it."""

_CHUNK: Final = MIB
_ITEM: Final = b"\xfe\xff\x00\xe0"  # begins encapsulated pixels
_GZIP: Final = b"\x1f\x8b"
_OLD: Final = (b"\x02\0", b"\x08\0", b"\0\x08")  # groups that a file without a preamble begins with
_silent = threading.Lock()


def is_dicom(data: bytes) -> bool:
    """Whether the bytes begin as a DICOM file does, with a preamble or, as old ones, without."""
    if data[128:132] == b"DICM":
        return True
    group, element = data[:2], data[2:4]
    return group in _OLD and (element[:1] == b"\0" or element[1:] == b"\0")


def unpacked(data: bytes, where: str) -> bytes:
    """What a ``.gz`` holds, and any other file as it is; :class:`UserError` for too much."""
    if data[:2] != _GZIP:
        return data
    inflating = zlib.decompressobj(16 + zlib.MAX_WBITS)
    inside = inflating.decompress(data, MOST_INFLATED + 1)
    if len(inside) > MOST_INFLATED:
        raise UserError(f"{where}: inflates to over {size(MOST_INFLATED)}; drop its row")
    if not inflating.eof:
        raise ValueError("cut off")
    return inside


def read(data: bytes, where: str, **options: Any) -> FileDataset:
    """The data set in a file's bytes, ``options`` those of pydicom; its transfer syntax is known.

    Raises :class:`UserError` naming ``where`` for one that inflates to too much, or that does not
    say how its pixels are compressed; what pydicom raises on a damaged file is left to the caller.
    """
    source = io.BytesIO(data)
    _check_inflated(source, where)
    source.seek(0)
    dataset = pydicom.dcmread(source, force=True, **options)
    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        if bytes(dataset.get("PixelData") or b"")[:4] == _ITEM:
            raise UserError(
                f"{where}: it does not say how its pixels are compressed; export the image again"
            )
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def pixels(dataset: FileDataset, where: str) -> NDArray[Any]:
    """The stored values of one frame.

    Raises :class:`UserError` where its size is another's, its compression is not read, or its
    values do not lie in the bits that the header says: folded into them they would be a picture,
    and another one.
    """
    compression.prepare(dataset, where)
    _check_bits(dataset, where)
    with silence():
        return dataset.pixel_array


def _check_bits(dataset: FileDataset, where: str) -> None:
    """Uncompressed values of two bytes, of which the decoder clears what Bits Stored leaves out."""
    syntax = dataset.file_meta.TransferSyntaxUID
    allocated, bits = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    if allocated != 16 or not 0 < bits < 16 or syntax.is_compressed or "PixelData" not in dataset:
        return
    high = int(dataset.get("HighBit") or bits - 1)
    if high != bits - 1:
        raise UserError(
            f"{where}: values of {bits} bits that end at bit {high}, not {bits - 1}; export the "
            "image again"
        )
    overlays = (element for element in dataset.group_dataset(0x6000) if element.value)
    if any(element.keyword == "OverlayBitPosition" for element in overlays):
        return  # old files keep an overlay in the bits that are left
    data = dataset.PixelData
    kind = "<u2" if syntax.is_little_endian else ">u2"
    spare = np.frombuffer(data[: len(data) // 2 * 2], kind) >> bits
    of_negatives = (1 << (16 - bits)) - 1 if dataset.get("PixelRepresentation") else 0
    if ((spare != 0) & (spare != of_negatives)).any():
        raise UserError(
            f"{where}: values of more than the {bits} bits that Bits Stored says; correct the tag "
            "or export the image again"
        )


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
    read_preamble(source, force=True)
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
