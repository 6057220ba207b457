"""Stored values of a DICOM image to brightness: padding, modality, then the first VOI (PS3.3 C.11).

Tags are facts of the file alone: no other image changes how one is shown. A tag that leaves
nothing of the picture is refused, and an empty one counts as absent.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from fedmed.base.errors import UserError

Stored = NDArray[np.integer[Any]]

_DEPTHS: Final = range(8, 17)  # bits that an entry of a lookup table may have


def padding_of(dataset: FileDataset, stored: Stored) -> NDArray[np.bool_]:
    """Where the detector saw nothing: Pixel Padding Value, or the range to its limit.

    Written as unsigned where pixels are signed (or the other way round) it means the same bits.
    Without the tag, the least value that fits in the bits is padding where it lies further below
    all others than they span (-32768, say).
    """
    value = _number(dataset, "PixelPaddingValue")
    if value is None:
        return _apart(dataset, stored)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    ends = [_as_stored(int(v), dataset, stored) for v in (value, value if limit is None else limit)]
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def modality(dataset: FileDataset, stored: Stored, name: str) -> NDArray[np.float64]:
    """Values after the modality's lookup table or rescale, float64.

    Raises :class:`UserError` for a slope of 0 or a table that is not what it says.
    """
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(stored, dataset.ModalityLUTSequence[0], dataset, name)[0]
    slope, intercept = (_number(dataset, f"Rescale{tag}") for tag in ("Slope", "Intercept"))
    if slope is None and intercept is None:
        return np.asarray(stored, dtype=np.float64)
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not math.isfinite(slope * intercept):
        raise UserError(
            f"{name}: a Rescale Slope of 0 (or no number) leaves nothing of the picture; correct "
            "the tag or export the image again"
        )
    values = stored.astype(np.float64) * slope
    values += intercept
    return values


def shown(
    dataset: FileDataset, stored: Stored, padding: NDArray[np.bool_], name: str
) -> NDArray[np.float32]:
    """Stored values to [0, 1] by the first VOI table or window, before any inversion.

    Without either, 8-bit images without a rescale keep their stored range; deeper ones are
    stretched between the 0.1th and 99.9th percentile of their own pixels. In place, as far as it
    goes: the values take eight bytes each.
    """
    values = modality(dataset, stored, name)
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        looked_up, bits = _looked_up(values.astype(np.int64), item, dataset, name)
        return np.asarray(looked_up / (2**bits - 1), dtype=np.float32).clip(0, 1)
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is not None and width is not None:
        _window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"), name)
    elif _bits(dataset) <= 8 and not _rescaled(dataset):
        values /= 2 ** _bits(dataset) - 1
    else:
        seen = values[~padding] if not padding.all() else values.flatten()
        low, high = np.percentile(seen, (0.1, 99.9), overwrite_input=True)
        del seen
        values -= low
        values /= max(high - low, 1e-6)
    return np.clip(values, 0, 1, out=values).astype(np.float32)


def _window(
    values: NDArray[np.float64], centre: float, width: float, shape: str, name: str
) -> None:
    """Apply a window (PS3.3 C.11.2.1.2) in place; [0, 1] once it is clipped."""
    if width <= 0 or not math.isfinite(centre * width):
        raise UserError(
            f"{name}: a window of width 0, less or no number leaves nothing of the picture; "
            "correct the tag or export the image again"
        )
    if shape == "SIGMOID":
        values -= centre
        values *= -4
        values /= width
        np.clip(values, -60, 60, out=values)
        np.exp(values, out=values)
        values += 1
        np.reciprocal(values, out=values)
        return
    exact = shape == "LINEAR_EXACT"
    values -= centre if exact else centre - 0.5
    values /= width if exact else max(width - 1, 1e-6)
    values += 0.5


def _looked_up(
    values: NDArray[Any], item: Dataset, dataset: FileDataset, name: str
) -> tuple[NDArray[np.float64], int]:
    """Values through a lookup table (PS3.3 C.11.1.1.1), and the bits of the table's entries.

    The descriptor's bits count, unless the entries need more or fit in a quarter of that range.
    """
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    table = _entries(item, entries or 1 << 16, bits, dataset)
    if table is None or bits not in _DEPTHS:
        raise UserError(
            f"{name}: a lookup table that is not what its descriptor says; export the image again"
        )
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # signed, written as unsigned
    index = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)
    needed = int(table.max()).bit_length()
    used = needed if needed > bits or 0 < needed < bits - 1 else bits
    return table.astype(np.float64)[index], used


def _entries(item: Dataset, count: int, bits: int, dataset: FileDataset) -> NDArray[Any] | None:
    """The first ``count`` entries of a table, None where it has fewer."""
    data = item.LUTData
    if isinstance(data, bytes):
        if bits <= 8 and len(data) < 2 * count:  # two to a word
            table: NDArray[Any] = np.frombuffer(data, dtype=np.uint8)
        else:
            little = dataset.file_meta.TransferSyntaxUID.is_little_endian
            table = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little else ">u2")
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    return table[:count] if len(table) >= count else None


def _apart(dataset: FileDataset, stored: Stored) -> NDArray[np.bool_]:
    """Where the least value that fits lies further below all others than they span."""
    nowhere = np.zeros(stored.shape, dtype=bool)
    if not np.issubdtype(stored.dtype, np.signedinteger):
        return nowhere
    bits, low = _bits(dataset), int(stored.min())
    if bits < 9 or low not in (-(1 << (bits - 1)), np.iinfo(stored.dtype).min):
        return nowhere
    lowest = np.asarray(stored == low)
    others = stored[~lowest]
    if not others.size or int(others.min()) - low <= int(others.max()) - int(others.min()):
        return nowhere
    return lowest


def _as_stored(value: int, dataset: FileDataset, stored: Stored) -> int:
    """A padding value as the pixels hold it: the same bits, signed as they are."""
    if not np.issubdtype(stored.dtype, np.integer):
        return value
    limits = np.iinfo(stored.dtype)
    if not limits.min <= value <= limits.max:
        value = (value - int(limits.min)) % (1 << limits.bits) + int(limits.min)
    unused = max(0, limits.bits - _bits(dataset))  # pydicom clears them in the pixels, too
    return int(np.asarray(value, dtype=stored.dtype) << unused >> unused)


def _rescaled(dataset: FileDataset) -> bool:
    """Whether there is a rescale that changes anything."""
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    return (slope, intercept) not in ((None, None), (None, 0), (1, None), (1, 0))


def _bits(dataset: FileDataset) -> int:
    """Bits Stored, which floating-point pixels have not."""
    return int(dataset.get("BitsStored") or 32)


def _number(dataset: Dataset, tag: str) -> float | None:
    """The first of a tag's values, None where it is absent or empty."""
    value = dataset.get(tag)
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return None if value is None or str(value).strip() == "" else float(str(value))
