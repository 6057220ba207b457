"""Scattering: kymatio's numbers by another way, and what the theory says of any scattering."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import goes_red
from torch import Tensor

from fedmed.config import Model
from fedmed.models import build, trainable
from fedmed.models.features import FeatureNetwork, standardise
from fedmed.models.scattering import Scattering, directions

Array = NDArray[Any]


def gabor(side: int, sigma: float, theta: float, xi: float, slant: float) -> Array:
    """A Gaussian times a wave in pixels, as kymatio 0.3 samples it: periods are summed."""
    total = np.zeros((side, side), dtype=np.complex128)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    curve = turn @ np.diag([1, slant**2]) @ turn.T / (2 * sigma**2)
    for right in range(-2, 3):
        for down in range(-2, 3):
            x, y = np.mgrid[:side, :side] + np.array([right, down])[:, None, None] * side
            form = curve[0, 0] * x * x + 2 * curve[0, 1] * x * y + curve[1, 1] * y * y
            total += np.exp(-form + 1j * xi * (x * np.cos(theta) + y * np.sin(theta)))
    return total / (2 * np.pi * sigma**2 / slant)


def morlet(side: int, scale: int, place: int, slant: float = 0.5) -> Array:
    theta, sigma, xi = (3 - place) * np.pi / 8, 0.8 * 2**scale, 3 * np.pi / 4 / 2**scale
    wave, plain = (gabor(side, sigma, theta, one, slant) for one in (xi, 0))
    return wave - wave.sum() / plain.sum() * plain


def convolved(image: Array, kernel: Array) -> Array:
    """With a kernel of the whole image; of one of every 2^k-th pixel, its low frequencies."""
    cut = (len(kernel) - len(image)) // 2
    kept = slice(cut, cut + len(image))
    spectrum = np.fft.fftshift(np.fft.fft2(kernel))[kept, kept]
    return np.fft.ifft2(np.fft.fft2(image) * np.fft.ifftshift(spectrum))


def second_implementation(image: Array, scales: int = 2, slant: float = 0.5) -> Array:
    """One wavelet after the other, sampled in pixels; pixels are left out in space."""
    side, cell = len(image), 2**scales
    whole = (side // cell + 2) * cell
    before = (whole - side) // 2
    padded = np.pad(image, [(before, whole - side - before)] * 2, mode="reflect")
    low = gabor(whole, 0.8 * 2 ** (scales - 1), 0, 0, 1)

    def averaged(map_: Array) -> Array:
        step = cell * len(map_) // whole
        return convolved(map_, low).real[step:-step:step, step:-step:step]

    def modulus(map_: Array, wave: Array, step: int) -> Array:
        every: Array = np.abs(convolved(map_, wave))[::step, ::step]
        return every

    banks = [[morlet(whole, s, p, slant) for p in range(8)] for s in range(scales)]
    first = [(s, modulus(padded, wave, 2**s)) for s in range(scales) for wave in banks[s]]
    second = [
        averaged(modulus(map_, wave, 2 ** (coarser - scale)))
        for scale, map_ in first
        for coarser in range(scale + 1, scales)
        for wave in banks[coarser]
    ]
    return np.stack([averaged(padded), *[averaged(map_) for _, map_ in first], *second])


def smooth(side: int, dimensions: int = 2, seed: int = 0) -> Tensor:
    """A random image (1, 1, *sides) without much detail, as films are."""
    noise = torch.randn(1, 1, *[side] * dimensions, generator=torch.Generator().manual_seed(seed))
    pool = torch.nn.functional.avg_pool2d if dimensions == 2 else torch.nn.functional.avg_pool3d
    for _ in range(2):
        noise = pool(noise, 3, stride=1, padding=1)
    return noise


def scattered(images: Tensor, scales: int = 2) -> Tensor:
    """(paths, *maps) of one image."""
    dimensions: Literal[2, 3] = 2 if images.dim() == 4 else 3
    with torch.no_grad():
        maps = Scattering(images.shape[-1], scales, dimensions).maps(images)
    result: Tensor = maps[0]
    return result


@pytest.mark.parametrize(("side", "scales"), [(32, 2), (28, 2), (30, 2), (33, 1), (32, 3)])
def test_maps_are_those_of_a_second_implementation(side: int, scales: int) -> None:
    image = smooth(side)

    def check(slant: float) -> None:
        expected = second_implementation(image[0, 0].double().numpy(), scales, slant)
        actual = scattered(image, scales).numpy()
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, atol=2e-6)

    check(0.5)
    goes_red(check, 0.7)


def test_numbers_are_kymatios() -> None:
    """Of kymatio 0.3.0, Scattering2D(2, (32, 32)), to the four digits of its own pi."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.sin(rows / 3) * torch.cos(columns * columns / 40) + rows * columns / 1024
    maps = scattered(image[None, None])
    actual = [float(maps[place]) for place in KYMATIO]
    np.testing.assert_allclose(actual, list(KYMATIO.values()), rtol=2e-4, atol=2e-6)


