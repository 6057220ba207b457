"""Every source on small files written here and on the real data beside the project."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.config.sources import SOURCES
from fedmed.data.cohort import Cohort
from fedmed.data.sources import load, reader


def read(source: str, **keys: Any) -> Cohort:
    """Load with keys in kebab case or with underscores; paths may be Path objects."""
    given = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return load(Data.model_validate({"source": source} | given))


def picture(path: Path, brightness: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 10), brightness, dtype=np.uint8)).save(path)


# table ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images and ``t.csv`` with the schema's names and one column more."""
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", brightness=50 * number)
    (tmp_path / "t.csv").write_text(
        "image,label,patient_id,sex,age,doctor\n"
        "0.png,0,007,F,40,x\n1.png,1,008,male,50,x\n2.png,0,009,,60,x\n3.png,1,010,M,,x\n"
    )
    return tmp_path


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_has_its_module(name: str) -> None:
    assert reader(name).__module__ == f"fedmed.data.sources.{name}"
    assert set(SOURCES[name].needs) <= set(SOURCES[name].reads) <= set(Data.model_fields)


def test_a_table_with_the_schemas_names_needs_no_mapping(folder: Path) -> None:
    cohort = read("table", path=folder / "t.csv", images=folder / "images")
    assert cohort.name == "t.csv"
    assert not cohort.synthetic
    assert cohort.table["patient_id"].tolist() == ["007", "008", "009", "010"]
    assert cohort.table["sex"].fillna("?").tolist() == ["F", "M", "?", "M"]
    assert "doctor" not in cohort.table.columns
    assert cohort.images.read("2.png")[0, 0] == pytest.approx(100 / 255)


def test_a_table_with_mapped_columns_and_positive_values(folder: Path) -> None:
    pd.DataFrame(
        {
            "file": [f"{n}.png" for n in range(4)],
            "diagnosis": ["Normal", "Viral", "Bacterial", "Other"],
            "hospital": ["north", "north", "south", "south"],
        }
    ).to_parquet(folder / "p.parquet")
    columns = {"image": "file", "label": "diagnosis", "finding": "diagnosis", "site": "hospital"}
    keys = {"path": folder / "p.parquet", "images": folder / "images", "columns": columns}
    cohort = read("table", positive="Viral|Bacterial", **keys)
    assert cohort.table["label"].tolist() == [0, 1, 1, 0]
    assert cohort.table["finding"].iloc[1] == "Viral"
    assert cohort.table["site"].iloc[3] == "south"
    with pytest.raises(UserError, match=r"label is 'Normal', not 0 or 1; .*data\.positive"):
        read("table", **keys)
    with pytest.raises(UserError, match="no row has the label 'viral'"):
        read("table", positive="viral", **keys)


def test_images_in_a_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "i.zip", "w") as archive:
        for number in range(4):
            archive.write(folder / "images" / f"{number}.png", f"{number}.png")
    cohort = read("table", path=folder / "t.csv", images=folder / "i.zip")
    assert cohort.images.read("1.png")[0, 0] == pytest.approx(50 / 255)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": ""}, r"^data\.path is not given"),
        ({"path": "nowhere.csv"}, r"^data\.path = 'nowhere\.csv': no such file"),
        ({"images": ""}, r"^data\.images is not given"),
        ({"images": "nowhere"}, r"^data\.images = 'nowhere': no such file"),
        ({"columns": {"label": "Pneumonia"}}, r"no column 'Pneumonia', which data\.columns\.label"),
        ({"target": "Edema"}, "one label; remove data.target"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, change: dict[str, Any], words: str) -> None:
    keys: dict[str, Any] = {"path": folder / "t.csv", "images": folder / "images"}
    with pytest.raises(UserError, match=words):
        read("table", **(keys | change))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,label\n0.png,0\n9.png,1\n", "row 2: image '9.png' is not in"),
        ("image,label\n0.png,0\n../t.csv,1\n", "leads out of"),
        ("file,label\n0.png,0\n", "no column 'image'; name it with data.columns.image"),
        ("image,label\n0.png,1\n1.png,1\n", "one class only"),
        ("image,label\n0.png,3\n1.png,1\n", "row 1: label is '3'"),
        ("image,label\n0.png,-1\n1.png,1\n", "row 1: the label is -1"),
        ("", "has no header"),
        ('image,label\n"0.png,0\n', "row 1: a quote that is not closed"),
    ],
)
def test_a_wrong_table_is_named(folder: Path, content: str, words: str) -> None:
    (folder / "t.csv").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read("table", path=folder / "t.csv", images=folder / "images")
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nih_zip_and_table_load_as_they_are(shared_data: Callable[..., Path]) -> None:
    path, images = shared_data("nih", "nih.csv"), shared_data("nih", "nih_pneumonia1000_224.zip")
    cohort = read("table", path=path, images=images)
    table = cohort.table
    assert len(table) == 1000
    assert table["label"].sum() == 500
    assert table["patient_id"].nunique() == 682
    assert (table["sex"] == "F").sum() == 477
    assert table["age"].notna().all()
    assert cohort.images.read(table["image"].iloc[0]).shape == (224, 224)


