"""Pretrained features: torchvision's numbers, public constants, heads that alone are trained."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import goes_red, refuses
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from fedmed.config import Model
from fedmed.models import build, scaling, trainable
from fedmed.models.features import FeatureNetwork, standardise


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(5)
    return squeezenet1_1().eval()


@pytest.fixture(scope="module")
def path(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.npz"
    np.savez(path, **{name: value.numpy() for name, value in theirs.state_dict().items()})
    return path


def make(path: Path | str, dimensions: Literal[2, 3] = 2, **keys: Any) -> FeatureNetwork:
    table = {"name": "probe", "weights": str(path)} | keys
    found = build(Model.model_validate(table), 32, 0, dimensions)
    assert isinstance(found, FeatureNetwork)
    return found


def pixels(count: int = 3) -> Tensor:
    """Grey images in [0, 1]."""
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def scaled(images: Tensor) -> Tensor:
    return (images - scaling.MEAN) / scaling.SPREAD


def test_features_are_torchvisions_on_imagenets_scale(path: Path, theirs: nn.Module) -> None:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    spread = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    network = make(path)
    with torch.no_grad():
        maps = theirs.features((pixels().expand(-1, 3, -1, -1) - mean) / spread)
        found = network.pooled(scaled(pixels()))
    torch.testing.assert_close(found, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert found.shape == (3, network.width)


def test_images_are_enlarged_first_where_that_is_asked(path: Path) -> None:
    larger = torch.nn.functional.interpolate(pixels(), (64, 64), mode="bilinear")
    with torch.no_grad():
        expected = make(path).pooled(scaled(larger))
        found = make(path, **{"feature-size": 64}).pooled(scaled(pixels()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


BODIES: list[tuple[str, Literal[2, 3]]] = [
    ("squeezenet1_1", 2),
    ("resnet18", 2),
    ("resnet9", 2),
    ("resnet9", 3),
]


@pytest.mark.parametrize(("body", "dimensions"), BODIES)
def test_every_pooling_of_every_body(
    body: str, dimensions: Literal[2, 3], path: Path, tmp_path: Path
) -> None:
    if body != "squeezenet1_1":
        path = tmp_path / "model.safetensors"
        plain = build(Model.model_validate({"name": body}), 32, 1, dimensions)
        save_file(plain.state_dict(), path)
    batch = torch.randn(2, 1, *[32 if dimensions == 2 else 16] * dimensions)
    with torch.no_grad():
        pooled = {}
        for pooling in ("mean", "stages", "grid"):
            keys = {"features": body, "pooling": pooling}
            if body != "squeezenet1_1":
                keys["stem"] = "small"
            network = make(path, dimensions, **keys)
            pooled[pooling] = network.pooled(batch)
            assert network(batch).shape == (2, 1)
            torch.testing.assert_close(network(pooled[pooling]), network(batch))
            assert not network.pooled(batch).requires_grad
    assert [value.shape[1] for value in pooled.values()] == [512, 896, 2048]
    torch.testing.assert_close(pooled["stages"][:, -512:], pooled["mean"])
    if body == "resnet9":
        maps = plain.layer4(plain.layer3(plain.layer2(plain.layer1(_stem(plain, batch)))))
        torch.testing.assert_close(pooled["mean"], maps.flatten(2).mean(2).detach())


def test_a_flat_body_sees_a_volume_from_three_sides(path: Path) -> None:
    volume = torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    volume[:, :, :8] = 0.0  # so that no axis looks like another
    volume[:, :, :, :, 20:] = 1.0
    with torch.no_grad():
        network = make(path, 3, pooling="stages")
        sides = [network.pooled(scaled(volume.mean(axis))) for axis in (2, 3, 4)]
        found = network.pooled(scaled(volume))
    torch.testing.assert_close(found, (sides[0] + sides[1] + sides[2]) / 3, rtol=1e-4, atol=1e-5)
    assert min(float((found - side).abs().max()) for side in sides) > 1e-3


def _stem(plain: Any, batch: Tensor) -> Tensor:
    result: Tensor = plain.relu(plain.bn1(plain.conv1(batch)))
    return result


def test_a_probe_trains_its_head_alone(path: Path) -> None:
    assert list(trainable(make(path))) == ["fc.weight", "fc.bias"]
    assert sum(p.numel() for p in trainable(make(path)).values()) == 513
    hidden = trainable(make(path, hidden=8, pooling="stages"))
    assert {name: tuple(p.shape) for name, p in hidden.items()} == {
        "fc.0.weight": (8, 896),
        "fc.0.bias": (8,),
        "fc.2.weight": (1, 8),
        "fc.2.bias": (1,),
    }


@pytest.mark.parametrize(
    ("name", "trains", "first"),
    [
        ("resnet18", "head", "fc.weight"),
        ("resnet18", "last-block", "layer4.1.conv1.weight"),
        ("resnet9", "last-block", "layer4.0.conv1.weight"),
        ("squeezenet1_1", "head", "fc.weight"),
        ("squeezenet1_1", "last-block", "body.features.12.squeeze.weight"),
        ("squeezenet1_1", "all", "body.features.0.weight"),
    ],
)
def test_what_is_frozen_is_not_trained(name: str, trains: str, first: str) -> None:
    model = build(Model.model_validate({"name": name, "trains": trains}), 32, 0)
    names = [n for n, _ in model.named_parameters()]
    assert list(trainable(model)) == names[names.index(first) :]
    assert names[-1] == "fc.bias"


@pytest.mark.parametrize("name", ["resnet18", "resnet9"])
def test_norms_and_head_are_the_factors_of_every_norm_and_the_last_layer(name: str) -> None:
    """A hundredth of a ResNet: every norm twice its channels, and 513 of the head."""
    model = build(Model.model_validate({"name": name, "trains": "norms"}), 32, 0)
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    trained = trainable(model)
    assert {id(p) for m in norms for p in m.parameters()} < {id(p) for p in trained.values()}
    count = sum(p.numel() for p in trained.values())
    assert count == sum(2 * m.num_channels for m in norms) + 513
    assert len(norms) == {"resnet18": 20, "resnet9": 12}[name]


def test_each_vector_is_standardised_on_its_own(path: Path) -> None:
    """Pitfalls 14 and 15: no statistic of the batch, none of private data; length 1."""

    def check(network: nn.Module) -> None:
        given = torch.randn(5, 512, generator=torch.Generator().manual_seed(1)) * 7 + 3
        with torch.no_grad():
            alone = torch.cat([network(row[None]) for row in given])
            assert torch.allclose(network(given), alone, atol=1e-4)
            assert torch.allclose(network(given * 5 - 2), alone, atol=1e-4)

    network = make(path)
    check(network)

    class OfTheBatch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = network.fc((x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=1e-6))
            return result

    goes_red(check, OfTheBatch())
    seen: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(4, 512))
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(4), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("images", "components"), [(300, 0), (300, 16), (40, 64)])
def test_the_constants_of_public_images_centre_them_and_give_length_one(
    images: int, components: int, path: Path
) -> None:
    network = make(path, standardise="validation", components=components)
    public = torch.randn(images, 512, generator=torch.Generator().manual_seed(2))
    public = public * torch.linspace(3, 0.1, 512) + 5
    standardise(network, public)
    seen: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(public)
    found = seen[0]
    assert found.shape == (images, components or 512)
    assert float(found.mean(0).abs().max()) < 1e-4
    assert float(found.square().sum(1).mean()) == pytest.approx(1, rel=0.05)
    first, second = found.square().mean(0)[:2].tolist()
    assert first > second  # half-way: larger components stay larger
    raw = torch.linalg.svdvals(public - public.mean(0))[:2] ** 2
    assert first / second == pytest.approx(float((raw[0] / raw[1]) ** 0.5), rel=1e-3)
    state = network.state_dict()
    assert {"centre", "project"} <= state.keys()
    assert "centre" not in trainable(network)


def test_weights_of_a_finished_probe_start_another(path: Path, tmp_path: Path) -> None:
    first = make(path, standardise="validation", components=8)
    own = tmp_path / "model.safetensors"
    save_file(first.state_dict(), own)
    second = make(own)
    assert torch.equal(
        second.body.state_dict()["features.0.weight"], first.body.state_dict()["features.0.weight"]
    )


def test_weights_that_do_not_fit_are_refused(path: Path, tmp_path: Path, theirs: nn.Module) -> None:
    refuses(
        lambda: make(path, features="resnet18"),
        "model.features",
        f"{path} was made with 'squeezenet1_1', this model has 'resnet18'",
    )
    other = tmp_path / "resnet.safetensors"
    save_file(build(Model(), 32, 0).state_dict(), other)
    refuses(lambda: make(other), "model.features", str(other), "this model has 'squeezenet1_1'")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:-3000])
    refuses(lambda: make(cut), str(cut), "damaged")
    objects = tmp_path / "objects.npz"
    np.savez(objects, **{"features.0.weight": np.array([{}], dtype=object)})
    refuses(lambda: make(objects), str(objects), "damaged or holds more than arrays")
    grey = tmp_path / "grey.npz"
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    np.savez(grey, **(state | {"features.0.weight": state["features.0.weight"][:, :1]}))
    refuses(lambda: make(grey), str(grey), "features.0.weight", "(64, 1, 3, 3)")
    small = Model(name="squeezenet1_1")
    refuses(lambda: build(small, 32, 0, 3), "SqueezeNet", "flat images", "'probe'")
    refuses(lambda: build(small, 16, 0), "at least 17 pixels", "model.feature-size")
    assert build(small, 17, 0)(torch.zeros(1, 1, 17, 17)).shape == (1, 1)
