"""Tables: CSV and Parquet, as a cohort's and as predictions, and weights in files."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz import bases, damage, formats
from fuzz.cases import BAD, EITHER, HARMLESS, Case, kind

from fedmed.config.sources import MAPPINGS

SHEET = ("sheet.png", "sheet-brightness.png")


def slot(rng: Random, folder: Path, suffix: str) -> tuple[Path, list[str], str]:
    """A place where a table of this kind is read: its path, the command, and which."""
    if rng.random() < 0.5:
        path = folder / f"p{suffix}"
        if rng.random() < 0.2:
            (folder / "other.parquet").write_bytes(formats.parquet(formats.scores(rng)))
            return path, ["evaluate", "other.parquet", "--baseline", path.name,
                          "--resamples=50"], "predictions"  # fmt: skip
        return path, ["evaluate", path.name, "--resamples=50"], "predictions"
    bases.cohort(rng, folder)
    path = folder / f"table{suffix}"
    text = formats.EXPERIMENT.replace("table.csv", path.name)
    (folder / "mine.toml").write_text(text)
    return path, ["data", "inspect", "mine.toml", "--sheet=sheet.png"], "cohort"


def frame(rng: Random, which: str) -> pd.DataFrame:
    """A good table for a slot."""
    return formats.scores(rng) if which == "predictions" else pd.DataFrame(formats.cohort_rows())


@kind("csv: cells", 4)
def cells(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".csv")
    table = frame(rng, which).astype(object)
    for _ in range(rng.choice((1, 1, 3))):
        column = rng.choice(list(table.columns))
        odd = rng.choice((damage.text(rng), str(rng.choice(damage.NUMBERS)), "1" * 5000))
        rows = [rng.randrange(len(table))] if rng.random() < 0.7 else range(len(table))
        for row in rows:
            table.loc[row, column] = odd
    text = table.to_csv(index=False)
    path.write_bytes(text.encode("utf-8", "replace"))
    return Case(arguments=arguments, writes=SHEET, note=f"{which}: {column} is {odd[:40]!r}")


@kind("csv: columns", 2)
def columns(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".csv")
    table = frame(rng, which).astype(object)
    how = rng.choice(("100,000", "twice", "renamed", "dropped", "none", "header only", "one line"))
    expect = EITHER
    if how == "100,000":
        expect = BAD
        more = ",".join(f"c{n}" for n in range(100_000))
        lines = table.to_csv(index=False).splitlines()
        path.write_text(
            "\n".join([f"{lines[0]},{more}", *(f"{r}{',' * 100_000}" for r in lines[1:])])
        )
    elif how == "twice":
        name = rng.choice(list(table.columns))
        doubled = pd.concat([table, table[[name]]], axis=1)
        doubled.to_csv(path, index=False)
    elif how == "renamed":
        name = rng.choice(list(table.columns))
        table.rename(columns={name: damage.text(rng).encode("utf-8", "replace").decode()}).to_csv(
            path, index=False
        )
    elif how == "dropped":
        table.drop(columns=rng.choice(list(table.columns))).to_csv(path, index=False)
    elif how == "none":
        path.write_text("\n\n")
        expect = BAD
    elif how == "header only":
        table.iloc[:0].to_csv(path, index=False)
        expect = BAD
    else:
        path.write_text(",".join(map(str, table.columns)) + "," + "x" * (5 << 20))
        expect = BAD
    return Case(arguments=arguments, expect=expect, writes=SHEET, note=f"{which}: {how}",
                names=(path.name,) if expect == BAD else ())  # fmt: skip


@kind("csv: damaged", 3)
def csv_damaged(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".csv")
    plain = frame(rng, which).to_csv(index=False)
    how = rng.choice(("flip", "encoding", "quotes", "ragged", "nuls"))
    if how == "flip":
        data, how = damage.cut_or_flip(rng, plain.encode())
    elif how == "encoding":
        data, how = damage.encoded(rng, plain)
    elif how == "quotes":
        data = plain.replace(",", ',"', 1).encode()
    elif how == "ragged":
        data = plain.encode() + b"a,b,c,d,e,f,g,h,i,j,k,l,m\n" + b"," * 1000
    else:
        data = b"\0" * rng.choice((1, 1000, 3_000_000))
    path.write_bytes(data)
    return Case(arguments=arguments, writes=SHEET, note=f"{which}: {how}")


@kind("csv: packed", heavy=True)
def packed(rng: Random, folder: Path) -> Case:
    bases.cohort(rng, folder)
    path = folder / "table.csv.gz"
    how = rng.choice(("bomb", "cut", "no gzip", "rows"))
    header = b"image,label,patient_id\n"
    if how == "bomb":
        path.write_bytes(gzip.compress(header + b"a" * (1 << 30), 1))
    elif how == "rows":
        path.write_bytes(gzip.compress(header + b"a,1,b\n" * 60_000_000, 1))
    else:
        data = gzip.compress(formats.csv(formats.cohort_rows()))
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data[::-1])
    (folder / "mine.toml").write_text(formats.EXPERIMENT.replace("table.csv", path.name))
    return Case(arguments=["data", "inspect", "mine.toml", "--sheet=sheet.png"], expect=BAD,
                names=(path.name,), note=how)  # fmt: skip


@kind("csv: harmless text")
def harmless_text(rng: Random, folder: Path) -> Case:
    """Names that a terminal could obey, where any name is allowed."""
    path = folder / "p.csv"
    table = formats.scores(rng)
    odd = rng.choice([t for t in damage.TEXTS if t.strip() and "\0" not in t and t != "\ud800"])
    table["hospital"] = table["hospital"].replace("hospital-1", odd)
    table.to_csv(path, index=False)
    arguments = ["evaluate", "p.csv", "--resamples=50"]
    if rng.random() < 0.5:
        arguments += ["--json"]
    return Case(arguments=arguments, expect=EITHER, note=repr(odd)[:50])


def odd_column(rng: Random, rows: int) -> Any:
    """A column of a type that a table of text and numbers has not."""
    makers: tuple[Any, ...] = (
        lambda: pa.array([b"\xff\x00" + bytes([n % 256]) for n in range(rows)]),
        lambda: pa.array([[1, 2]] * rows),
        lambda: pa.array([{"a": 1}] * rows),
        lambda: pa.array(list(range(rows)), pa.timestamp("s")),
        lambda: pa.array([2**62 - n for n in range(rows)], pa.timestamp("us")),
        lambda: pa.array(list(range(rows)), pa.duration("ns")),
        lambda: pa.array(list(range(rows)), pa.date32()),
        lambda: pa.array([2**31 - 1 - n for n in range(rows)], pa.date32()),
        lambda: pa.array([True] * rows),
        lambda: pa.nulls(rows),
        lambda: pa.array([float("nan")] * rows),
        lambda: pa.array([float("inf")] * rows),
        lambda: pa.array([2**63 - 1] * rows),
        lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
        lambda: pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
        lambda: pa.array([damage.text(rng).encode("utf-8", "replace").decode()] * rows),
        lambda: pa.array([__import__("decimal").Decimal(10) ** 30] * rows),
        lambda: pa.array(
            [("k", 1)] * rows and [[("k", 1)]] * rows, pa.map_(pa.string(), pa.int32())
        ),
        lambda: pa.array(["x" * 100_000] * rows),
        lambda: pa.array([1.5] * rows, pa.float16()),
    )
    return rng.choice(makers)()


@kind("parquet: types", 4)
def types(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".parquet")
    table = pa.Table.from_pandas(frame(rng, which), preserve_index=False)
    name = rng.choice(table.column_names)
    column = odd_column(rng, len(table))
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, column), path)
    return Case(arguments=arguments, writes=SHEET, note=f"{which}: {name} is {column.type}")


@kind("parquet: shape", 2, heavy=True)
def shape(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".parquet")
    table = pa.Table.from_pandas(frame(rng, which), preserve_index=False)
    how = rng.choice(("no rows", "no columns", "many columns", "twice", "rows", "bomb", "metadata"))
    expect = BAD
    if how == "no rows":
        table = table.slice(0, 0)
    elif how == "no columns":
        table = pa.table({})
    elif how == "many columns":
        table = pa.table({f"c{n}": [1] for n in range(30_000)})
    elif how == "twice":
        table = table.append_column(table.column_names[0], table.column(0))
        expect = EITHER
    elif how == "rows":  # packs into kilobytes
        one = pa.repeat(pa.scalar("a" * 20), 2_000_000)
        table = pa.table(dict.fromkeys(("image", "label", "score", "patient_id"), one))
    elif how == "bomb":
        # As numbers of one text: written out they would stay in this process's memory, and count
        # in that of every fork.
        one = pa.DictionaryArray.from_arrays(pa.array([0] * 2500, pa.int32()), ["x" * (1 << 20)])
        table = pa.table({"image": one, "label": pa.repeat(pa.scalar(1), 2500)})
    else:
        odd = json.dumps(damage.value(rng)).encode()
        table = table.replace_schema_metadata({b"pandas": odd})
        expect = EITHER
    pq.write_table(table, path)
    return Case(arguments=arguments, expect=expect, writes=SHEET, note=f"{which}: {how}",
                names=(path.name,) if expect == BAD else ())  # fmt: skip


@kind("parquet: damaged", 3)
def parquet_damaged(rng: Random, folder: Path) -> Case:
    path, arguments, which = slot(rng, folder, ".parquet")
    data, how = damage.cut_or_flip(rng, formats.parquet(frame(rng, which)))
    if rng.random() < 0.4:  # the footer is the header of a Parquet
        mirrored, how = damage.cut_or_flip(rng, formats.parquet(frame(rng, which))[::-1])
        data, how = mirrored[::-1], f"{how} from the end"
    path.write_bytes(data)
    return Case(arguments=arguments, writes=SHEET, note=f"{which}: {how}")


@kind("predictions: other files")
def other_files(rng: Random, folder: Path) -> Case:
    name = rng.choice(("p.txt", "p", "p.csv", "p.parquet", ".parquet", "p.CSV"))
    content = rng.choice((formats.picture(rng), b"", b"PAR1", b"PAR1PAR1", b"\x1f\x8b", b"PK\3\4"))
    (folder / name).write_bytes(content)
    return Case(arguments=["evaluate", name], expect=BAD, names=(name,), note=name)


@kind("medmnist: arrays", 4)
def arrays(rng: Random, folder: Path) -> Case:
    name = rng.choice(("train", "val", "test")) + rng.choice(("_images", "_labels"))
    count = 16 if name.startswith("train") else 6
    makers: dict[str, Any] = {
        "no rows": lambda: formats.npy(np.zeros((0, 28, 28), np.uint8)),
        "0-d": lambda: formats.npy(np.array(1)),
        "objects": lambda: formats.npy(np.array([{}, None] * 3, object), allow_pickle=True),
        "text": lambda: formats.npy(np.array(["a"] * count)),
        "bool": lambda: formats.npy(np.ones((count, 1), bool)),
        "floats": lambda: formats.npy(np.full((count, 1), np.nan)),
        "large": lambda: formats.npy(np.full((count, 1), 2**64 - 1, np.uint64)),
        "negative": lambda: formats.npy(np.full((count, 1), -(2**63))),
        "1-d": lambda: formats.npy(np.arange(count) % 2),
        "empty labels": lambda: formats.npy(np.zeros((count, 0), np.int64)),
        "3-d labels": lambda: formats.npy(np.zeros((count, 2, 2), np.int64)),
        "100,000 classes": lambda: formats.npy(np.zeros((count, 100_000), np.int8)),
        "0 x 0": lambda: formats.npy(np.zeros((count, 0, 0), np.uint8)),
        "1 x 1": lambda: formats.npy(np.zeros((count, 1, 1), np.uint8)),
        "0 x 5": lambda: formats.npy(np.zeros((count, 0, 5), np.uint8)),
        "5-d": lambda: formats.npy(np.zeros((count, 2, 2, 2, 2), np.uint8)),
        "structured": lambda: formats.npy(np.zeros(count, [("a", "u1"), ("b", "i8")])),
        "complex": lambda: formats.npy(np.zeros((count, 1), complex)),
        "dates": lambda: formats.npy(np.zeros((count, 1), "M8[s]")),
        "2 GiB": lambda: _claims(rng, f"({count}, 11585, 11585)", b"\0" * 1000),
        "header": lambda: _claims(rng, rng.choice(
            ("(-1, 28, 28)", f"({2**70}, 28)", "(" * 500, "(True,)", "(1.5, 2)", "None", "{'a': 1}",
             f"({'1,' * 5000})", "[16, 28, 28]", f"({'9' * 5000},)")), b"\0" * 100),
    }  # fmt: skip
    how = rng.choice(list(makers))
    (folder / "set.npz").write_bytes(formats.medmnist(rng, **{name: makers[how]()}))
    return _medmnist(folder, f"{name}: {how}")


@kind("medmnist: bombs", heavy=True)
def medmnist_bombs(rng: Random, folder: Path) -> Case:
    name = rng.choice(("train", "val", "test")) + rng.choice(("_images", "_labels"))
    data = _claims(rng, "(16, 11585, 11585)", bytes(rng.choice((600, 2100)) << 20))
    (folder / "set.npz").write_bytes(formats.medmnist(rng, **{name: data}))
    return _medmnist(folder, f"{name}: bomb", BAD)


def _claims(rng: Random, shape: str, data: bytes) -> bytes:
    kind = rng.choice(("|u1", "|u1", "<i8"))
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + data


def _medmnist(folder: Path, note: str, expect: str = EITHER) -> Case:
    text = 'arms = ["none"]\n[data]\nsource = "medmnist"\npath = "set.npz"\nimage-size = 28\n'
    text += 'hospitals = 1\npartition = "even"\nunknown-patients = "separate"\n'
    (folder / "mine.toml").write_text(text)
    return Case(arguments=["data", "inspect", "mine.toml", "--sheet=sheet.png"], writes=SHEET,
                expect=expect, note=note,
                names=("set.npz", "patients") if expect == BAD else ())  # fmt: skip


@kind("medmnist: damaged", 2)
def medmnist_damaged(rng: Random, folder: Path) -> Case:
    data, how = damage.cut_or_flip(rng, formats.medmnist(rng))
    (folder / "set.npz").write_bytes(data)
    return _medmnist(folder, how)


@kind("medmnist: harmless")
def medmnist_harmless(rng: Random, folder: Path) -> Case:
    (folder / "set.npz").write_bytes(formats.medmnist(rng))
    return _medmnist(folder, "", HARMLESS)


@kind("medmnist: index")
def index(rng: Random, folder: Path) -> Case:
    (folder / "set.npz").write_bytes(formats.medmnist(rng))
    rows = [{"split": "train", "row": str(n), "patient_id": f"p{n}"} for n in range(4)]
    rows[rng.randrange(4)][rng.choice(("split", "row", "patient_id"))] = rng.choice(
        (damage.text(rng).replace("\ud800", "?"), "1e400", "inf", "9" * 400, "-1", "1.5")
    )
    (folder / "index.csv").write_bytes(formats.csv(rows))
    case = _medmnist(folder, str(rows)[:80])
    text = (folder / "mine.toml").read_text()
    (folder / "mine.toml").write_text(text + 'index = "index.csv"\n')
    return case


class _Harm:
    def __reduce__(self) -> Any:
        return (open, ("harmed", "w"))


@kind("weights", 4)
def weights(rng: Random, folder: Path) -> Case:
    import torch

    suffix = rng.choice((".pth", ".pth", ".safetensors", ".npz"))
    path = folder / f"w{suffix}"
    state = formats.state()
    first = next(iter(state))
    odd: dict[str, Any] = {
        "integer keys": lambda: formats.pth(dict(enumerate(state.values()))),
        "mixed keys": lambda: formats.pth({**state, 7: torch.ones(1)}),
        "no tensors": lambda: formats.pth(dict.fromkeys(state, 1.0)),
        "a tensor": lambda: formats.pth(torch.ones(3)),
        "pickle": lambda: pickle.dumps(_Harm()),
        "pickle in zip": lambda: formats.archive({"archive/data.pkl": pickle.dumps(_Harm())}),
        "nested": lambda: formats.pth({"state": state}),
        "complex": lambda: formats.pth({**state, first: state[first].to(torch.complex64)}),
        "sparse": lambda: formats.pth({**state, first: state[first].to_sparse()}),
        "meta": lambda: formats.pth({**state, first: state[first].to("meta")}),
        "strings": lambda: formats.pth({**state, first: "x"}),
        "0-d": lambda: formats.pth({**state, first: torch.tensor(1.0)}),
        "nan": lambda: formats.pth({**state, first: state[first] * float("nan")}),
        "expanded": lambda: formats.pth({**state, first: torch.zeros(1).expand(1 << 20, 1 << 16)}),
        "names": lambda: formats.pth({**state, damage.text(rng): torch.ones(1)}),
        "header": lambda: (10**12).to_bytes(8, "little") + b"{}",
        "json": lambda: (5000).to_bytes(8, "little") + b"[" * 5000,
        "offsets": lambda: _safetensors(
            {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 8]}}
        ),
        "objects": lambda: formats.archive(
            {"a.npy": formats.npy(np.array([{}], object), allow_pickle=True)}
        ),
        "text": lambda: formats.archive({f"{first}.npy": formats.npy(np.array(["a"]))}),
        "uint64": lambda: formats.archive({f"{first}.npy": formats.npy(np.zeros(3, np.uint64))}),
    }  # fmt: skip
    how = rng.choice(list(odd)) if rng.random() < 0.7 else ""
    if how:
        data = odd[how]()
        if how in ("header", "json", "offsets"):
            path = path.with_suffix(".safetensors")
        elif how in ("objects", "text", "uint64"):
            path = path.with_suffix(".npz")
        else:
            path = path.with_suffix(rng.choice((".pth", ".pth", ".pt", ".bin")))
    else:
        data, how = damage.cut_or_flip(rng, formats.weights(suffix))
        how = f"damaged: {how}"
    path.write_bytes(data)
    expect = EITHER if how.startswith("damaged") or how == "names" else BAD
    return _weights(folder, path, how, expect)


def _weights(folder: Path, path: Path, how: str, expect: str) -> Case:
    bases.phantom(folder)
    (folder / "mine.toml").write_text(
        formats.PHANTOM.replace('name = "resnet9"', f'name = "resnet9"\nweights = "{path.name}"')
    )
    arguments = ["run", "mine.toml", "-q", "--arm=none"]
    return Case(arguments=arguments, expect=expect, writes=("runs/*",) if expect == EITHER else (),
                names=(path.name, "model.weights") if expect == BAD else (),
                note=f"{path.name}: {how}")  # fmt: skip


@kind("weights: bombs", heavy=True)
def weights_bombs(rng: Random, folder: Path) -> Case:
    first = next(iter(formats.state()))
    how = rng.choice(("header", "array", "pickle"))
    if how == "header":
        path = folder / "w.safetensors"
        path.write_bytes((90 << 20).to_bytes(8, "little") + b'{"a":' + b" " * (90 << 20))
    elif how == "array":
        path = folder / "w.npz"
        data = _claims(rng, f"({2**31},)", bytes(600 << 20))
        path.write_bytes(formats.archive({f"{first}.npy": data}))
    else:
        path = folder / "w.pth"
        path.write_bytes(formats.archive({"archive/data.pkl": bytes(700 << 20)}))
    return _weights(folder, path, how, BAD)


def _safetensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 8


@kind("kermany and mappings")
def mappings(rng: Random, folder: Path) -> Case:
    bases.cohort(rng, folder)
    mapping = rng.choice(MAPPINGS)
    rows = {
        "nih-chestxray14": {"Image Index": "00.png", "Finding Labels": "Mass", "Patient ID": "1"},
        "chexpert": {"Path": "a/patient1/b.jpg", "Mass": "1", "Edema": "-1", "Sex": "F"},
        "mimic-cxr-jpg": {"subject_id": "1", "study_id": "2", "Edema": "1"},
        "padchest": {"ImageID": "a.png", "PatientID": "1", "Labels": "['Edema', 'b']"},
        "rsna-pneumonia": {"patientId": "a", "Target": "1"},
        "vindr-cxr": {"image_id": "a", "rad_id": "R1", "Edema": "1"},
        "covid-chestxray": {"patientid": "1", "finding": "Edema/b", "filename": "a.png"},
    }[mapping]
    rows[rng.choice(list(rows))] = rng.choice((damage.text(rng).replace("\ud800", "?"), "9" * 400))
    (folder / "table.csv").write_bytes(formats.csv([rows, rows]))
    if rng.random() < 0.3:
        (folder / "test_list.txt").write_bytes(b"\xff\xfe" if rng.random() < 0.5 else b"")
        (folder / "mimic-cxr-2.0.0-metadata.csv").write_bytes(b"dicom_id,study_id\n\0,2\n")
    text = formats.EXPERIMENT.replace("image-size", f'mapping = "{mapping}"\nimage-size')
    (folder / "mine.toml").write_text(text + 'target = "Edema"\n')
    return Case(arguments=["data", "inspect", "mine.toml", "--sheet=sheet.png"], expect=EITHER,
                writes=SHEET, note=f"{mapping} {rows}"[:80])  # fmt: skip


def packed_png(width: int, height: int, data: bytes, more: bytes = b"", bits: int = 8) -> bytes:
    """A PNG with the size that it claims."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more)
    out.write(chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))
    return out.getvalue()
