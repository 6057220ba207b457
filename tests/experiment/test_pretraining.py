"""An experiment that pretrains: once, without privacy, on other data, and said in the statement."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import goes_red, refuses
from torchvision.models import squeezenet1_1

import fedmed.hospital.hospital
import fedmed.hospital.rounds
from fedmed.base.errors import RunError
from fedmed.cli.progress import Silent
from fedmed.coordinator.evaluation import initial_model
from fedmed.data.network import load_network
from fedmed.experiment.file import load_experiment
from fedmed.experiment.run import run_experiment
from fedmed.federation import messages
from fedmed.launch import run_inline
from fedmed.privacy.statement.contents import check as check_statement

TEXT = """
name = "transfer"
seeds = [0, 1]
arms = ["none", "dp-sgd", "scratch"]
[data]
patients = 60
image-size = 16
hospitals = 2
[model]
name = "resnet9"
weights = "pretrain"
weights-origin = "a phantom, nobody's"
[train]
rounds = 1
local-epochs = 0.2
batch-size = 8
[privacy]
delta = 1e-3
[arm.dp-sgd.model]
trains = "head"
[arm.scratch]
privacy = { arm = "none" }
model = { weights = "none", weights-origin = "" }
[pretrain.data]
patients = 40
seed = 7
[pretrain.train]
rounds = 1
local-epochs = 0.5
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    fedmed.hospital.hospital.hospital_for.cache_clear()
    fedmed.hospital.hospital._model.cache_clear()


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "transfer.toml"
    path.write_text(text)
    return path


def run(path: Path, out: Path, *arms: str, **options: Any) -> list[dict[str, Any]]:
    return run_experiment(load_experiment(path, arms=arms, **options), out, run_inline, Silent())


def test_it_pretrains_once_and_arms_start_from_it(tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    run(path, out)
    kept = load_file(out / "pretrain" / "model.safetensors")
    made = (out / "pretrain" / "model.safetensors").stat().st_mtime_ns
    told = json.loads((out / "pretrain" / "config.json").read_text())["config"]
    assert (told["data.seed"], told["data.patients"], told["data.image-size"]) == (7, 40, 16)
    assert (told["privacy.arm"], told["train.scheme"]) == ("none", "pooled")
    assert (told["model.name"], told["model.weights"]) == ("resnet9", "none")

    def check(arm: str) -> None:
        """A frozen body is still the pretraining's, and the rest of a whole network started so."""
        start = load_file(out / arm / "seed-1" / "model.safetensors")  # the pretraining's is 0
        near = float((start["conv1.weight"] - kept["conv1.weight"]).abs().max())
        assert near < 0.05

    check("none")
    check("dp-sgd")
    goes_red(check, "scratch")
    frozen = load_file(out / "dp-sgd" / "seed-1" / "model.safetensors")
    assert frozen.keys() == kept.keys()
    for name, value in frozen.items():
        assert torch.equal(value, kept[name]) is not name.startswith("fc."), name
    stated = json.loads((out / "dp-sgd" / "seed-0" / "privacy.json").read_text())
    check_statement(stated)
    assert stated["weights"]["name"] == "pretrain/model.safetensors"
    assert stated["weights"]["cohort"] == "phantom (synthetic)"
    assert stated["weights"]["arm"] == "none"
    assert "declared: a phantom, nobody's" in stated["public_data"]
    assert stated["noise_to_signal"] < 40  # 513 numbers are noised, not 4.9 million
    scratch = json.loads((out / "scratch" / "seed-0" / "privacy.json").read_text())
    assert scratch["weights"] is None
    assert (out / "privacy-total.json").is_file()
    assert "pretrain" not in (out / "privacy-total.json").read_text().replace("pretrain/model", "")
    moved = tmp_path / "moved"
    out.rename(moved)
    assert len(run(path, moved, "none")) == 2  # found where the folder is now, not made again
    assert (moved / "pretrain" / "model.safetensors").stat().st_mtime_ns == made


def test_frozen_parameters_are_neither_sent_nor_noised(tmp_path: Path) -> None:
    settings = load_experiment(written(tmp_path)).settings("dp-sgd", 0)
    settings = settings.replaced({"model.weights": "none", "model.weights-origin": ""})
    model = initial_model(settings)
    assert list(messages.parameters_of(model)) == ["fc.weight", "fc.bias"]
    assert messages.frozen_of(model).keys() == model.state_dict().keys() - {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[pretrain.data]\npatients = 40\nseed = 7", "", ["[pretrain]", "[pretrain.data]"]),
        ("seed = 7", "seed = 0", ["[pretrain]", "another cohort"]),
        ("[pretrain.train]", "[pretrain.privacy]\nepsilon = 1\n[pretrain.train]", ["'privacy'"]),
        ("[pretrain.train]", '[pretrain.model]\nname = "resnet18"\n[pretrain.train]', ["resnet9"]),
        (
            "[pretrain.train]",
            '[pretrain.model]\nweights = "pretrain"\n[pretrain.train]',
            ["itself"],
        ),
        ("[pretrain.train]\nrounds = 1", "[pretrain.train]\nrunds = 1", ["[pretrain]", "runds"]),
        ('weights = "pretrain"\nweights-origin = "a phantom, nobody\'s"', "", ["no arm starts"]),
    ],
)
def test_mistakes_are_named(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    assert old in TEXT
    path = written(tmp_path, TEXT.replace(old, new))
    refuses(lambda: load_experiment(path), str(path), *words)


def test_weights_that_nothing_makes_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.split("[pretrain.data]")[0])
    refuses(lambda: load_experiment(path), "'pretrain'", "no [pretrain]")
    refuses(lambda: load_experiment(path, assignments=["pretrain.train.rounds=2"]), "--set", "no [")
    alone = load_experiment(written(tmp_path)).settings("none", 0)
    refuses(lambda: initial_model(alone), "model.weights", "fedmed run")


