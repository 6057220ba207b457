"""Cohorts of volumes: tables, zips, MedMNIST's 3D sets and the CT phantom."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from support import goes_red, refuses
from support.volumes import axial, nifti_image, scan, write_series

from fedmed.config import Data
from fedmed.data.cohort import Cohort
from fedmed.data.form import Form
from fedmed.data.inspect import contact_sheet
from fedmed.data.shard import load_shard
from fedmed.data.sources import load
from fedmed.data.sources.phantom import EFFECTS
from fedmed.data.sources.tomogram import LESION_HU
from fedmed.data.stores import FolderStore, ZipStore
from fedmed.data.volume import Volume


def read(source: str, **keys: Any) -> Cohort:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return load(Data.model_validate({"source": source} | given))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same scan as a series, a zipped series, NIfTI, packed NIfTI and two arrays."""
    images = tmp_path / "scans"
    write_series(images / "one" / "CT")
    with zipfile.ZipFile(images / "two.zip", "w") as archive:
        for plane in range(6):
            archive.writestr(f"DICOM/{plane}", axial(plane))
    (images / "three.nii").write_bytes(nifti_image("LAS").to_bytes())
    (images / "four.nii.gz").write_bytes(gzip.compress(nifti_image("RAS").to_bytes()))
    np.save(images / "five.npy", scan())
    np.savez(images / "six.npz", volume=scan(), spacing=[2.0, 1.5, 1.0])
    names = ["one", "two.zip", "three.nii", "four.nii.gz", "five.npy", "six.npz"]
    table = pd.DataFrame({"image": names, "label": [0, 1] * 3, "patient_id": list("abcdef")})
    table.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


def test_every_format_gives_the_same_cube(folder: Path) -> None:
    cohort = read("table", path=folder / "t.csv", images=folder / "scans", dimensions=3)
    known = cohort.with_table(cohort.table[cohort.table["image"] != "five.npy"])
    shard = load_shard(known, Form(16, 3, spacing=1.0))
    assert shard.images.shape == (5, 16, 16, 16)
    assert shard.images.dtype == np.uint8
    for image in shard.images[1:]:
        np.testing.assert_array_equal(image, shard.images[0])
    assert len(np.unique(shard.images[0])) > 50
    five = cohort.with_table(cohort.table[cohort.table["image"] == "five.npy"])
    refuses(lambda: load_shard(five, Form(16, 3, spacing=1.0)), "five.npy", "data.spacing = 0")
    assert load_shard(cohort, Form(16, slices=2)).images.shape == (6, 2, 16, 16)


def test_a_series_in_a_folder_of_a_zip(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted((folder / "scans" / "one").rglob("*.dcm")):
            archive.write(path, f"scans/{path.relative_to(folder / 'scans').as_posix()}")
        archive.writestr("scans/one/.hidden", b"x")
    store = ZipStore(tmp_path / "all.zip")
    assert "scans/one" in store
    assert "scans/on" not in store
    volume = store.read("scans/one")
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.voxels, scan())


def test_the_digest_of_a_series_follows_its_slices_and_their_names(folder: Path) -> None:
    def check(first: str, second: str) -> None:
        assert first != second

    store, place = FolderStore(folder / "scans"), folder / "scans" / "one" / "CT"
    before = store.digest("one")
    assert store.digest("one") == before
    goes_red(check, before, store.digest("one"))
    (place / "3.dcm").write_bytes(axial(3, position=[0, 0, 0]))
    changed = store.digest("one")
    check(before, changed)
    (place / "3.dcm").rename(place / "7.dcm")
    check(changed, store.digest("one"))


def test_volumes_and_flat_images_are_not_mixed_up(folder: Path) -> None:
    cohort = read("table", path=folder / "t.csv", images=folder / "scans")
    refuses(lambda: load_shard(cohort, Form(16)), "one", "is a volume", "data.dimensions = 3")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "scans" / "five.png")
    table = cohort.table.assign(image=cohort.table["image"].replace("five.npy", "five.png"))
    flat = cohort.with_table(table.astype({"image": "string"}))
    refuses(lambda: load_shard(flat, Form(16, 3)), "five.png", "no volume")


def test_a_file_over_the_limit_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed.data.stores.MAX_VOLUME_BYTES", 100)
    store = FolderStore(folder / "scans")
    refuses(lambda: store.read("three.nii"), "three.nii is over 100 bytes")
    monkeypatch.setattr("fedmed.data.stores.MAX_SLICES", 5)
    refuses(lambda: store.read("one"), "over 5 files", "one CT series")
    empty = folder / "scans" / "empty"
    empty.mkdir()
    refuses(lambda: store.read("empty"), "empty: fewer than two DICOM slices")