def test_uncertain_labels_are_smoothed(tmp_path: Path) -> None:
    rows = [f"{n}.png,{label}" for n, label in enumerate((0, 1, -1, 0, 1, -1))]
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    for number in range(6):
        picture(tmp_path / "i" / f"{number}.png")
    keys = {"path": tmp_path / "t.csv", "images": tmp_path / "i", "uncertain": "smooth"}
    table = read("table", **keys, uncertain_label=0.7).table
    assert table["soft"].fillna(-1).tolist() == pytest.approx([-1, -1, 0.7, -1, -1, 0.7])
    assert table["label"].tolist() == [0, 1, 1, 0, 1, 1], "the nearer label, for counting"
    assert read("table", **keys, uncertain_label=0.3).table["label"].tolist()[2] == 0
    assert "soft" not in read("table", **{**keys, "uncertain": "ignore"}).table


# medmnist ---------------------------------------------------------------------------------------


def npz(path: Path, classes: int = 2, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    np.savez(path, **{key: value for key, value in (arrays | changes).items() if value is not None})
    return path


def test_medmnist_file_with_an_index(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("split,row,patient_id\ntrain,3,p3\ntest,0,\nval,5,p9\n")
    cohort = read("medmnist", path=npz(tmp_path / "m.npz"), index=tmp_path / "i.csv")
    table = cohort.table.set_index("image")
    assert len(table) == 24
    assert table["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 6}
    assert table.loc["train/000003", "patient_id"] == "p3"
    assert table.loc["val/000005", "patient_id"] == "p9"
    assert table["patient_id"].isna().sum() == 22
    stored = np.load(tmp_path / "m.npz")["val_images"][5]
    assert cohort.images.read("val/000005") == pytest.approx(stored / 255)


def test_medmnist_one_class_against_the_rest(tmp_path: Path) -> None:
    path = npz(tmp_path / "bloodmnist.npz", classes=3)
    with pytest.raises(UserError, match=r"several labels; set data\.target to one of: .*basophil"):
        read("medmnist", path=path)
    by_number = read("medmnist", path=path, target="2").table["label"]
    assert by_number.tolist()[:6] == [0, 0, 1, 0, 0, 1]
    by_name = read("medmnist", path=path, target="erythroblast").table["label"]
    assert by_name.tolist() == by_number.tolist()


def test_medmnist_colour_becomes_luminance(tmp_path: Path) -> None:
    red = {f"{s}_images": np.zeros((n, 8, 8, 3), np.uint8) for s, n in
           (("train", 12), ("val", 6), ("test", 6))}  # fmt: skip
    for image in red.values():
        image[..., 0] = 255
    cohort = read("medmnist", path=npz(tmp_path / "m.npz", **red))
    assert cohort.images.read("test/000000") == pytest.approx(np.full((8, 8), 0.299), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val_labels": None}, "no array 'val_labels"),
        ({"test_images": np.zeros((6, 8, 8, 8), np.uint8)}, "are volumes; set data.dimensions = 3"),
        ({"test_images": np.zeros((6, 8, 8), np.float32)}, "test_images must be .* uint8"),
        ({"test_labels": np.zeros((5, 1), np.uint8)}, "test_labels does not fit"),
        ({"test_labels": np.array([{}] * 6)}, "not a readable .npz"),
    ],
    ids=["missing", "volume", "float", "length", "pickle"],
)
def test_a_wrong_npz_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"m\.npz: .*{words}"):
        read("medmnist", path=npz(tmp_path / "m.npz", **changes))


def test_not_an_npz(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"PK\x03\x04 half a zip")
    with pytest.raises(UserError, match=r"m\.npz: not a readable \.npz"):
        read("medmnist", path=tmp_path / "m.npz")
    with pytest.raises(UserError, match=r"data\.path = 'nothing\.npz': no such file"):
        read("medmnist", path="nothing.npz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("split,patient_id\ntrain,p\n", "no column 'row'"),
        ("split,row,patient_id\ntrain,x,p\n", "row 1: 'row' must be a whole number"),
        ("split,row,patient_id\ntrain,0,p\ntrain,12,p\n", "row 2: the .npz has no such"),
        ("split,row,patient_id\ntrain,0,p\ntrain,0,p\n", "row 2: split and row are listed twice"),
        ("split,row,patient_id,label\ntrain,1,p,0\n", "belongs to another file"),
    ],
)
def test_a_wrong_index_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "i.csv").write_text(content)
    with pytest.raises(UserError, match=rf"i\.csv.*{words}"):
        read("medmnist", path=npz(tmp_path / "m.npz"), index=tmp_path / "i.csv")


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.utils as utilities

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(utilities, "download_url", offline)
    with pytest.raises(UserError, match=r"download of breastmnist_64\.npz failed; .*\.npz file"):
        read("medmnist", path="breastmnist", image_size=64)
    with pytest.raises(UserError, match=r"dimensions asked for; set data\.dimensions = 3"):
        read("medmnist", path="adrenalmnist3d")
    with pytest.raises(UserError, match=r"no such set; .* organmnist3d"):
        read("medmnist", path="nosuchmnist3d", dimensions=3)