def test_the_command_line_changes_the_pretraining(tmp_path: Path) -> None:
    path = written(tmp_path)
    changed = load_experiment(path, assignments=["pretrain.train.rounds=3", "data.image-size=20"])
    assert changed.pretrain is not None
    assert changed.pretrain.train.rounds == 3
    assert changed.pretrain.data.image_size == 20
    assert changed.settings("none", 0).train.rounds == 1
    assert load_experiment(path, arms=["scratch"]).pretrain is None
    assert load_experiment(path).settings("none", 0).model.stem == "small"  # the pretraining's


PROBE = """
name = "probe"
arms = ["none", "pixel-laplace", "dp-sgd", "local-update", "central-fixed", "pooled", "local-only"]
[data]
patients = 60
image-size = 32
hospitals = 2
[model]
name = "probe"
weights = "weights.npz"
pooling = "stages"
standardise = "validation"
components = 8
[train]
rounds = 2
local-epochs = 1
batch-size = 8
[privacy]
delta = 1e-3
[arm.pixel-laplace.privacy]
laplace-scale = 0.5
"""


def test_every_arm_trains_a_probe_on_features_of_the_images_it_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    state = squeezenet1_1().features.state_dict()
    np.savez(tmp_path / "weights.npz", **{f"features.{n}": v.numpy() for n, v in state.items()})
    path = tmp_path / "probe.toml"
    path.write_text(PROBE)
    seen: dict[str, set[str]] = {}
    real = fedmed.hospital.rounds.featured

    def watched(model: Any, shard: Any, *rest: Any) -> Any:
        found = real(model, shard, *rest)
        seen.setdefault(str(shard.images.dtype), set()).add(str(found.images.shape[1:]))
        return found

    monkeypatch.setattr(fedmed.hospital.rounds, "featured", watched)
    names = ["none", "dp-sgd", "local-update", "central-fixed", "pooled", "local-only"]
    results = {r["name"]: r for r in run(path, tmp_path / "out", *names)}
    assert seen == {"uint8": {"(896,)"}}
    seen.clear()
    noised = run(path, tmp_path / "out", "pixel-laplace")[0]
    assert seen == {"float32": {"(896,)"}}  # the noised pixels', never the clean ones'
    assert noised["unit"] == "image"
    assert {name: result["unit"] for name, result in results.items()} == {
        "none": "none",
        "dp-sgd": "patient",
        "local-update": "hospital",
        "central-fixed": "hospital",
        "pooled": "none",
        "local-only": "none",
    }
    model = load_file(tmp_path / "out" / "dp-sgd" / "seed-0" / "model.safetensors")
    assert model["fc.weight"].shape == (1, 8)
    assert float(model["project"].abs().max()) > 0
    stated = json.loads((tmp_path / "out" / "dp-sgd" / "seed-0" / "privacy.json").read_text())
    assert "the server's validation images" in stated["public_data"]
    assert stated["weights"]["name"] == "weights.npz"
    cached = list((tmp_path / "out").parent.glob("**/cache/features/*.npy"))
    assert not cached or len(cached) <= 6
    load_network.cache_clear()


def test_a_pretraining_that_fails_stops_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("no memory")

    monkeypatch.setattr("fedmed.hospital.rounds.train_plain", fail)
    out = tmp_path / "out"
    with pytest.raises(RunError):
        run(written(tmp_path), out)
    assert not (out / "none").exists()


@pytest.mark.parametrize("hidden", [0, 4])
def test_every_arm_trains_a_head_on_scattering(hidden: int, tmp_path: Path) -> None:
    names = ["none", "pixel-laplace", "dp-sgd", "local-update", "central-fixed"]
    names += ["central-dp-sgd", "distributed-dp-sgd", "pooled", "local-only"]
    text = re.sub(r"arms = .*", f"arms = {json.dumps(names)}", PROBE)
    text = text.replace("image-size = 32", "image-size = 16").replace(
        "hospitals = 2", "hospitals = 3"
    )
    text = text.replace('weights = "weights.npz"', f'features = "scattering"\nhidden = {hidden}')
    text = text.replace('pooling = "stages"', 'pooling = "all"')
    path = tmp_path / "scattering.toml"
    path.write_text(text)
    results = {result["name"]: result for result in run(path, tmp_path / "out")}
    assert list(results) == names
    assert all(0 < result["metrics"]["auroc"] <= 1 for result in results.values())
    sent = load_file(tmp_path / "out" / "distributed-dp-sgd" / "seed-0" / "model.safetensors")
    assert not [name for name in sent if name.startswith("body.")]
    told = (tmp_path / "out" / "distributed-dp-sgd" / "seed-0" / "privacy.json").read_text()
    assert "its features are wavelet scattering, which no data are behind" in told


def test_a_pretraining_beside_scattering_is_of_a_network(tmp_path: Path) -> None:
    """Scattering has nothing to train: the arm that starts from weights says of which network."""
    text = TEXT.replace('name = "resnet9"\nweights = "pretrain"', 'name = "probe"')
    text = text.replace('weights-origin = "a phantom, nobody\'s"\n', 'features = "scattering"\n', 1)
    text = re.sub(r"(?s)\[arm.dp-sgd.model\].*?\[pretrain.data\]", "[pretrain.data]", text)
    text = text.replace('"dp-sgd", "scratch"', '"dp-sgd"')
    text += '[arm.dp-sgd.model]\nfeatures = "resnet18"\nweights = "pretrain"\n'
    pretrain = load_experiment(written(tmp_path, text)).pretrain
    assert pretrain is not None
    assert pretrain.model.name == "resnet18"
