"""Bytes of a picture or a DICOM file to a grey image, and a grey image to a small square.

Pixels are read the way a radiologist sees them: bright is dense. Hostile or damaged files end in a
:class:`UserError` that names the file and nothing of its content.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmed.base.errors import UserError
from fedmed.data import dicom
from fedmed.data.greyscale import padding_of, shown
from fedmed.data.pictures import picture
from fedmed.data.quiet import quiet

PREPROCESSING = "grey, centre square, antialiased triangle filter, uint8; version 1"
"""Names what :func:`decode` and :func:`to_square` do; it changes whenever their pixels change."""

MAX_PIXELS = 80_000_000
"""Larger images are refused: a few kilobytes can claim to be gigapixels."""

MAX_DICOM_PIXELS = 40_000_000
"""The same of a DICOM, whose values take eight bytes each: a mammogram has 28 million."""

_DAMAGED = "damaged or not an image; replace the file or drop its row"


def decode(data: bytes, name: str, bits: int = 0) -> NDArray[np.float32]:
    """Grey image, float32 in [0, 1], shape (height, width), from the bytes of one file.

    Pictures of 8 bits are scaled by 255, those of 16 by what they or ``bits``
    (``data.bits-stored``; 0: nothing) say; colour becomes luminance and transparency is dropped.
    For DICOM see :func:`_dicom`. What a ``.gz`` holds is read as if it were unpacked. ``name`` is
    only for messages. Raises :class:`UserError` naming the file and the remedy.
    """
    try:
        data = dicom.unpacked(data, name)
        if dicom.is_dicom(data):
            image = _dicom(data, name)
        else:
            image = picture(data, name, MAX_PIXELS, bits)
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


def _dicom(data: bytes, name: str) -> NDArray[np.float32]:
    """One grey DICOM frame: modality, then the first VOI window or table, MONOCHROME1 inverted.

    Padding becomes 0; see :mod:`fedmed.data.greyscale`. Where one sample a pixel has no Photometric
    Interpretation, bright is bright (MONOCHROME2), unless the Presentation LUT Shape is INVERSE.
    """
    with warnings.catch_warnings(), quiet("pydicom"):
        warnings.simplefilter("ignore")  # pydicom's warnings quote tag values
        dataset = dicom.read(data, name)
        if not any(tag in dataset for tag in ("PixelData", "FloatPixelData")):
            raise UserError(f"{name}: a DICOM without pixels; export the image or drop its row")
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise UserError(f"{name}: a DICOM of several frames; export one frame per file")
        photometric = str(dataset.get("PhotometricInterpretation") or "")
        if not photometric and int(dataset.get("SamplesPerPixel") or 1) == 1:
            inverse = dataset.get("PresentationLUTShape") == "INVERSE"
            photometric = "MONOCHROME1" if inverse else "MONOCHROME2"
            dataset.PhotometricInterpretation = photometric
            dataset.SamplesPerPixel = 1
        if photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise UserError(f"{name}: a DICOM in colour; export it as MONOCHROME2")
        height, width = int(dataset.Rows), int(dataset.Columns)
        if height * width > MAX_DICOM_PIXELS:
            most = MAX_DICOM_PIXELS // 1_000_000
            raise UserError(f"{name}: larger than {most} megapixels; reduce it before use")
        if min(height, width) < 1:
            raise UserError(f"{name}: {_DAMAGED}")
        stored = dicom.pixels(dataset, name)
        padding = padding_of(dataset, stored)
        image = shown(dataset, stored, padding, name)
    if photometric == "MONOCHROME1":
        image = 1 - image
    image[padding] = 0
    return image