def test_real_pneumoniamnist_with_its_index(shared_data: Callable[..., Path]) -> None:
    path = shared_data("pneumoniamnist", "pneumoniamnist.npz")
    index = shared_data("pneumoniamnist", "pneumoniamnist_index.csv")
    table = read("medmnist", path=path, index=index).table
    assert table["split"].value_counts().to_dict() == {"train": 4708, "val": 524, "test": 624}
    assert table.loc[table["split"] == "test", "label"].sum() == 390
    assert table["patient_id"].isna().sum() == 85
    assert table["patient_id"].iloc[0] == "train:person13"


# kermany ----------------------------------------------------------------------------------------

PUBLISHED = {
    "train/NORMAL/IM-0115-0001.jpeg": ("train:IM-0115", "normal", "train"),
    "train/NORMAL/NORMAL2-IM-0535-0001-0002.jpeg": ("train:NORMAL2-IM-0535", "normal", "train"),
    "train/PNEUMONIA/person7_bacteria_24.jpeg": ("train:person7", "bacteria", "train"),
    "val/PNEUMONIA/person1946_bacteria_4874.jpeg": ("train:person1946", "bacteria", "val"),
    "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("train:NORMAL2-IM-1427", "normal", "val"),
    "test/PNEUMONIA/person7_virus_33.jpeg": ("test:person7", "virus", "test"),
    "test/NORMAL/IM-0115-0001.jpeg": ("test:IM-0115", "normal", "test"),
}


@pytest.mark.parametrize("level", ["chest_xray", ""])
@pytest.mark.parametrize("zipped", [False, True])
def test_kermany_as_published(tmp_path: Path, level: str, zipped: bool) -> None:
    root = tmp_path / "data"
    for name in PUBLISHED:
        picture(root / level / name)
    (root / level / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
    (root / "__MACOSX" / "train" / "NORMAL").mkdir(parents=True)
    (root / "__MACOSX" / "train" / "NORMAL" / "._IM-0115-0001.jpeg").write_bytes(b"x")
    path = root
    if zipped:
        path = tmp_path / "k.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.*")):
                archive.write(file, file.relative_to(root))
                # The published zip holds everything once more, one folder deeper.
                archive.write(file, Path("chest_xray", "chest_xray", file.relative_to(root)))
    cohort = read("kermany", path=path)
    found = {
        row.image.removeprefix("chest_xray/"): (row.patient_id, row.finding, row.split)
        for row in cohort.table.itertuples()
    }
    assert found == PUBLISHED
    assert cohort.table["label"].sum() == 3
    assert "age" not in cohort.table.columns
    assert cohort.images.read(cohort.table["image"].iloc[0]).shape == (8, 10)


def test_kermany_without_its_folders(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpeg")
    with pytest.raises(UserError, match="no images in NORMAL and PNEUMONIA folders"):
        read("kermany", path=tmp_path)
    (tmp_path / "k.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"k\.zip: not a zip file, or a damaged one"):
        read("kermany", path=tmp_path / "k.zip")


def test_real_kermany_with_and_without_its_splits(shared_data: Callable[..., Path]) -> None:
    path, index = shared_data("kermany", "kermany_224.zip"), shared_data("kermany", "kermany.csv")
    told = pd.read_csv(index).set_index("image")
    cohort = read("kermany", path=path, index=index)
    table = cohort.table.set_index("image")
    assert table["split"].value_counts().to_dict() == {"train": 4722, "test": 624, "val": 510}
    assert table["finding"].value_counts().to_dict() == {
        "bacteria": 2780,
        "normal": 1583,
        "virus": 1493,
    }
    assert (table["patient_id"] == told["patient_id"].reindex(table.index)).all()
    assert (table["label"] == told["label"].reindex(table.index)).all()
    assert cohort.images.read(table.index[0]).shape == (224, 224)
    assert "split" not in read("kermany", path=path).table.columns
