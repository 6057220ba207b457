"""DICOM files that unpack to more than they say, and decoders that print past Python."""

import gzip
import io
import os
import zlib
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from support import refuses

from fedmed.data import dicom
from fedmed.data.decode import decode


def image(pixels: NDArray[np.uint16], **tags: Any) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def deflated() -> bytes:
    dataset = image(RAMP)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return saved(dataset)


def test_a_deflated_image_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = deflated()
    assert decode(data, "a.dcm").shape == (64, 64)
    monkeypatch.setattr(dicom, "MOST_INFLATED", 8192)
    refuses(lambda: decode(data, "a.dcm"), "a.dcm: inflates to over 8 KiB")


def test_a_bomb_is_not_inflated_before_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 GiB of zeros no more than the limit is unpacked, and pydicom never sees them."""
    data = deflated()
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(bytes(1 << 24)) for _ in range(24)) + packer.flush()
    monkeypatch.setattr(pydicom, "dcmread", lambda *_, **__: pytest.fail("it was read"))
    refuses(lambda: decode(data[:start] + body, "a.dcm"), "a.dcm: inflates to over 256 MiB")


def test_a_frame_of_another_size_than_its_header_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = image(RAMP)
    dataset.compress(JPEG2000Lossless)
    assert decode(saved(dataset), "a.dcm").shape == (64, 64)
    frame = bytearray(dataset.PixelData)
    at = frame.find(b"\xff\x51")
    frame[at + 6 : at + 14] = (5_000).to_bytes(4, "big") * 2  # the codestream's width and height
    dataset.PixelData = bytes(frame)
    monkeypatch.setattr(
        pydicom.dataset.Dataset, "pixel_array", property(lambda _: pytest.fail("it was decoded"))
    )
    refuses(lambda: decode(saved(dataset), "a.dcm"), "a.dcm: pixels that do not fit its header")


def test_what_a_decoder_prints_from_c_is_not_seen(capfd: pytest.CaptureFixture[str]) -> None:
    with dicom.silence():
        os.write(2, b"opj: failed\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    dataset = image(RAMP)
    dataset.compress(JPEG2000Lossless)
    frame = bytearray(dataset.PixelData)
    frame[120:400] = bytes(280)
    dataset.PixelData = bytes(frame)
    with pytest.raises(Exception, match="damaged"):
        decode(saved(dataset), "a.dcm")
    assert capfd.readouterr().err == ""


def test_a_dicom_has_fewer_pixels_than_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmed.data import decode as module

    monkeypatch.setattr(module, "MAX_DICOM_PIXELS", 4095)
    refuses(lambda: decode(saved(image(RAMP)), "a.dcm"), "a.dcm: larger than 0 megapixels")


def test_a_file_without_a_preamble_is_read_whatever_it_is_called() -> None:
    plain = decode(saved(image(RAMP)), "a.dcm")
    for uid in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        dataset = image(RAMP)
        little = uid != ExplicitVRBigEndian
        if not little:
            dataset.PixelData = RAMP.astype(">u2").tobytes()
        del dataset.file_meta
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, implicit_vr=uid.is_implicit_VR, little_endian=little)
        data = buffer.getvalue()
        assert data[128:132] != b"DICM"
        for name in ("a.dcm", "IM0001"):
            np.testing.assert_array_equal(decode(data, name), plain)


def test_compressed_pixels_of_an_unknown_syntax_are_refused() -> None:
    dataset = image(RAMP)
    dataset.compress(JPEG2000Lossless)
    del dataset.file_meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    refuses(
        lambda: decode(buffer.getvalue(), "a.dcm"),
        "a.dcm: it does not say how its pixels are compressed",
    )


def test_what_is_packed_with_gzip_is_read_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(image(RAMP))
    np.testing.assert_array_equal(decode(gzip.compress(data), "a.dcm.gz"), decode(data, "a.dcm"))
    refuses(lambda: decode(gzip.compress(data)[:-30], "a.dcm.gz"), "a.dcm.gz: damaged")
    bomb = gzip.compress(bytes(300 << 20), 1)
    refuses(lambda: decode(bomb, "a.dcm.gz"), "a.dcm.gz: inflates to over 256 MiB")


def test_text_that_is_called_dicom_is_no_image() -> None:
    refuses(lambda: decode(b"patient;age\n" * 99, "a.dcm"), "a.dcm: damaged or not an image")
