"""Images and volumes: PNG, JPEG, DICOM, NIfTI, numpy's files, and zips and folders of them."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, HARMLESS, Case, kind
from fuzz.kinds_tables import _claims, packed_png

SHEET = ("sheet.png", "sheet-brightness.png")
INSPECT = ["data", "inspect", "mine.toml", "--sheet=sheet.png"]


def one_image(rng: Random, folder: Path, data: bytes, suffix: str, note: str,
              expect: str = EITHER) -> Case:  # fmt: skip
    """A cohort in which one image is this one."""
    bases.cohort(rng, folder)
    rows = formats.cohort_rows()
    rows[0]["image"] = f"bad{suffix}"
    (folder / "table.csv").write_bytes(formats.csv(rows))
    (folder / "images" / f"bad{suffix}").write_bytes(data)
    names = (f"bad{suffix}",) if expect == BAD else ()
    return Case(arguments=INSPECT, expect=expect, writes=SHEET, names=names, note=note)


def volumes(rng: Random, folder: Path, data: bytes, suffix: str, note: str,
            expect: str = EITHER) -> Case:  # fmt: skip
    """The same of volumes."""
    case = one_image(rng, folder, data, suffix, note, expect)
    text = formats.EXPERIMENT.replace("image-size = 16", "image-size = 16\ndimensions = 3")
    (folder / "mine.toml").write_text(text)
    good = formats.nifti(rng)
    rows = formats.cohort_rows(".nii")
    for row in rows:
        (folder / "images" / str(row["image"])).write_bytes(good)
    rows[0]["image"] = f"bad{suffix}"
    (folder / "table.csv").write_bytes(formats.csv(rows))
    return case


@kind("png and jpeg: damaged", 4)
def pictures(rng: Random, folder: Path) -> Case:
    form = rng.choice(("PNG", "JPEG", "JPEG", "TIFF", "TIFF", "BMP", "WEBP", "JPEG2000"))
    options: dict[str, Any] = {"progressive": rng.random() < 0.3} if form == "JPEG" else {}
    if form == "TIFF":
        options = {
            "compression": rng.choice(("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"))
        }
    data, how = damage.cut_or_flip(rng, formats.picture(rng, form, **options))
    return one_image(rng, folder, data, f".{form.lower()}", how)


@kind("png: bombs and sizes", 2, heavy=True)
def bombs(rng: Random, folder: Path) -> Case:
    def text() -> bytes:
        body = b"k\0\0" + zlib.compress(bytes(300 << 20), 1)
        check = zlib.crc32(b"zTXt" + body)
        return len(body).to_bytes(4, "big") + b"zTXt" + body + check.to_bytes(4, "big")

    makers: dict[str, Any] = {
        "gigapixels": lambda: packed_png(100_000, 100_000, b""),
        "0 x 0": lambda: packed_png(0, 0, b""),
        "0 x 5": lambda: packed_png(0, 5, b"\0" * 5),
        "2^31": lambda: packed_png(2**31 - 1, 2**31 - 1, b""),
        "2^32": lambda: packed_png(2**32 - 1, 1, b""),
        "wide": lambda: packed_png(79_000_000, 1, b"\0" * 79_000_001),
        "tall": lambda: packed_png(1, 79_000_000, b"\0" * 158_000_000),
        "much data": lambda: packed_png(10, 10, b"\0" * (500 << 20)),
        "text": lambda: packed_png(10, 10, b"\0" * 110, text()),
        "16 bits": lambda: packed_png(8900, 8900, b"\0" * (8900 * 17801), bits=16),
        "3 bits": lambda: packed_png(10, 10, b"\0" * 110, bits=3),
        "another": lambda: b"GIF89a" + rng.randbytes(100),
        "tiff": lambda: b"II*\0" + rng.randbytes(100),
        "16-bit tiff": lambda: b"MM\0*\0\0\0\x08" + rng.randbytes(300),
        "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "empty": lambda: b"",
    }
    how = rng.choice(list(makers))
    fine = ("wide", "tall", "much data", "text", "16 bits")
    expect = EITHER if how in fine else BAD
    return one_image(rng, folder, makers[how](), ".png", how, expect)


@kind("dicom: damaged", 8)
def dicom_damaged(rng: Random, folder: Path) -> Case:
    syntax = rng.choice(formats.SYNTAXES)
    data, how = damage.cut_or_flip(rng, formats.dicom(rng, syntax))
    if rng.random() < 0.5:  # in the pixels
        head, tail = data[: len(data) // 2], data[len(data) // 2 :]
        tail, how = damage.cut_or_flip(rng, tail)
        data = head + tail
    return one_image(rng, folder, data, ".dcm", f"{syntax}: {how}")


@kind("dicom: tags", 4)
def dicom_tags(rng: Random, folder: Path) -> Case:
    tags = rng.choice(
        (
            {"Rows": 0}, {"Columns": 0}, {"Rows": 0, "Columns": 0},
            {"Rows": 65535, "Columns": 65535}, {"Rows": 6300, "Columns": 6300},
            {"NumberOfFrames": 10**9}, {"NumberOfFrames": -1}, {"BitsStored": 0},
            {"BitsAllocated": 1}, {"BitsAllocated": 65535}, {"BitsStored": 65535, "HighBit": 0},
            {"SamplesPerPixel": 3}, {"SamplesPerPixel": 0}, {"PixelRepresentation": 7},
            {"PhotometricInterpretation": "PALETTE COLOR"}, {"PhotometricInterpretation": ""},
            {"WindowCenter": 1e308, "WindowWidth": 1e-308}, {"WindowCenter": 0, "WindowWidth": 0},
            {"WindowCenter": 5, "WindowWidth": -1, "VOILUTFunction": "SIGMOID"},
            {"RescaleSlope": 1e300, "RescaleIntercept": 1e300}, {"RescaleSlope": 0},
            {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65535},
            {"PixelAspectRatio": [0, 0]}, {"PixelData": b""}, {"PixelData": b"\0" * 3},
        )
    )  # fmt: skip
    syntax = "plain" if "PixelData" in tags else rng.choice(("plain", "plain", "rle", "deflated"))
    data = formats.dicom(rng, syntax, **tags)
    return one_image(rng, folder, data, ".dcm", f"{syntax}: {tags}")


@kind("dicom: bombs", 2, heavy=True)
def dicom_bombs(rng: Random, folder: Path) -> Case:
    how = rng.choice(("deflated", "deflated", "nested", "undefined", "length", "rle", "many tags"))
    if how == "deflated":
        plain = formats.dicom(rng, "deflated", Rows=100, Columns=100)
        start = 132 + 12 + int.from_bytes(plain[140:144], "little")
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 3 << 30)
        parts = [packer.compress(element)]
        parts += [packer.compress(bytes(1 << 24)) for _ in range(192)]
        data = plain[:start] + b"".join(parts) + packer.flush()
    elif how == "nested":
        # By hand: pydicom's own writer, which recurses, took 22 GB for the text of its exception.
        depth, plain = rng.choice((200, 400, 5000)), formats.dicom(rng)
        item, ends = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
        ends += b"\xfe\xff\xdd\xe0\0\0\0\0"
        at = plain.index(b"\x28\x00\x02\x00US")  # the first of the image's own elements
        nest = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + item
        data = plain[:at] + nest * depth + ends * depth + plain[at:]
    elif how == "undefined":
        nest = (b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * 20_000
        data = formats.dicom(rng)[:400] + nest
    elif how == "length":
        data = formats.dicom(rng) + struct.pack("<HH2sHI", 0x7FE0, 0x0011, b"OB", 0, 0xFFFFFFF0)
    elif how == "rle":
        header = struct.pack("<16I", 15, *([64] * 15))
        found = formats.dicom(rng, "rle")
        at = found.rfind(b"\xfe\xff\x00\xe0")
        data = found[: at + 8] + header + found[at + 72 :]
    else:
        element = b"".join(
            struct.pack("<HH2sH", 0x0009, n % 65536, b"LO", 0) for n in range(200_000)
        )
        data = formats.dicom(rng)[:300] + element
    return one_image(rng, folder, data, ".dcm", how)


@kind("series", 3)
def series(rng: Random, folder: Path) -> Case:
    case = volumes(rng, folder, b"", ".nii", "")
    rows = formats.cohort_rows(".nii")
    rows[0]["image"] = "scan"
    (folder / "table.csv").write_bytes(formats.csv(rows))
    place = folder / "images" / "scan"
    place.mkdir()
    for plane in range(4):
        (place / f"{plane}.dcm").write_bytes(formats.ct_slice(rng, plane))
    how = rng.choice(("damaged", "damaged", "tags", "other", "link", "many", "alone"))
    target = place / "2.dcm"
    if how == "damaged":
        data, how = damage.cut_or_flip(rng, target.read_bytes())
        target.write_bytes(data)
    elif how == "tags":
        tags = rng.choice(
            (
                {"ImagePositionPatient": [0, 0, 1e300]}, {"PixelSpacing": [0, 0]}, {"Rows": 0},
                {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, {"PixelSpacing": [1e-300, 1]},
                {"RescaleSlope": 1e300}, {"Rows": 65535, "Columns": 65535}, {"Modality": "MR"},
                {"ImagePositionPatient": [0, 0, 0]}, {"SeriesInstanceUID": "9.9"},
            )
        )  # fmt: skip
        planes = range(4) if rng.random() < 0.5 else (2,)
        for plane in planes:
            (place / f"{plane}.dcm").write_bytes(formats.ct_slice(rng, plane, **tags))
        how = str(tags)
    elif how == "other":
        _, how = damage.placed(rng, target, damage.PLACES[:12])
    elif how == "link":
        (place / "up").symlink_to("..")
    elif how == "many":
        for number in range(5000):
            (place / f"x{number}").touch()
    else:
        for plane in range(3):
            (place / f"{plane}.dcm").unlink()
    case.note, case.expect = how, EITHER
    return case


@kind("nifti", 4)
def nifti(rng: Random, folder: Path) -> Case:
    packed = rng.random() < 0.4
    data = bytearray(formats.nifti(rng))
    how = rng.choice(("damaged", "field", "field", "bomb", "cut", "large"))
    if how == "field":
        at, form = rng.choice(
            ((0, "<i"), (40, "<8h"), (70, "<h"), (72, "<h"), (76, "<8f"), (108, "<f"), (112, "<f"),
             (116, "<f"), (123, "<B"), (252, "<h"), (254, "<h"), (256, "<6f"), (280, "<12f"),
             (344, "<4s"))
        )  # fmt: skip
        count = len(struct.unpack(form, bytes(struct.calcsize(form))))
        if form == "<4s":
            values: list[Any] = [rng.randbytes(4)]
        elif form[-1] in "hiB":
            top = {"h": 32767, "i": 2**31 - 1, "B": 255}[form[-1]]
            low = 0 if form[-1] == "B" else -top
            values = [rng.choice((0, low, top, 3, 1, 2)) for _ in range(count)]
        else:
            values = [rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30))
                      for _ in range(count)]  # fmt: skip
        struct.pack_into(form, data, at, *values)
        how = f"at {at}: {values}"
        made = bytes(data)
    elif how == "damaged":
        made, how = damage.cut_or_flip(rng, bytes(data))
    elif how == "bomb":
        struct.pack_into("<8h", data, 40, 3, 512, 512, 1000, 1, 1, 1, 1)
        made, packed = bytes(data[:352]) + bytes(512 * 512 * 2 * 1000), True
        made = gzip.compress(made, 1)
        return volumes(rng, folder, made, ".nii.gz", how, BAD)
    elif how == "large":
        struct.pack_into("<8h", data, 40, 3, 32000, 32000, 32000, 1, 1, 1, 1)
        made = bytes(data)
    else:
        made = bytes(data[: rng.randrange(len(data))])
    if packed:
        made = gzip.compress(made)
        if rng.random() < 0.3:
            made, more = damage.cut_or_flip(rng, made)
            how += f", packed, {more}"
    return volumes(rng, folder, made, ".nii.gz" if packed else ".nii", how)


@kind("npy and npz", 3)
def numpy_files(rng: Random, folder: Path) -> Case:
    good = np.random.default_rng(0).integers(-900, 900, (8, 9, 10)).astype(np.int16)
    makers: dict[str, Any] = {
        "objects": lambda: formats.npy(np.array([{}], object), allow_pickle=True),
        "0-d": lambda: formats.npy(np.array(3)),
        "no rows": lambda: formats.npy(np.zeros((0, 3, 3), np.int16)),
        "4-d": lambda: formats.npy(np.zeros((2, 2, 2, 2), np.int16)),
        "text": lambda: formats.npy(np.array([[["a"]]])),
        "nan": lambda: formats.npy(np.full((3, 3, 3), np.nan)),
        "large": lambda: _claims(rng, "(100000, 100000, 100000)", b""),
        "header": lambda: _claims(
            rng, rng.choice(("(" * 3000, "(-1, 2, 2)", "[[]]", "(1,)*9")), b""
        ),
        "long header": lambda: _claims(rng, "(" + "1," * 40_000 + ")", b""),
        "version": lambda: b"\x93NUMPY\x09\x00" + b"\0" * 100,
        "damaged": lambda: damage.cut_or_flip(rng, formats.npy(good))[0],
        "huge ints": lambda: formats.npy(np.full((3, 3, 3), 2**64 - 1, np.uint64)),
        "zeros": lambda: _claims(rng, "(1000, 512, 512)", bytes(1000 * 512 * 512)),
    }
    how = rng.choice(list(makers))
    data = makers[how]()
    if rng.random() < 0.5 and how != "zeros":
        members = {"volume.npy": data}
        if rng.random() < 0.5:
            members["spacing.npy"] = rng.choice(
                (formats.npy(np.array([1.0, 2.0, np.nan])), formats.npy(np.zeros(3)), b"",
                 formats.npy(np.array(["a", "b", "c"])), formats.npy(np.ones(2)))
            )  # fmt: skip
        data, suffix = formats.archive(members), ".npz"
        if rng.random() < 0.2:
            data, more = damage.cut_or_flip(rng, data)
            how += f", {more}"
    else:
        suffix = ".npy"
    return volumes(rng, folder, data, suffix, how)


def zipped(rng: Random, folder: Path, data: bytes, note: str, expect: str = EITHER) -> Case:
    """A cohort with its images in this zip."""
    bases.cohort(rng, folder)
    (folder / "images.zip").write_bytes(data)
    text = formats.EXPERIMENT.replace('"images"', '"images.zip"')
    (folder / "mine.toml").write_text(text)
    names = ("images.zip",) if expect == BAD else ()
    return Case(arguments=INSPECT, expect=expect, writes=SHEET, names=names, note=note)


def members(rng: Random) -> dict[str, bytes]:
    """Good images by name."""
    return {str(row["image"]): formats.picture(rng) for row in formats.cohort_rows()}


@kind("zip: damaged", 3)
def zip_damaged(rng: Random, folder: Path) -> Case:
    data = formats.archive(members(rng))
    if rng.random() < 0.5:  # its directory stands at the end
        data, how = damage.cut_or_flip(rng, data[::-1])
        data = data[::-1]
    else:
        data, how = damage.cut_or_flip(rng, data)
    return zipped(rng, folder, data, how)


@kind("zip: bombs, links and names", 3)
def zip_bombs(rng: Random, folder: Path) -> Case:
    good = members(rng)
    how = rng.choice(("bomb", "link", "absolute", "above", "twice", "many", "encrypted", "method",
                      "claims", "nul", "names", "empty", "zip in zip", "crc"))  # fmt: skip
    buffer = io.BytesIO()
    expect = BAD
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for name, data in good.items():
            if name == "00.png" and how in ("bomb", "link", "absolute", "above", "empty", "nul"):
                continue
            opened.writestr(name, data)
        if how == "bomb":
            with opened.open("00.png", "w", force_zip64=True) as out:
                for _ in range(60):
                    out.write(bytes(10 << 20))
        elif how == "link":
            info = zipfile.ZipInfo("00.png")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            opened.writestr(info, "/etc/passwd")
        elif how == "absolute":
            opened.writestr("/etc/passwd", good["00.png"])
        elif how == "above":
            opened.writestr("../00.png", good["00.png"])
        elif how == "nul":
            opened.writestr("00.png\0.txt", good["00.png"])
            expect = EITHER
        elif how == "twice":
            opened.writestr(zipfile.ZipInfo("00.png"), b"not this")
        elif how == "many":
            expect = EITHER
            for number in range(60_000):
                opened.writestr(zipfile.ZipInfo(f"d{number}/{'x' * 20}"), b"")
        elif how == "names":
            expect = EITHER
            for text in damage.TEXTS:
                if text and "\ud800" not in text and "\0" not in text:
                    opened.writestr(zipfile.ZipInfo(text), b"")
        elif how == "zip in zip":
            expect = EITHER
            opened.writestr("inner.zip", formats.archive(good))
    data = bytearray(buffer.getvalue())
    at = data.find(b"PK\x01\x02")
    if how == "encrypted":
        data[at + 8] |= 1
    elif how == "method":
        data[at + 10] = rng.choice((1, 9, 12, 14, 93, 99))
    elif how == "claims":
        data[at + 24 : at + 28] = b"\xf0\xff\xff\xff"
    elif how == "crc":
        data[at + 16] ^= 1
    case = zipped(rng, folder, bytes(data), how, expect)
    if how in ("absolute", "above"):
        rows = formats.cohort_rows()
        rows[0]["image"] = {"absolute": "/etc/passwd", "above": "../00.png"}[how]
        (folder / "table.csv").write_bytes(formats.csv(rows))
        case.expect, case.names = EITHER, ()
    if how in ("method", "twice"):
        case.expect, case.names = EITHER, ()
    return case


@kind("images: other places", 3)
def other_places(rng: Random, folder: Path) -> Case:
    case = one_image(rng, folder, b"", ".png", "")
    how = rng.choice(("placed", "placed", "placed", "name", "root"))
    if how == "placed":
        among = tuple(p for p in damage.PLACES if p not in ("long", "through", "folder"))
        _, how = damage.placed(rng, folder / "images" / "bad.png", among)
        case.expect, case.names = BAD, ("bad.png",)
    elif how == "name":
        rows = formats.cohort_rows()
        odd = rng.choice((*damage.TEXTS, "..", ".", "a/../../b", "images/../00.png", "x" * 5000,
                          "//00.png", "00.png/", "00.png/x"))  # fmt: skip
        rows[0]["image"] = odd
        (folder / "table.csv").write_bytes(
            formats.csv(rows) if odd != "\ud800" else b"image,label\n\xed\xa0\x80,1\n"
        )
        how = repr(odd)[:40]
        case.expect = EITHER
    else:
        _, how = damage.placed(rng, folder / "images.zip", damage.HARMFUL)
        text = formats.EXPERIMENT.replace('"images"', '"images.zip"')
        (folder / "mine.toml").write_text(text)
        case.expect, case.names = BAD, ()
    case.note = how
    return case


@kind("kermany")
def kermany(rng: Random, folder: Path) -> Case:
    root = folder / "chest"
    for split in ("train", "val", "test"):
        for group, label in (
            ("NORMAL", "IM-{:04}-0001.jpeg"),
            ("PNEUMONIA", "person{}_virus_1.jpeg"),
        ):
            place = root / split / group
            place.mkdir(parents=True)
            for number in range(4):
                number += {"train": 0, "val": 10, "test": 20}[split]
                (place / label.format(number)).write_bytes(formats.picture(rng, "JPEG"))
    target = root / "train" / "NORMAL" / "IM-0000-0001.jpeg"
    how = rng.choice(("damaged", "placed", "link up", "name", "fine"))
    expect = EITHER
    if how == "damaged":
        data, how = damage.cut_or_flip(rng, target.read_bytes())
        target.write_bytes(data)
    elif how == "placed":
        # A sheet shows some of the images, and may leave it out.
        _, how = damage.placed(rng, target, ("fifo", "zero", "socket", "loop", "sparse", "empty"))
    elif how == "link up":
        (root / "train" / "again").symlink_to("..")
    elif how == "name":
        (target.parent / "\x1b[31m[bold]\u202e.jpeg").write_bytes(b"x")
    else:
        expect = HARMLESS
    text = 'arms = ["none"]\n[data]\nsource = "kermany"\npath = "chest"\nimage-size = 16\n'
    text += 'hospitals = 1\npartition = "even"\n'
    (folder / "mine.toml").write_text(text)
    return Case(arguments=["data", "inspect", "mine.toml", "--sheet=sheet.png"], expect=expect,
                writes=SHEET, note=how)  # fmt: skip


@kind("images: harmless")
def harmless(rng: Random, folder: Path) -> Case:
    syntax = rng.choice((*formats.SYNTAXES, "png"))
    data = formats.picture(rng) if syntax == "png" else formats.dicom(rng, syntax)
    suffix = ".png" if syntax == "png" else ".dcm"
    return one_image(rng, folder, data, suffix, syntax, HARMLESS)
