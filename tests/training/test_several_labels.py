"""Several labels at once: what training aims at, what is scored, and what is not known."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support import goes_red, make, refuses
from torch.nn.functional import binary_cross_entropy_with_logits

import fedmed.hospital.hospital
from fedmed import models
from fedmed.cli.progress import Silent
from fedmed.data.network import load_network
from fedmed.data.shard import Shard
from fedmed.data.sources import load
from fedmed.evaluation.tables import predictions
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.launch import run_inline
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine
from fedmed.privacy.gradients.engine import binary
from fedmed.privacy.gradients.loop import LoopEngine

IMAGES = 160
TEXT = """
name = "several"
seeds = [0]
arms = ["none", "dp-sgd", "local-only"]
[data]
source = "table"
path = "films.csv"
images = "films"
target = "Edema|Effusion"
uncertain = "ignore"
image-size = 17
hospitals = 2
partition = "even"
split = "patient"
[model]
name = "resnet9"
activation = "mish"
[train]
rounds = 2
local-epochs = 1
batch-size = 16
optimizer = "nadam"
learning-rate = 2e-3
[privacy]
delta = 1e-3
[evaluation]
resamples = 100
train-metrics = true
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    fedmed.hospital.hospital.hospital_for.cache_clear()
    fedmed.hospital.hospital._model.cache_clear()
    yield
    fedmed.hospital.hospital.hospital_for.cache_clear()
    fedmed.hospital.hospital._model.cache_clear()


def films(folder: Path, **changes: Any) -> pd.DataFrame:
    """Films whose left half tells of edema and whose right half of effusion; a table beside them.

    Every fifth label of edema is uncertain (-1), every seventh of effusion is empty.
    """
    rng = np.random.default_rng(3)
    (folder / "films").mkdir(parents=True, exist_ok=True)
    edema, effusion = rng.integers(0, 2, (2, IMAGES))
    for row in range(IMAGES):
        pixels = rng.integers(0, 90, (17, 17))
        pixels[:, :8] += 120 * edema[row]
        pixels[:, 9:] += 120 * effusion[row]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "films" / f"{row}.png")
    table = pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(IMAGES)],
            "patient_id": [f"p{row}" for row in range(IMAGES)],
            "sex": np.where(np.arange(IMAGES) % 2, "F", "M"),
            "label:Edema": np.where(np.arange(IMAGES) % 5 == 0, -1, edema),
            "label:Effusion": pd.Series(effusion).mask(pd.Series(np.arange(IMAGES) % 7 == 0)),
            "label:Mass": 0,
        }
    ).assign(**changes)
    table.to_csv(folder / "films.csv", index=False)
    return table


def settings(folder: Path, **changes: Any) -> Any:
    """Settings for :func:`films`."""
    keys = {"source": "table", "path": str(folder / "films.csv"), "images": str(folder / "films")}
    keys |= {"target": "Edema|Effusion", "uncertain": "ignore"}
    return make(data={**keys, **changes})


def test_what_is_not_known_of_one_label_leaves_the_others(tmp_path: Path) -> None:
    given = films(tmp_path)
    table = load(settings(tmp_path).data).table
    both = (np.arange(IMAGES) % 35) == 0
    assert len(table) == IMAGES - both.sum()
    assert "label:Mass" not in table
    assert table["label:Edema"].isna().sum() == (np.arange(IMAGES) % 5 == 0).sum() - both.sum()
    any_of_them = table[["label:Edema", "label:Effusion"]].max(axis=1)
    assert (table["label"] == any_of_them).all()
    aims = Shard("x", np.zeros((len(table), 17, 17), np.uint8), table).labels
    assert aims.shape == (len(table), 2)
    assert np.isnan(aims[:, 0]).sum() == table["label:Edema"].isna().sum()
    given["label:Effusion"] = given["label:Effusion"].fillna(0)
    given.to_csv(tmp_path / "films.csv", index=False)
    soft = load(settings(tmp_path, uncertain="smooth", **{"uncertain-label": 0.7}).data).table
    aims = Shard("x", np.zeros((len(soft), 17, 17), np.uint8), soft).labels
    assert set(np.unique(aims[::5, 0])) == {np.float32(0.7)}
    assert set(np.unique(aims[:, 1])) == {0.0, 1.0}