def test_the_sheet_shows_the_middle_slices(folder: Path) -> None:
    cohort = read("table", path=folder / "t.csv", images=folder / "scans", dimensions=3)
    form = Form(16, 3, window_centre=0, window_width=1200)
    contact_sheet(cohort, folder / "sheet.png", count=2, size=32, form=form)
    with Image.open(folder / "sheet.png") as sheet:
        assert np.asarray(sheet)[4:36, 4:36].std() > 20


# MedMNIST ---------------------------------------------------------------------------------------


def test_medmnist_in_3d(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("val", 4), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 20, 20, 20), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    np.savez(tmp_path / "adrenalmnist3d.npz", **arrays)
    cohort = read("medmnist", path=tmp_path / "adrenalmnist3d.npz", dimensions=3)
    made = Form(20, 3).make(cohort.images.read("val/000002"), "x")
    np.testing.assert_array_equal(made, arrays["val_images"][2])
    refuses(
        lambda: read("medmnist", path=tmp_path / "adrenalmnist3d.npz"),
        "are volumes",
        "data.dimensions = 3",
    )
    flat = {k: v[..., 0] if "images" in k else v for k, v in arrays.items()}
    np.savez(tmp_path / "flat.npz", **flat)
    refuses(
        lambda: read("medmnist", path=tmp_path / "flat.npz", dimensions=3),
        "are 2D images",
        "data.dimensions = 2",
    )


@pytest.mark.parametrize(("name", "side"), [("adrenalmnist3d", 28), ("adrenalmnist3d_64", 64)])
def test_real_adrenalmnist3d(shared_data: Callable[..., Path], name: str, side: int) -> None:
    path = shared_data("adrenalmnist3d", f"{name}.npz")
    cohort = read("medmnist", path=path, dimensions=3, unknown_patients="separate")
    assert cohort.table["split"].value_counts().to_dict() == {"train": 1188, "test": 298, "val": 98}
    assert int(cohort.table["label"][cohort.table["split"] == "train"].sum()) == 259
    image = cohort.images.read("train/000000")
    assert isinstance(image, Volume)
    assert image.voxels.shape == (side, side, side)
    np.testing.assert_array_equal(Form(side, 3).make(image, "x"), image.voxels)


# Phantom ----------------------------------------------------------------------------------------


def test_the_ct_phantom_is_fixed_by_its_seed_and_says_that_it_is_synthetic() -> None:
    cohort, again = (read("phantom", patients=40, seed=3, dimensions=3) for _ in range(2))
    assert cohort.synthetic
    assert cohort.notes == ("synthetic CT scans: no patient is behind them",)
    assert "view" not in cohort.table.columns
    first, second = (c.images.read("phantom/000007") for c in (cohort, again))
    assert isinstance(first, Volume)
    assert isinstance(second, Volume)
    np.testing.assert_array_equal(first.voxels, second.voxels)
    flat = read("phantom", patients=40, seed=3)
    pd.testing.assert_series_equal(flat.table["label"], cohort.table["label"])
    assert flat.images.digest("phantom/000007") != cohort.images.digest("phantom/000007")
    sliced = read("phantom", patients=40, seed=3, slices=3).images.read("phantom/000007")
    np.testing.assert_array_equal(sliced.voxels, first.voxels)  # type: ignore[union-attr]  # both are there


def test_the_drawing_of_this_version_has_not_changed() -> None:
    """Where this fails, raise phantom.VERSION: cached shards would hold the old voxels."""
    image = read("phantom", patients=20, dimensions=3).images.read("phantom/000003")
    assert isinstance(image, Volume)
    assert image.voxels.shape == (48, 48, 48)
    assert float(image.voxels.mean()) == pytest.approx(-620.86, abs=0.3)
    assert float(image.voxels.std()) == pytest.approx(493.68, abs=0.3)


def test_lesions_have_the_contrast_of_the_documented_effects() -> None:
    """The darkest smooth spot of the liver, against contrast; and women's lesions are fainter."""
    cohort = read("phantom", patients=250, hospitals=2, seed=1, dimensions=3)
    table = cohort.table
    form = Form(24, 3, window_centre=50, window_width=300)
    made = np.stack([form.make(cohort.images.read(n), n) for n in table["image"]]).astype(float)
    liver = gaussian_filter(made, (0, 1, 1, 1))[:, 12:17, 9:14, 6:10].reshape(len(made), -1)
    depth = np.percentile(liver, 95, axis=1) - np.percentile(liver, 10, axis=1)
    label = table["label"].to_numpy(dtype=int)

    def check(score: Any) -> None:
        assert roc_auc_score(label, score) > 0.85

    check(depth)
    goes_red(check, np.random.default_rng(0).random(len(label)))
    scans = [s for s in cohort.images.films if s.contrast > 0]  # type: ignore[attr-defined]  # of this source
    women = np.mean([s.contrast for s in scans if s.female])
    men = np.mean([s.contrast for s in scans if not s.female])
    assert women / men == pytest.approx(EFFECTS.contrast_in_women, abs=0.12)
    assert 40 < LESION_HU * men < 80
