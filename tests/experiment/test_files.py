"""The experiments that come with the project: each loads, and holds what its paper used."""

import shlex
from pathlib import Path

import pytest

from fedmed.config import Settings
from fedmed.experiment.file import Experiment, load_experiment
from fedmed.federation.members import make_plans
from fedmed.privacy.plans.making import image_mechanism
from fedmed.report import published

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.toml"))
BUDGETS = (0.29, 0.54, 1.06, 2.04, 4.71, 7.89)


def experiment(name: str) -> Experiment:
    """An experiment of the project."""
    return load_experiment(FOLDER / f"{name}.toml")


def test_every_experiment_is_known_here() -> None:
    names = {"quickstart", "pneumoniamnist", "nih", "singh2020", "tayebi2024-cxr", "tayebi2024-ct"}
    assert names <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_loads_expands_and_plans_on_the_phantom(path: Path) -> None:
    """On the phantom with its batches cut, as its own data may be absent."""
    loaded = load_experiment(path)
    assert loaded.name == path.stem
    assert set(published.names()) >= {loaded.paper} - {""}
    images = {"data.path": "", "data.images": "", "data.index": "", "data.source": "phantom"}
    small = {**images, "data.patients": 400, "data.image-size": 32, "data.split": "given"}
    small |= {"train.batch-size": 8, "privacy.delta": 1e-4}
    kept: dict[str, Settings] = {}
    for name, settings in loaded.arms.items():
        assert settings.data == loaded.base.data
        assert settings.evaluation == loaded.base.evaluation
        kept.setdefault(settings.privacy.arm + settings.train.scheme, settings.replaced(small))
        assert ("epsilon" in name) <= (settings.privacy.arm != "none"), name
    for settings in kept.values():  # one of each kind: an accountant takes its time
        assert make_plans(settings)


def test_pneumoniamnist_protects_patients_that_it_can_name() -> None:
    """With every unknown patient counted as one of their own, its dp-sgd arm was refused."""
    assert experiment("pneumoniamnist").base.data.unknown_patients == "leave-out"


def test_singh_2020_has_their_scales_and_budgets_in_both_schemes() -> None:
    arms = experiment("singh2020").arms
    for before, scheme in (("", "federated"), ("pooled-", "pooled")):
        mine = {
            name.removeprefix(before): settings
            for name, settings in arms.items()
            if settings.train.scheme == scheme
        }
        shifts = {mine[f"shift-{b}"].privacy.laplace_scale for b in (1, 2, 4)}
        assert shifts == {1.0, 2.0, 4.0}
        # Cut to the range, as in their code: without it no image becomes constant.
        assert all(mine[f"shift-{b}"].privacy.clip_released for b in (1, 2, 4))
        budgets = sorted(s.privacy.epsilon for s in mine.values() if s.privacy.arm == "dp-sgd")
        assert budgets == [0.25, 0.5, 1.0, 4.0, 8.0]
        for b in (1, 2, 4):
            per_image = [
                mechanism.claims["image"]
                for kind in ("laplace", "pix")
                if (mechanism := image_mechanism(mine[f"{kind}-{b}"])) is not None
            ]
            assert per_image == [pytest.approx(224**2 / b)] * 2
        for name in ("laplace-100", "pix-100"):
            mechanism = image_mechanism(mine[name])
            assert mechanism is not None
            assert 97 < mechanism.claims["image"] <= 100.001
    given = experiment("singh2020").base
    assert given.evaluation.train_metrics
    assert given.evaluation.noised_test
    assert (given.train.rounds, given.train.batch_size, given.data.image_size) == (50, 128, 224)


@pytest.mark.parametrize(("name", "dimensions"), [("tayebi2024-cxr", 2), ("tayebi2024-ct", 3)])
def test_tayebi_2024_has_their_recipe_and_budgets(name: str, dimensions: int) -> None:
    loaded = experiment(name)
    base = loaded.base
    assert (base.model.name, base.model.norm, base.model.activation) == ("resnet9", "group", "mish")
    assert (base.train.optimizer, base.train.learning_rate) == ("nadam", 2e-4)
    assert (base.privacy.clipping_norm, base.privacy.delta) == (1.5, 6e-6)
    assert base.data.dimensions == dimensions
    for scheme in ("federated", "pooled"):
        arms = [s for s in loaded.arms.values() if s.train.scheme == scheme]
        assert {s.privacy.epsilon for s in arms if s.privacy.arm == "dp-sgd"} == {*BUDGETS}
        assert sum(s.privacy.arm == "none" for s in arms) == 1
    changes = ["model.name=resnet18"]
    if loaded.pretrain is not None:
        changes.append("pretrain.model.name=resnet18")
    bigger = load_experiment(FOLDER / f"{name}.toml", assignments=changes)
    assert bigger.base.model.name == "resnet18"


def test_the_small_runs_of_the_guide_are_of_every_paper() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    small = [shlex.split(line) for line in text.splitlines() if "runs/small-" in line]
    assert {line[2] for line in small} == {
        f"experiments/{name}.toml" for name in ("singh2020", "tayebi2024-cxr", "tayebi2024-ct")
    }
    for line in small:
        changes = [line[place + 1] for place, word in enumerate(line) if word == "--set"]
        arms = [line[place + 1] for place, word in enumerate(line) if word == "--arm"]
        loaded = load_experiment(FOLDER.parent / line[2], arms=arms, assignments=changes)
        assert loaded.base.data.source == "phantom"
        for settings in loaded.arms.values():
            assert make_plans(settings)
