"""What is left of finished pictures: refused where nothing is, named where it is odd."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from support import goes_red, refuses
from support.images import RAMP, dicom, picture

from fedmed.base.errors import UserError
from fedmed.config import Data
from fedmed.data import network as network_module
from fedmed.data.brightness import MEASURES, findings, measured, sampled, tabled
from fedmed.data.form import Form
from fedmed.data.inspect import look
from fedmed.data.network import forget, load_network, training_shard
from fedmed.data.shard import load_shard, shard_key
from fedmed.data.sources import load
from fedmed.data.stores import FolderStore

NOTHING = np.empty(0, dtype=np.float32)
RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def film(low: int, high: int) -> NDArray[np.uint8]:
    return RNG.integers(low, high, (24, 24), dtype=np.uint8)


def looked_at(films: dict[str, list[NDArray[np.uint8]]], named: bool = True) -> list[str]:
    rows = [(hospital, one) for hospital, some in films.items() for one in some]
    measures = np.array([measured(one, NOTHING) for _, one in rows], dtype=np.float32)
    names = [f"{row}.png" for row in range(len(rows))]
    return findings(tabled(names, [hospital for hospital, _ in rows], measures), True, named=named)


def test_the_measures_are_those_of_the_picture() -> None:
    half = np.zeros((10, 10), dtype=np.uint8)
    half[:, 5:], half[0, 0] = 255, 51
    found = dict(zip(MEASURES, measured(half, NOTHING), strict=True))
    assert found["levels"] == 3
    assert (found["black"], found["white"]) == (0.49, 0.5)
    assert (found["median"], found["spread"]) == (0.2, 1.0)
    assert np.isnan(found["air"])


def test_ordinary_pictures_are_not_odd() -> None:
    assert looked_at({"a": [film(0, 256) for _ in range(9)], "b": [film(0, 200)] * 9}) == []


def test_odd_pictures_are_counted_and_named() -> None:
    films = [film(0, 256) for _ in range(9)]
    films[2], films[5] = film(250, 256), np.zeros((24, 24), dtype=np.uint8)
    found = looked_at({"north": films})
    assert found[0].startswith("north: 2 of 9 pictures (2.png, 5.png) of under 32 grey levels")
    assert found[1] == "north: 1 of 9 pictures (5.png) of almost all black"
    assert found[-1].startswith("north: 2 of 9 pictures (2.png, 5.png) of a brightness far from")
    unnamed = looked_at({"north": films}, named=False)
    assert unnamed[1] == "north: 1 of 9 pictures of almost all black"
    assert ".png" not in " ".join(unnamed)


def test_a_hospital_that_is_darker_than_the_others_is_named() -> None:
    """A hospital of another depth looks like unfairness; its films are as they all are there."""

    def darker(high: int) -> None:
        found = looked_at(
            {"north": [film(0, 256) for _ in range(9)], "south": [film(0, high) for _ in range(9)]}
        )
        assert any(line.startswith("south: pictures darker than at the others") for line in found)

    darker(60)
    goes_red(darker, 230)


def cohort(folder: Path, films: dict[str, bytes]) -> Any:
    (folder / "films").mkdir()
    for name, data in films.items():
        (folder / "films" / name).write_bytes(data)
    table = pd.DataFrame({"image": list(films), "patient_id": range(len(films))})
    table["label"] = table["patient_id"] % 2
    splits = ("train", "train", "val", "val", "test", "test")
    table["split"] = [splits[row % 6] for row in range(len(films))]
    table.to_csv(folder / "t.csv", index=False)
    keys = {"source": "table", "path": str(folder / "t.csv"), "images": str(folder / "films")}
    return Data.model_validate({**keys, "partition": "even", "hospitals": 1})


CONSTANT = np.full((20, 20), 90, dtype=np.uint8)
WINDOW_OFF = dicom(RAMP, WindowCenter=60000, WindowWidth=100)
TWICE = dicom(RAMP, RescaleSlope=1, RescaleIntercept=-9000, WindowCenter=2048, WindowWidth=4096)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture(CONSTANT), "one brightness all over"),
        (WINDOW_OFF, "one brightness all over"),
        (TWICE, "one brightness all over"),
        (picture(np.where(film(0, 9) > 4, 255, 0).astype(np.uint8)), "fewer than 4 grey levels"),
    ],
    ids=["constant", "window off", "rescale off", "two levels"],
)
def test_a_picture_of_which_nothing_is_left_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    """By ``run``, which makes the shards, and by ``inspect``."""
    films = {f"{row}.png": picture(film(0, 256)) for row in range(30)}
    films |= {"bad-1": data, "bad-2": data}
    keys = cohort(tmp_path, films)
    form = Form(24)
    refuses(lambda: load_shard(load(keys), form), "bad-1 (and 1 more images): ", words, "correct")
    network = load_network(keys)
    refuses(lambda: look(network, form), "bad-", words)


def test_a_deployed_hospital_refuses_no_window_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 36: a request picks the window, and a refusal tells who has values in it."""

    def trains(data: Data) -> None:
        try:
            shard = training_shard(data, "north")
        except UserError:
            raise AssertionError("the sender learns it") from None
        assert shard.measures is not None
        assert (shard.measures[:, 0] == 1).any()

    films = {f"{row}.png": picture(film(0, 256)) for row in range(30)}
    keys = cohort(tmp_path, films | {"bad-0": picture(CONSTANT)})
    trains(keys.model_copy(update={"sites": "north"}))
    simulated = keys.model_copy(update={"sites": ""})
    monkeypatch.setattr(
        network_module, "load_shard", lambda cohort, form, nothing_left: load_shard(cohort, form)
    )
    forget()
    goes_red(trains, keys.model_copy(update={"sites": "north"}))
    refuses(lambda: training_shard(simulated, "hospital-1"), "one brightness all over")


