"""PNG, JPEG, TIFF, BMP, WebP and JPEG 2000: depth, orientation, and formats that are named."""

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support import goes_red, refuses
from support.images import picture

from fedmed.data.decode import decode

GREY = np.linspace(0, 255, 48 * 32).reshape(48, 32).astype(np.uint8)
FULL = GREY.astype(np.uint16) * 257
TWELVE = FULL >> 4


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with a chunk more after its header."""
    check = zlib.crc32(kind + body).to_bytes(4, "big")
    return png[:33] + len(body).to_bytes(4, "big") + kind + body + check + png[33:]


@pytest.mark.parametrize(
    ("data", "name", "within"),
    [
        (picture(GREY, "TIFF"), "a.tif", 1e-6),
        (picture(GREY, "TIFF", compression="tiff_lzw"), "a.tif", 1e-6),
        (picture(FULL, "TIFF"), "a.tif", 1e-4),
        (picture(GREY, "BMP"), "a.bmp", 1e-6),
        (picture(GREY, "WEBP", lossless=True), "a.webp", 0.01),
        (picture(GREY, "JPEG2000", irreversible=False), "a.jp2", 1e-6),
        (imagecodecs.jpeg2k_encode(TWELVE, bitspersample=12, level=0), "a.jp2", 0.01),
        (picture(GREY), "a.dcm", 1e-6),
    ],
    ids=["tiff", "lzw", "16-bit tiff", "bmp", "webp", "jp2", "12-bit jp2", "png called dicom"],
)
def test_a_format_that_is_read_shows_the_same_picture(
    data: bytes, name: str, within: float, capfd: pytest.CaptureFixture[str]
) -> None:
    assert decode(data, name) == pytest.approx(GREY / 255, abs=within)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("array", [GREY, FULL], ids=["8 bits", "16 bits"])
def test_a_tiff_whose_0_is_white_is_no_negative(array: NDArray[Any]) -> None:
    negative = array.max() - array
    data = bytearray(picture(negative, "TIFF"))
    with Image.open(io.BytesIO(bytes(data))) as opened:
        assert opened.tag_v2[262] == 1  # type: ignore[attr-defined]  # a TIFF's
    entry = data.find((262).to_bytes(2, "little") + b"\3\0\1\0\0\0")
    data[entry + 8] = 0
    assert decode(bytes(data), "a.tif") == pytest.approx(GREY / 255, abs=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_orientation_is_applied(kind: str) -> None:
    """Sabotage: a film that lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    array = np.zeros((40, 24), dtype=np.uint8)
    array[:20] = 250
    image = decode(picture(array, kind, exif=exif), "a")
    assert image.shape == (24, 40)
    assert image[:, 30:].mean() > 0.9
    assert image[:, :10].mean() < 0.1


def test_a_bad_exif_is_none() -> None:
    data = picture(GREY, "JPEG", quality=100, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data, "a.jpg") == pytest.approx(GREY / 255, abs=0.03)