KYMATIO = {
    (0, 0, 0): 0.37129,
    (0, 3, 5): 0.399188,
    (1, 0, 2): 0.035096,
    (4, 7, 7): 0.010478,
    (8, 2, 3): 0.047231,
    (9, 4, 1): 0.067853,
    (16, 6, 0): 0.016893,
    (17, 3, 3): 0.007933,
    (42, 5, 6): 0.000581,
    (80, 1, 4): 0.007576,
}


@pytest.mark.parametrize(
    ("dimensions", "scales", "side", "paths", "maps"),
    [
        *[(2, 2, 32, 81, 8), (2, 2, 31, 81, 7), (2, 1, 17, 9, 8), (2, 3, 28, 217, 3)],
        *[(2, 2, 4, 81, 1), (3, 2, 12, 49, 3), (3, 1, 9, 7, 4)],
    ],
)
def test_channels_and_sides(
    dimensions: Literal[2, 3], scales: int, side: int, paths: int, maps: int
) -> None:
    body = Scattering(side, scales, dimensions, channels=2)
    (stage,) = body(torch.randn(3, 2, *[side] * dimensions))
    assert stage.shape == (3, 2 * paths, *[maps] * dimensions)
    assert body.width("all") == 2 * paths * maps**dimensions
    assert (body.width("mean"), body.width("grid")) == (2 * paths, 8 * paths)
    assert not list(body.parameters())
    assert not body.state_dict()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_constant_images_have_order_0_alone(dimensions: int) -> None:
    maps = scattered(torch.full((1, 1, *[16] * dimensions), 3.0))
    torch.testing.assert_close(maps[0], torch.full_like(maps[0], 3.0), rtol=1e-5, atol=1e-5)
    assert float(maps[1:].abs().max()) < 1e-5