def test_wrong_targets_are_refused(tmp_path: Path) -> None:
    films(tmp_path)
    refuses(lambda: load(settings(tmp_path, target="Edema|Odema").data), "Odema", "Effusion")
    refuses(lambda: load(settings(tmp_path, target="Edema|Mass").data), "Mass", "one class")
    refuses(lambda: load(settings(tmp_path, uncertain="refuse").data), "Edema", "row 1", "-1")
    refuses(lambda: load(settings(tmp_path, uncertain="negative").data), "Effusion", "row 1")
    refuses(lambda: settings(tmp_path, target="Edema||Mass"), "data.target", "empty")
    refuses(lambda: settings(tmp_path, target="Edema|Edema"), "data.target", "repeated")
    refuses(
        lambda: settings(tmp_path).replaced({"evaluation.where": "both"}),
        "evaluation.where",
        "one label",
    )


def test_a_label_that_is_not_known_adds_nothing_to_the_loss() -> None:
    logits = torch.tensor([[0.3, -2.0], [1.5, 0.4]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])

    def check(loss: Any) -> None:
        (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
        assert gradient[0, 1] == 0
        expected = torch.sigmoid(logits.detach()) - labels
        assert torch.allclose(gradient[1], expected[1] / 2)
        assert torch.allclose(gradient[0, 0], expected[0, 0] / 2)

    check(binary)
    goes_red(
        check,
        lambda x, y: binary_cross_entropy_with_logits(x, y.nan_to_num(0.0), reduction="sum") / 2,
    )
    # One label is what it was.
    alone = binary(logits[:, :1], labels[:, 0])
    same = binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0], reduction="sum")
    assert torch.equal(alone, same)


def test_every_image_is_clipped_over_all_its_labels_together() -> None:
    """A bound per label would let one patient move the sum by more than the clipping norm."""
    network = models.build(make(model={"name": "resnet9"}).model, 16, 0, outputs=3)
    torch.manual_seed(0)
    images = torch.randn(5, 1, 16, 16)
    labels = torch.randint(0, 2, (5, 3)).float()
    labels[2, 1] = float("nan")
    fast = BookkeepingEngine(network, 4).clipped_sum(images, labels, 0.1)
    slow = LoopEngine(network).clipped_sum(images, labels, 0.1)
    for name, gradient in slow.gradients.items():
        assert torch.allclose(fast.gradients[name], gradient, atol=1e-5), name
    assert fast.sensitivity == 0.1
    length = torch.stack([g.square().sum() for g in fast.gradients.values()]).sum().sqrt()
    assert length <= 5 * 0.1 + 1e-6


def test_a_comparison_with_two_labels_leaves_a_long_table(tmp_path: Path) -> None:
    films(tmp_path)
    path = tmp_path / "several.toml"
    path.write_text(TEXT)
    out = tmp_path / "out"
    found = {
        one["name"]: one for one in run_experiment(load_experiment(path), out, run_inline, Silent())
    }
    table = predictions.read(out / "none/seed-0/predictions.parquet")
    assert set(table["target"]) == {"Edema", "Effusion"}
    assert not table.duplicated(["image", "target"]).any()
    held_out = load_network(load_experiment(path).base.data).held_out()[0].table
    # One in five is uncertain, one in seven empty.
    known = {target: held_out[f"label:{target}"].notna().sum() for target in ("Edema", "Effusion")}
    assert max(known.values()) < len(held_out)
    assert table.groupby("target").size().to_dict() == known
    for name in ("none", "dp-sgd", "local-only"):
        metrics = found[name]["metrics"]
        assert set(metrics["targets"]) == {"Edema", "Effusion"}
        each = [metrics["targets"][target]["auroc"] for target in ("Edema", "Effusion")]
        assert metrics["auroc"] == pytest.approx(np.mean(each))
        assert found[name]["metrics_train"]["targets"].keys() == metrics["targets"].keys()
    # Each output learns its own label: halves of the film, not one for both.
    assert (
        min(
            found["none"]["metrics"]["targets"][target]["auroc"] for target in ("Edema", "Effusion")
        )
        > 0.8
    )