def twelve_is_full(image: NDArray[np.float32]) -> None:
    assert image == pytest.approx(GREY / 255, abs=2e-3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_12_bits_in_16_are_refused_until_they_are_declared(kind: str) -> None:
    """Sabotage: scaled by 65,535 they are 16 grey levels, and the film is black."""
    data = picture(TWELVE, kind)
    refuses(
        lambda: decode(data, "a.png"), "a.png: a 16-bit file that uses 12 bits",
        "set data.bits-stored = '12' (or '16'",
    )  # fmt: skip
    twelve_is_full(decode(data, "a.png", 12))
    goes_red(twelve_is_full, decode(data, "a.png", 16))


def test_the_value_to_declare_is_that_of_a_usual_detector() -> None:
    for top, bits in ((1000, 10), (1030, 12), (5000, 14), (16383, 14)):
        data = picture(np.array([[0, top // 2], [1, top]], dtype=np.uint16))
        refuses(lambda data=data: decode(data, "a"), f"data.bits-stored = '{bits}'")  # type: ignore[misc]  # a default


def test_values_that_the_declared_bits_do_not_hold_are_refused() -> None:
    refuses(
        lambda: decode(picture(FULL), "a.png", 12),
        "a.png: values above 4095", "data.bits-stored = '12'", "set it to '16'",
    )  # fmt: skip


@pytest.mark.parametrize(("top", "bits"), [(4095, 12), (16383, 14)])
def test_a_marker_at_full_white_does_not_hide_a_dark_film(top: int, bits: int) -> None:
    """Four letters' pixels of 1,600 at 65535: sabotage scales the film by them, to a quarter."""
    film = np.linspace(0, top, 1600).reshape(40, 40).astype(np.uint16)
    plain = decode(picture(film), "a.png", bits)
    marked = film.copy()
    marked[:2, :2] = 65535
    data = picture(marked)
    refuses(
        lambda: decode(data, "a.png"), f"uses {bits} bits but for a marker",
        f"set data.bits-stored = '{bits}'",
    )  # fmt: skip
    read = decode(data, "a.png", bits)
    assert (read[:2, :2] == 1.0).all()
    assert (read[2:] == plain[2:]).all()
    marked[:1] = 65535  # a whole row is no marker
    assert decode(picture(marked), "a.png").max() == 1.0
    refuses(lambda: decode(picture(marked), "a.png", bits), f"values above {top}")


def test_a_16_bit_file_that_uses_most_of_its_range_needs_no_declaration() -> None:
    assert decode(picture(FULL // 3), "a.png").max() == pytest.approx(1 / 3, abs=1e-4)


def test_the_significant_bits_of_a_png_decide_for_it_alone() -> None:
    """By the standard values are spread over 16 bits; some writers leave them as they were."""
    spread = with_chunk(picture(FULL & 0xFFF0), b"sBIT", b"\x0c")
    raw = with_chunk(picture(TWELVE), b"sBIT", b"\x0c")
    for bits in (0, 12, 14):
        twelve_is_full(decode(spread, "a.png", bits))
        twelve_is_full(decode(raw, "a.png", bits))


def test_a_tiff_of_12_bits_says_so_itself() -> None:
    high, width = TWELVE.shape
    pairs = TWELVE.reshape(-1, 2).astype(np.uint32)
    three = (pairs[:, 0] << 12) | pairs[:, 1]
    packed = np.stack([three >> 16, three >> 8, three], axis=1).astype(np.uint8).tobytes()
    tags = {256: width, 257: high, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: high}
    tags[279] = len(packed)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    twelve_is_full(decode(head.ljust(200, b"\0") + packed, "a.tif"))


def test_colour_of_16_bits_with_values_of_12_is_refused() -> None:
    for array in (FULL, TWELVE):
        rgb = imagecodecs.png_encode(np.repeat(array[..., None], 3, axis=2))
        if array is FULL:
            assert decode(rgb, "a.png") == pytest.approx(GREY / 255, abs=0.01)
        else:
            refuses(lambda rgb=rgb: decode(rgb, "a.png"), "a.png: colour of 16 bits")  # type: ignore[misc]  # a default


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture(GREY, "GIF"), "a GIF file"),
        (picture(GREY, "PPM"), "a PNM file"),
        (b"NRRD0004\ntype: short\n", "a NRRD file"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage file"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC or video file"),
        (picture(GREY, "AVIF"), "a AVIF file"),
        (picture(np.ones((8, 8), dtype=np.float32), "TIFF"), "pixels of 32 bits"),
        (picture(np.ones((8, 8), dtype=np.int32), "TIFF"), "pixels of 32 bits"),
    ],
    ids=["gif", "pnm", "nrrd", "mha", "pdf", "heic", "avif", "float", "32 bits"],
)
def test_what_is_not_read_is_named_and_is_no_damage(data: bytes, words: str) -> None:
    refuses(lambda: decode(data, "x/a.img"), "x/a.img: ", words)


def test_several_pictures_in_one_file_are_refused() -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    for kind in ("TIFF", "WEBP"):
        buffer = io.BytesIO()
        pages[0].save(
            buffer, format=kind, save_all=True, append_images=[Image.fromarray(255 - GREY)]
        )
        data = buffer.getvalue()
        refuses(lambda data=data: decode(data, "a"), "a: several pictures in one file")  # type: ignore[misc]  # a default


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "WEBP", "JPEG2000"])
def test_a_damaged_picture_prints_nothing(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    data = picture(
        np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8), kind, **options
    )
    refuses(lambda: decode(data[: len(data) // 2], "a"), "a: damaged")
    assert capfd.readouterr() == ("", "")
