"""EfficientNet-Lite0: the published weights classify photographs, and the extra is looked for."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from support import refuses
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d

from fedmed.base import files
from fedmed.config import Settings
from fedmed.models import build, packaged, scaling
from fedmed.models.efficientnet import EfficientBody, own_names
from fedmed.models.features import FeatureNetwork
from fedmed.models.origin import describe, weights_of

PROBE = {
    "model.name": "probe",
    "model.features": "efficientnet_lite0",
    "model.weights": "imagenet",
}
SAMPLES = Path(sklearn.datasets.__file__).parent / "images"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(packaged.packaged_weights(), weights_only=True)
    return state


@pytest.fixture(scope="module")
def body() -> EfficientBody:
    network = build(Settings().replaced(PROBE).model, 224, 0)
    assert isinstance(network, FeatureNetwork)
    assert isinstance(network.body, EfficientBody)
    return network.body


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (HOPPER, 652),  # military uniform
        (SAMPLES / "china.jpg", 698),  # palace
        (SAMPLES / "flower.jpg", 985),  # daisy
    ],
)
def test_photographs_are_what_they_show(
    path: Path, named: int, body: EfficientBody, published: dict[str, Tensor]
) -> None:
    """ImageNet's class is among the three of 1,000 that the published classifier likes most."""
    photograph = Image.open(path).convert("RGB")
    margins = [(side - min(photograph.size) * 0.875) / 2 for side in photograph.size]
    box = (*margins, *(s - m for s, m in zip(photograph.size, margins, strict=True)))
    crop = np.asarray(photograph.resize((224, 224), Image.Resampling.BICUBIC, box))
    pixels = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        maps = body((pixels - scaling.MEAN) / scaling.SPREAD)[-1]
        head = {n.removeprefix("_bn1."): v for n, v in published.items() if n.startswith("_bn1.")}
        maps = batch_norm(
            conv2d(maps, published["_conv_head.weight"]),
            *(head[n] for n in ("running_mean", "running_var", "weight", "bias")),
            eps=1e-3,
        ).clamp(0, 6)
        logits = maps.mean((2, 3)) @ published["_fc.weight"].T + published["_fc.bias"]
    assert named in logits[0].topk(3).indices


def test_every_published_array_is_used_once(
    body: EfficientBody, published: dict[str, Tensor]
) -> None:
    own, theirs = body.state_dict(), own_names(published)
    counted = {name for name in theirs if name.endswith("num_batches_tracked")}
    assert own.keys() == theirs.keys() - counted
    assert all(torch.equal(own[name], theirs[name]) for name in own)


@pytest.mark.parametrize("side", [28, 33, 64])
def test_stages_are_an_eighth_a_sixteenth_and_a_thirtysecond(
    side: int, body: EfficientBody
) -> None:
    stages = body(torch.zeros(2, 1, side, side))
    sides = [-(-side // by) for by in (8, 16, 32)]
    assert [tuple(s.shape) for s in stages] == [
        (2, channels, small, small) for channels, small in zip(body.channels, sides, strict=True)
    ]


@pytest.mark.parametrize(
    ("pooling", "width"), [("mean", 320), ("stages", 472), ("middle", 152), ("grid", 1280)]
)
def test_a_probe_has_the_numbers_that_its_pooling_says(pooling: str, width: int) -> None:
    network = build(Settings().replaced({**PROBE, "model.pooling": pooling}).model, 32, 0)
    assert isinstance(network, FeatureNetwork)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert network.width == width == network.pooled(images).shape[1]
    assert network(images).shape == (2, 1)


def test_images_do_not_meet(body: EfficientBody) -> None:
    images = torch.randn(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    body.train()
    together, apart = body(images), body(images[1:2])
    for whole, one in zip(together, apart, strict=True):
        torch.testing.assert_close(whole[1:2], one, rtol=1e-3, atol=1e-3)


def test_the_statement_names_the_file_and_its_digest() -> None:
    weights = weights_of(Settings().replaced(PROBE))
    assert weights is not None
    assert weights.sha256 == files.digest(packaged.packaged_weights())
    assert "efficientnet-lite0-57934424.pth (SHA-256" in describe(weights)


def test_without_the_extra_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    refuses(
        lambda: build(Settings().replaced(PROBE).model, 32, 0), "model.weights", "fedmed[imagenet]"
    )


def test_another_file_of_that_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: weights that somebody put in the package's place."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(packaged, "find_spec", lambda _: spec)
    refuses(lambda: build(Settings().replaced(PROBE).model, 32, 0), "model.weights", "not the file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.weights": "none"}, ["model.weights", "scattering"]),
        ({"model.norm": "frozen-batch"}, ["model.norm", "efficientnet_lite0"]),
        ({"model.stem": "small"}, ["model.stem", "efficientnet_lite0"]),
        ({"model.pooling": "all"}, ["model.pooling", "scattering"]),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, str], words: list[str]) -> None:
    refuses(lambda: Settings().replaced({**PROBE, **changes}), *words)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = Settings().replaced({**PROBE, "model.features": "squeezenet1_1"})
    path = str(packaged.packaged_weights())
    refuses(
        lambda: build(other.replaced({"model.weights": path}).model, 32, 0),
        "model.features",
        "'efficientnet_lite0'",
    )
