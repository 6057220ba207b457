"""Bytes of a PNG, JPEG or DICOM file to a grey image, and a grey image to a small square.

Pixels are read the way a radiologist sees them: bright is dense. Hostile or damaged files end in a
:class:`UserError` that names the file and nothing of its content.
"""

import io
import logging
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from fedmed.base.errors import UserError
from fedmed.data import dicom

PREPROCESSING = "grey, centre square, antialiased triangle filter, uint8; version 1"
"""Names what :func:`decode` and :func:`to_square` do; it changes whenever their pixels change."""

MAX_PIXELS = 80_000_000
"""Larger images are refused: a few kilobytes can claim to be gigapixels."""

MAX_DICOM_PIXELS = 40_000_000
"""The same of a DICOM, whose values take eight bytes each: a mammogram has 28 million."""

_DAMAGED = "damaged or not an image; replace the file or drop its row"


def decode(data: bytes, name: str) -> NDArray[np.float32]:
    """Grey image, float32 in [0, 1], shape (height, width), from the bytes of one file.

    PNG (8 or 16 bit) and JPEG are scaled by the largest value of their type; colour becomes
    luminance and transparency is dropped. For DICOM see :func:`_dicom`. ``name`` is only for
    messages. Raises :class:`UserError` naming the file and the remedy.
    """
    is_dicom = data[128:132] == b"DICM" or name.lower().endswith((".dcm", ".dicom"))
    try:
        image = _dicom(data, name) if is_dicom else _picture(data, name)
    except UserError:
        raise
    except Exception as error:  # decoders fail on hostile bytes in ways that cannot be listed
        raise UserError(f"{name}: {_DAMAGED} ({type(error).__name__})") from None
    if image.size == 0 or not np.isfinite(image).all():
        raise UserError(f"{name}: {_DAMAGED}")
    return image


def to_square(image: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Centre-crop a float image in [0, 1] to a square and resize it, uint8, shape (size, size).

    Pillow's triangle filter widens with the reduction, so that nothing aliases; it also enlarges.
    """
    height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side], dtype=np.float32)
    if side != size:
        resized = Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR)
        square = np.asarray(resized, dtype=np.float32)
    return np.rint(np.clip(square, 0, 1) * 255).astype(np.uint8)


def _check_size(height: int, width: int, name: str, most: int) -> None:
    if height * width > most:
        raise UserError(f"{name}: larger than {most // 1_000_000} megapixels; reduce it before use")
    if min(height, width) < 1:
        raise UserError(f"{name}: {_DAMAGED}")


def _picture(data: bytes, name: str) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        _check_size(picture.height, picture.width, name, MAX_PIXELS)
        picture.load()
        if picture.mode.startswith("I"):  # 16-bit grey: "I;16", or "I" from older encoders
            return _scaled(picture, 65535)
        if picture.mode not in ("L", "RGB"):
            # Straight to "L" would let a palette's or an alpha channel's numbers through as grey.
            picture = picture.convert("RGB")  # type: ignore[assignment]  # from ImageFile
        return _scaled(picture.convert("L"), 255)


def _scaled(picture: Image.Image, largest: int) -> NDArray[np.float32]:
    values = np.array(picture, dtype=np.float32)
    values /= np.float32(largest)  # in place: the largest images take gigabytes
    return values


def _dicom(data: bytes, name: str) -> NDArray[np.float32]:
    """One grey DICOM frame: rescale, then the first VOI window or LUT, then MONOCHROME1 inversion.

    Without a window, 8-bit images without a rescale keep their stored range; deeper ones are
    stretched between the 0.1th and 99.9th percentile of their own pixels. Padding becomes 0.
    """
    with warnings.catch_warnings(), quiet("pydicom"):
        warnings.simplefilter("ignore")  # pydicom's warnings quote tag values
        dataset = dicom.read(data, name)
        if not any(tag in dataset for tag in ("PixelData", "FloatPixelData")):
            raise UserError(f"{name}: a DICOM without pixels; export the image or drop its row")
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise UserError(f"{name}: a DICOM of several frames; export one frame per file")
        photometric = str(dataset.get("PhotometricInterpretation", ""))
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise UserError(f"{name}: a DICOM in colour; export it as MONOCHROME2")
        _check_size(int(dataset.Rows), int(dataset.Columns), name, MAX_DICOM_PIXELS)
        stored = dicom.pixels(dataset, name)
        padding = padding_of(dataset, stored)
        image = _window(dataset, stored, padding)
    if photometric == "MONOCHROME1":
        image = 1 - image
    image[padding] = 0
    return image


def padding_of(dataset: FileDataset, stored: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Where the detector saw nothing: Pixel Padding Value, or the range to its limit."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _window(
    dataset: FileDataset, stored: NDArray[np.integer[Any]], padding: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Stored values to [0, 1], by DICOM PS3.3 C.11.2.1.2 where a window is given.

    In place, as far as it goes: the values take eight bytes each.
    """
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        looked_up = apply_voi(values.astype(np.int64), dataset)
        return np.asarray(looked_up / (2**bits - 1), dtype=np.float32).clip(0, 1)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None:
        shape = str(dataset.get("VOILUTFunction") or "LINEAR")
        if shape == "SIGMOID":
            exponent = np.clip(-4 * (values - centre) / width, -60, 60)
            values = 1 / (1 + np.exp(exponent))
        else:
            exact = shape == "LINEAR_EXACT"
            values -= centre if exact else centre - 0.5
            values /= width if exact else max(width - 1, 1e-6)
            values += 0.5
    elif int(dataset.BitsStored) <= 8 and "RescaleSlope" not in dataset:
        values /= 2 ** int(dataset.BitsStored) - 1
    else:
        seen = values[~padding] if not padding.all() else values.flatten()
        low, high = np.percentile(seen, (0.1, 99.9), overwrite_input=True)
        del seen
        values -= low
        values /= max(high - low, 1e-6)
    return np.clip(values, 0, 1, out=values).astype(np.float32)


def _first(value: object) -> float | None:
    """The first of one or several windows, None where there is none."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return None if value in (None, "") else float(str(value))


class quiet:
    """Silence one logger: pydicom and nibabel log values that they cannot read."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._was = self._logger.disabled

    def __enter__(self) -> None:
        self._was = self._logger.disabled
        self._logger.disabled = True

    def __exit__(self, *_: object) -> None:
        self._logger.disabled = self._was
