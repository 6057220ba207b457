"""Compressed DICOM: the syntaxes of a PACS are read, and all others are named."""

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from support import refuses
from support.images import RAMP, compressed, dataset, saved

from fedmed.data.decode import decode

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
SHOWN = np.clip((RAMP - 2047.5) / 4095 + 0.5, 0, 1)
LOSSLESS = imagecodecs.jpeg8_encode(RAMP, lossless=True, bitspersample=12)


@pytest.mark.parametrize(
    ("uid", "frame", "within"),
    [
        (JPEGLossless, LOSSLESS, 1e-6),
        (JPEGLosslessSV1, LOSSLESS, 1e-6),
        (JPEGLSLossless, imagecodecs.jpegls_encode(RAMP), 1e-6),
        (JPEGExtended12Bit, imagecodecs.jpeg8_encode(RAMP, level=98, bitspersample=12), 0.01),
    ],
    ids=["lossless", "lossless, first order", "JPEG-LS", "12-bit JPEG"],
)
def test_what_a_pacs_compresses_shows_the_same_picture(
    uid: str, frame: bytes, within: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = saved(compressed(RAMP, frame, uid, **WINDOW))
    assert decode(data, "a.dcm") == pytest.approx(SHOWN, abs=within)
    assert capfd.readouterr() == ("", "")


def test_signed_values_of_12_bits_keep_their_sign_in_jpeg_lossless() -> None:
    signed = RAMP.astype(np.int16) - 2048
    frame = imagecodecs.jpeg8_encode(
        (signed & 0xFFF).astype(np.uint16), lossless=True, bitspersample=12
    )
    made = compressed(signed, frame, JPEGLosslessSV1, WindowCenter=0, WindowWidth=4096)
    made.BitsStored, made.HighBit = 12, 11
    assert decode(saved(made), "a.dcm") == pytest.approx(SHOWN, abs=1e-6)


def test_run_lengths_are_read() -> None:
    made = dataset(RAMP, **WINDOW)
    made.compress(RLELossless)
    assert decode(saved(made), "a.dcm") == pytest.approx(SHOWN, abs=1e-6)


@pytest.mark.parametrize("uid", [JPEGLossless, JPEGLSLossless, JPEGExtended12Bit])
def test_a_frame_of_another_size_is_refused_before_it_is_decoded(
    uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.zeros((128, 96), dtype=np.uint16)
    frame = {
        JPEGLossless: imagecodecs.jpeg8_encode(large, lossless=True, bitspersample=12),
        JPEGLSLossless: imagecodecs.jpegls_encode(large),
        JPEGExtended12Bit: imagecodecs.jpeg8_encode(large, bitspersample=12),
    }[uid]
    monkeypatch.setattr(
        pydicom.dataset.Dataset, "pixel_array", property(lambda _: pytest.fail("it was decoded"))
    )
    refuses(
        lambda: decode(saved(compressed(RAMP, frame, uid)), "a.dcm"),
        "a.dcm: pixels that do not fit its header",
    )


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.1.2.4.100", "as MPEG2 Main Profile"),
        ("1.3.46.670589.33.1.4.1", "in a private way"),
    ],
)
def test_a_compression_that_nothing_reads_is_named_and_is_no_damage(uid: str, words: str) -> None:
    made = compressed(RAMP, b"\0" * 64, uid)
    data = saved(made, implicit_vr=False, little_endian=True)
    refuses(lambda: decode(data, "a.dcm"), f"a.dcm: pixels compressed {words}", "export it")


def test_damaged_frames_are_damaged_files(capfd: pytest.CaptureFixture[str]) -> None:
    half = LOSSLESS[: len(LOSSLESS) // 2]
    data = saved(compressed(RAMP, half, JPEGLossless))
    refuses(lambda: decode(data, "a.dcm"), "a.dcm: damaged")
    assert capfd.readouterr() == ("", "")