def test_a_shard_of_before_is_not_taken_for_one_that_was_checked(
    tmp_path: Path, home: Path
) -> None:
    """Sabotage: films of 13 grey levels that lie in the cache since an older version."""
    keys = cohort(tmp_path, {f"{row}.png": picture(film(0, 256)) for row in range(6)})
    shards = home / "cache" / "shards"
    old = shards / shard_key(load(keys), Form(24))
    old.mkdir(parents=True)
    np.save(old / "images.npy", np.zeros((6, 24, 24), dtype=np.uint8))
    (old / "meta.json").write_text("{}")
    first = load_shard(load(keys), Form(24))
    assert (first.key, first.images.max() > 0) == (old.name, True)
    assert first.measures is not None
    again = load_shard(load(keys), Form(24))
    np.testing.assert_array_equal(again.measures, first.measures)


def scan(offset: int) -> bytes:
    """A body in air of 24 cubed voxels, its HU moved by an offset."""
    voxels = RNG.integers(-1000, -900, (24, 24, 24)).astype(np.int16)
    voxels[6:18, 6:18, 6:18] = RNG.integers(-100, 100, (12, 12, 12))
    data: bytes = nibabel.Nifti1Image(voxels + np.int16(offset), np.eye(4)).to_bytes()
    return data


@pytest.mark.parametrize(
    ("offset", "words"),
    [(0, ""), (1024, "without air: are the values HU + 1024?"),
     (-1024, "without soft tissue: was the rescale applied twice?")],
)  # fmt: skip
def test_ct_that_is_not_in_hu_is_named(tmp_path: Path, offset: int, words: str) -> None:
    (tmp_path / "a.nii").write_bytes(scan(offset))
    volume = FolderStore(tmp_path).read("a.nii")
    form = Form(24, 3, window_centre=-500, window_width=3000)
    measures = np.array([measured(form.make(volume, "a.nii"), volume)], dtype=np.float32)
    found = findings(tabled(["a.nii"], ["north"], measures), False)
    assert found == ([f"north: 1 of 1 pictures (a.nii) {words}"] if words else [])


def test_a_mask_of_two_levels_is_a_volume_like_any_other() -> None:
    mask = np.zeros((9, 9, 9), dtype=np.uint8)
    mask[4] = 255
    measures = np.array([measured(mask, NOTHING)], dtype=np.float32)
    assert findings(tabled(["a"], ["north"], measures), False) == []


def test_the_sample_is_spread_over_each_hospital() -> None:
    images = pd.Series([f"{n}" for n in range(100)])
    hospital = pd.Series(["a"] * 90 + ["b"] * 10)
    some = sampled(images, hospital, 10)
    assert some["hospital"].value_counts().to_dict() == {"a": 10, "b": 10}
    assert some["image"].tolist()[:10] == [
        "0",
        "10",
        "20",
        "30",
        "40",
        "49",
        "59",
        "69",
        "79",
        "89",
    ]


def test_the_sheet_shows_each_hospitals_mean_film_over_its_brightness(tmp_path: Path) -> None:
    keys = Data(patients=40, hospitals=3, partition="even", image_size=32)
    seen = look(load_network(keys), Form(32))
    seen.sheet(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (128 + 44 + 4, 3 * 132 + 4)
    for place, name in enumerate(seen.means):
        left = 4 + place * 132
        np.testing.assert_array_equal(pixels[4:132, left : left + 128], seen.means[name])
        median = seen.pictures.loc[seen.pictures["hospital"] == name, "median"].median()
        assert pixels[136, left + int(128 * median)] == 0, "the stroke at the median"
    assert np.ptp(next(iter(seen.means.values()))) > 50
