"""Hospitals of different bit depths train as if they had one, or are refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.torch import save_file
from support import goes_red, refuses
from support.images import dicom, picture
from support.runs import run

from fedmed.config import Data, Model
from fedmed.data.form import Form
from fedmed.data.inspect import look
from fedmed.data.network import load_network
from fedmed.data.sources import load
from fedmed.data.sources.phantom import load as phantom
from fedmed.experiment.file import load_experiment
from fedmed.models import build

NORTH = "hospital-1"
TEXT = """
name = "depths"
seeds = [0]
arms = ["none"]
[data]
source = "table"
path = "{folder}/films.csv"
images = "{folder}/films"
image-size = 32
hospitals = 2
split = "patient"
{more}
[model]
name = "probe"
features = "resnet9"
weights = "{folder}/resnet9.safetensors"
[train]
rounds = 20
local-epochs = 2
batch-size = 8
learning-rate = 0.5
[run]
threads = 1
"""


def film(values: NDArray[np.float32], kind: str) -> tuple[str, bytes]:
    """A film in [0, 1] as one of the files that hospitals have, of the same 256 levels in each."""
    grey = np.rint(values * 255).astype(np.uint8)
    if kind == "8 bits":
        return "png", picture(grey)
    largest = 65535 if kind == "16 bits" else 4095
    deep = np.rint(grey / 255 * largest).astype(np.uint16)
    if kind == "DICOM":
        return "dcm", dicom(deep, WindowCenter=2048, WindowWidth=4096)
    return "png", picture(deep)


def written(folder: Path, south: str, more: str = "", patients: int = 160) -> Path:
    """Phantom patients, the north's films in 8 bits and the south's in another kind."""
    (folder / "films").mkdir(parents=True)
    drawn = phantom(Data(patients=patients, hospitals=2, seed=4))
    table = drawn.table.copy()
    for row, name in enumerate(table["image"]):
        kind = "8 bits" if table["site"][row] == NORTH else south
        suffix, data = film(np.asarray(drawn.images.read(str(name))), kind)
        table.loc[row, "image"] = f"{row}.{suffix}"
        (folder / "films" / f"{row}.{suffix}").write_bytes(data)
    columns = ["image", "label", "patient_id", "site", "age", "sex"]
    table[columns].to_csv(folder / "films.csv", index=False)
    # A head on random features: a whole network makes 0.03 of AUROC of one level of 255.
    drawn_at_random = build(Model(name="resnet9", stem="imagenet"), 32, 0)
    save_file(drawn_at_random.state_dict(), folder / "resnet9.safetensors")
    path = folder / "mine.toml"
    path.write_text(TEXT.format(folder=folder, more=more))
    return path


def auroc(folder: Path, south: str, more: str = "") -> float:
    """Of the test films, after training on both hospitals."""
    path = written(folder, south, more)
    return float(run(path, folder / "out")[0]["metrics"]["auroc"])


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The AUROC of both hospitals with 8 bits."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("even")
        patch.setenv("FEDMED_HOME", str(folder / "home"))
        return auroc(folder, "8 bits")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))


KINDS = [
    ("16 bits", ""),
    ("DICOM", ""),
    ("12 bits", f'bits-stored = "{NORTH}=16, hospital-2=12"'),
]


@pytest.mark.parametrize(("south", "more"), KINDS)
def test_another_depth_makes_the_same_pictures(tmp_path: Path, south: str, more: str) -> None:
    def shown(kind: str, more: str) -> NDArray[np.int16]:
        folder = tmp_path / kind
        data = load_experiment(written(folder, kind, more, patients=40)).base.data
        cohort, form = load(data), Form.of(data)
        names = [str(name) for name in cohort.table["image"]]
        return np.stack([form.make(cohort.images.read(n), n) for n in names]).astype(np.int16)

    def same(found: NDArray[np.int16]) -> None:
        assert np.abs(found - even).max() <= 1
        assert (found != even).mean() < 0.05

    even = shown("8 bits", "")
    same(shown(south, more))
    goes_red(same, even // 16)


@pytest.mark.slow
@pytest.mark.parametrize(("south", "more"), KINDS[1:])  # of 16 bits the pictures are equal
def test_another_depth_trains_to_the_auroc_of_one(
    tmp_path: Path, even: float, south: str, more: str
) -> None:
    def close(found: float) -> None:
        assert found == pytest.approx(even, abs=0.01)

    assert even > 0.7
    close(auroc(tmp_path, south, more))
    goes_red(close, even - 0.02)


def test_undeclared_12_bits_are_refused_before_anything_trains(tmp_path: Path) -> None:
    path = written(tmp_path, "12 bits")
    said = ("uses 12 bits", "data.bits-stored = '12'")
    refuses(lambda: run(path, tmp_path / "out"), *said)
    assert not (tmp_path / "out" / "experiment.json").exists()
    data = load_experiment(path).base.data
    refuses(lambda: look(load_network(data), Form.of(data)), *said)


@pytest.mark.slow
def test_declared_as_they_are_not_the_darker_hospital_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever says 16 of files of 12 bits is told what that looks like, and no result holds it."""
    from fedmed.cli import main

    path = written(tmp_path, "12 bits", 'bits-stored = "16"')
    with pytest.raises(SystemExit) as left:
        main(["run", str(path), "--out", str(tmp_path / "out"), "--set", "train.rounds=1"])
    assert left.value.code == 0
    told = capsys.readouterr().err
    assert "note: hospital-2: pictures darker than at the others" in told
    assert "of under 32 grey levels" in told
    results = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".json", ".html", ".csv")]
    assert all("darker than" not in p.read_text(encoding="utf-8") for p in results)
    frame = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert len(frame) == 1
