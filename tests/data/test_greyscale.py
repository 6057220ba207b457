"""Stored values to brightness: padding, empty and false tags, tables that are not what they say."""

from typing import Any

import numpy as np
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support import refuses
from support.images import RAMP, dataset, dicom, saved

from fedmed.data.decode import decode

PADDED = np.linspace(0, 1000, 4096).reshape(64, 64).astype(np.int16)
PADDED[:20] = -2000


def table(entries: int, first: int, bits: int, values: Any) -> Dataset:
    """A lookup table whose descriptor says what it is told to."""
    made = Dataset()
    made.add(DataElement("LUTDescriptor", "US", [entries, first, bits]))
    made.add(DataElement("LUTData", "US", list(values)))
    return made


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_written_as_unsigned_is_black_in_signed_pixels(photometric: str) -> None:
    made = dataset(PADDED, PhotometricInterpretation=photometric)
    made.add(DataElement("PixelPaddingValue", "US", 63536))  # -2000 in 16 bits
    image = decode(saved(made), "a.dcm")
    assert (image[:20] == 0).all()
    assert np.ptp(image[20:]) > 0.9


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_of_the_least_value_needs_no_tag(photometric: str) -> None:
    """With -32768 for the least value everything else would be white."""
    pixels = PADDED.copy()
    pixels[:20] = -32768
    image = decode(dicom(pixels, PhotometricInterpretation=photometric), "a.dcm")
    assert (image[:20] == 0).all()
    assert image[20:].std() > 0.2


def test_the_least_value_of_a_full_range_is_no_padding() -> None:
    pixels = np.linspace(-32768, 32767, 4096).reshape(64, 64).astype(np.int16)
    image = decode(dicom(pixels, PhotometricInterpretation="MONOCHROME1"), "a.dcm")
    assert image[0, 0] == 1


EMPTY = {
    "rescale": {"RescaleSlope": None, "RescaleIntercept": None},
    "window": {"WindowCenter": None, "WindowWidth": None},
    "table": {"VOILUTSequence": Sequence([])},
    "modality table": {"ModalityLUTSequence": Sequence([])},
}


@pytest.mark.parametrize("tags", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_tag_is_an_absent_one(tags: dict[str, Any]) -> None:
    np.testing.assert_array_equal(
        decode(dicom(RAMP, **tags), "a.dcm"), decode(dicom(RAMP), "a.dcm")
    )


def test_a_rescale_of_one_tag_takes_the_other_as_nothing() -> None:
    window = {"WindowCenter": 4096, "WindowWidth": 8192}
    image = decode(dicom(RAMP, RescaleSlope=2, **window), "a.dcm")
    assert image == pytest.approx(np.clip((2.0 * RAMP - 4095.5) / 8191 + 0.5, 0, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "a Rescale Slope of 0"),
        ({"WindowCenter": 9, "WindowWidth": 0}, "a window of width 0"),
        ({"WindowCenter": 9, "WindowWidth": -400}, "a window of width 0, less"),
    ],
)
def test_tags_that_leave_nothing_of_the_picture_are_refused(
    tags: dict[str, Any], words: str
) -> None:
    """Sabotage: a negative width shows the negative, in silence."""
    refuses(lambda: decode(dicom(RAMP, **tags), "a.dcm"), f"a.dcm: {words}", "export")


def test_a_voi_table_of_12_bits_that_says_16_is_not_nearly_black() -> None:
    item = table(4096, 0, 16, range(4096))
    image = decode(dicom(RAMP, VOILUTSequence=Sequence([item])), "a.dcm")
    assert image == pytest.approx(RAMP / 4095, abs=1e-6)


def test_a_voi_table_is_looked_up_from_its_first_value() -> None:
    item = table(1024, 1000, 10, range(1024))
    image = decode(dicom(RAMP, VOILUTSequence=Sequence([item])), "a.dcm")
    assert image == pytest.approx(np.clip(RAMP.astype(float) - 1000, 0, 1023) / 1023, abs=1e-6)


def test_a_voi_table_of_8_bits_has_more_than_256_entries() -> None:
    item = table(4096, 0, 8, [v // 16 for v in range(4096)])
    image = decode(dicom(RAMP, VOILUTSequence=Sequence([item])), "a.dcm")
    assert image == pytest.approx((RAMP // 16) / 255, abs=1e-6)


def test_a_first_value_below_zero_may_be_written_as_unsigned() -> None:
    item = table(3072, 65536 - 1024, 12, range(3072))
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTSequence": Sequence([item])}
    image = decode(dicom(RAMP, **tags), "a.dcm")
    assert image == pytest.approx(np.clip(RAMP, 0, 3071) / 4095, abs=1e-6)


def test_a_modality_table_comes_before_the_window() -> None:
    item = table(4096, 0, 16, range(4095, -1, -1))
    tags = {"ModalityLUTSequence": Sequence([item]), "WindowCenter": 2048, "WindowWidth": 4096}
    image = decode(dicom(RAMP, **tags), "a.dcm")
    assert image == pytest.approx(np.clip((4095.0 - RAMP - 2047.5) / 4095 + 0.5, 0, 1), abs=1e-6)


@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(("entries", "bits"), [(4096, 12), (64, 40), (64, 0)])
def test_a_table_that_is_not_what_it_says_is_refused(kind: str, entries: int, bits: int) -> None:
    item = table(entries, 0, bits, range(64))
    refuses(
        lambda: decode(dicom(RAMP, **{kind: Sequence([item])}), "a.dcm"),
        "a.dcm: a lookup table that is not what its descriptor says",
    )


@pytest.mark.parametrize(
    ("shape", "inverted"), [(None, False), ("IDENTITY", False), ("INVERSE", True)]
)
def test_a_missing_photometric_interpretation_is_told_by_the_presentation(
    shape: str | None, inverted: bool
) -> None:
    made = dataset(RAMP, WindowCenter=2048, WindowWidth=4096)
    del made.PhotometricInterpretation
    if shape:
        made.PresentationLUTShape = shape
    image = decode(saved(made), "a.dcm")
    assert (image[0, 0] > image[-1, -1]) == inverted


def test_pitfall_bits_beyond_those_stored_fold_into_another_picture() -> None:
    """The decoder clears them: a ramp of 14 bits would be four ramps of 12."""
    refuses(
        lambda: decode(dicom(RAMP * 4, BitsStored=12, HighBit=11), "a.dcm"),
        "a.dcm: values of more than the 12 bits that Bits Stored says",
    )
    refuses(
        lambda: decode(dicom(RAMP * 16, BitsStored=12, HighBit=15), "a.dcm"),
        "a.dcm: values of 12 bits that end at bit 15, not 11",
    )
    negative = (RAMP.astype(np.int16) - 2048).reshape(64, 64)
    assert decode(dicom(negative, BitsStored=12, HighBit=11), "a.dcm").std() > 0.2


def test_a_rescale_that_changes_nothing_changes_nothing() -> None:
    pixels = np.arange(40, 104, dtype=np.uint8).repeat(64).reshape(64, 64)
    plain = decode(dicom(pixels), "a.dcm")
    rescaled = decode(dicom(pixels, RescaleSlope=1, RescaleIntercept=0), "a.dcm")
    np.testing.assert_array_equal(plain, rescaled)
    assert plain.max() == pytest.approx(103 / 255)