@pytest.mark.parametrize(("dimensions", "side"), [(2, 32), (3, 16)])
def test_energy_does_not_grow(dimensions: int, side: int) -> None:
    """Maps have 1 in 4^d of the pixels: of an image that ends within its borders."""
    for seed in range(3):
        image = torch.zeros(1, 1, *[side] * dimensions)
        middle = (0, 0, *[slice(side // 4, -side // 4)] * dimensions)
        image[middle] = torch.randn(
            image[middle].shape, generator=torch.Generator().manual_seed(seed)
        )
        before = float(image.square().sum())
        after = float(scattered(image).square().sum()) * 4**dimensions
        assert 0.05 * before < after < before


@pytest.mark.parametrize(("dimensions", "side"), [(2, 32), (3, 16)])
def test_a_shift_by_a_pixel_changes_little(dimensions: int, side: int) -> None:
    image = smooth(side + 1, dimensions)
    whole = (slice(None), slice(None))
    left = image[(*whole, *[slice(0, side)] * dimensions)]
    right = image[(*whole, *[slice(1, side + 1)] * dimensions)]
    first, second = scattered(left)[1:], scattered(right)[1:]
    moved = float((first - second).norm() / first.norm())
    pixels = float((left - right).norm() / left.norm())
    assert moved < 0.6 * pixels


def test_each_direction_answers_to_its_own_waves() -> None:
    """In space all six; two waves of opposite direction are one."""
    for dimensions, side in ((2, 32), (3, 16)):
        units = directions(dimensions)  # type: ignore[arg-type]  # 2 or 3
        torch.testing.assert_close(units.norm(dim=1), torch.ones(len(units)).double())
        products = (units @ units.T).abs() - torch.eye(len(units))
        assert float(products.max()) < (0.93 if dimensions == 2 else 0.448)
        places = torch.meshgrid(*[torch.arange(float(side))] * dimensions, indexing="ij")
        for number, unit in enumerate(units.float()):
            phase = sum(axis * part for axis, part in zip(places, unit, strict=True))
            wave = torch.cos(3 * np.pi / 4 * torch.as_tensor(phase))
            answers = scattered(wave[None, None])[1 : 1 + len(units)].flatten(1).mean(1)
            assert int(answers.argmax()) == number


def test_large_volumes_and_images_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for image in (smooth(28), smooth(12, 3)):
        whole = scattered(image)
        monkeypatch.setattr("fedmed.models.scattering._AT_ONCE", 1)
        torch.testing.assert_close(scattered(image), whole, rtol=1e-5, atol=1e-6)
        monkeypatch.undo()


def probe(side: int = 32, dimensions: Literal[2, 3] = 2, **keys: Any) -> FeatureNetwork:
    table = {"name": "probe", "features": "scattering", "pooling": "all"} | keys
    network = build(Model.model_validate(table), side, 0, dimensions, outputs=1)
    assert isinstance(network, FeatureNetwork)
    return network


def test_samples_and_channels_stay_apart() -> None:
    images = torch.cat([smooth(16, seed=seed) for seed in range(4)]).view(2, 2, 16, 16)
    network = probe(16, channels=2)
    both = network.pooled(images)
    for row in range(2):
        assert torch.equal(network.pooled(images[row : row + 1])[0], both[row])
        alone = [probe(16).pooled(images[row : row + 1, one : one + 1])[0] for one in range(2)]
        torch.testing.assert_close(both[row], torch.cat(alone))


@pytest.mark.parametrize(("hidden", "numbers"), [(0, 5185), (4, 4 * 5185 + 5)])
def test_the_head_alone_is_trained(hidden: int, numbers: int) -> None:
    network = probe(hidden=hidden)
    assert sum(p.numel() for p in trainable(network).values()) == numbers
    images = smooth(32)
    torch.testing.assert_close(network(network.pooled(images)), network(images))


@pytest.mark.parametrize(
    ("dimensions", "pooling", "width"),
    [(2, "mean", 81), (2, "grid", 324), (2, "all", 1296), (3, "grid", 196), (3, "all", 49 * 64)],
)
def test_poolings_of_maps(dimensions: Literal[2, 3], pooling: str, width: int) -> None:
    image = smooth(16, dimensions)
    network = probe(16, dimensions, pooling=pooling)
    features = network.pooled(image)
    assert features.shape == (1, width)
    assert network.width == width
    assert network(features).shape == (1, 1)
    maps, count = scattered(image), 2 * (8 if dimensions == 2 else 6)
    first, second = ((0.01 + maps[part]) for part in (slice(1, 1 + count), slice(1 + count, None)))
    maps = torch.cat([4 * maps[:1], 2 * torch.log(first / 0.07), 2 * torch.log(second / 0.016)])
    if pooling == "mean":
        torch.testing.assert_close(features[0], maps.flatten(1).mean(1))
    if pooling == "all":
        torch.testing.assert_close(features[0], maps.flatten())


def test_each_vector_has_maps_and_orders_of_equal_weight() -> None:
    """No batch: what else is in it changes nothing."""
    network = probe(32)
    images = torch.cat([smooth(32, seed=seed) * 100 for seed in range(3)])
    seen: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = network.pooled(images)
    network(features)
    network(features[1:2])
    torch.testing.assert_close(seen[1][0], seen[0][1])
    maps = seen[0].view(3, 81, 64)
    assert float(maps.mean(2).abs().max()) < 1e-5
    orders = [maps[:, :1], maps[:, 1:17], maps[:, 17:]]
    for order in orders:
        torch.testing.assert_close(
            order.square().sum((1, 2)), torch.full((3,), 1 / 3), rtol=0.02, atol=0
        )
    one = maps[:, 5].square().sum(1)
    torch.testing.assert_close(one, torch.full((3,), 1 / 48), rtol=0.02, atol=0)
    one_scale = probe(8, scales=1)
    seen.clear()
    one_scale.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    one_scale(smooth(8) * 20)
    assert float(seen[0].square().sum()) == pytest.approx(1, abs=0.02)


def test_means_of_maps_are_standardised_as_a_whole() -> None:
    network = probe(32, pooling="mean")
    seen: list[Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(smooth(32) * 20)
    assert float(seen[0].norm()) == pytest.approx(1, abs=0.01)
    assert float(seen[0].mean()) == pytest.approx(0, abs=1e-6)


def test_components_of_public_images() -> None:
    network = probe(32, standardise="validation", components=8)
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == {
        "centre": (5184,),
        "project": (5184, 8),
        "fc.weight": (1, 8),
        "fc.bias": (1,),
    }
    public = network.pooled(torch.cat([smooth(32, seed=seed) for seed in range(20)]))
    standardise(network, public)
    kept = (public - network.centre) @ network.project
    assert float(kept.mean(0).abs().max()) < 1e-4
    assert float(kept.square().sum(1).mean()) == pytest.approx(1, rel=0.1)


def test_numbers_of_a_film_are_around_0() -> None:
    """A check of the engine makes up noise around 0; where films are far from it, logits of noise
    are so large that rounding is all that is left of their gradients."""
    network = probe(32)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    film = (columns - 16).abs() / 8 - 1 + 0.15 * torch.sin(rows * 1.5)  # two lungs, ribs
    features = network.pooled((film + 0.1 * smooth(32)[0, 0])[None, None])[0].view(81, 64)
    orders = [features[:1], features[1:17], features[17:]]
    assert all(abs(float(order.mean())) < 1.5 for order in orders), orders
    assert all(0.1 < float(order.std()) < 5 for order in orders)


def test_a_smaller_image_is_enlarged_first() -> None:
    image = smooth(16)
    larger = torch.nn.functional.interpolate(image, (32, 32), mode="bilinear")
    enlarging = probe(16, **{"feature-size": 32})
    torch.testing.assert_close(enlarging.pooled(image), probe(32).pooled(larger))
