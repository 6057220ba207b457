"""Noise of the planned size on every element, from secret generators, once."""

import pytest
import torch
from support import goes_red, refuses
from torch import Tensor

from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.normals import Normals

SHAPES = {"a": (2600, 500), "b": (3,), "c": (64, 31, 3, 3), "d": ()}


def draw(seed: int | None = 1, deviation: float = 2.0, batch: float = 4.0) -> dict[str, Tensor]:
    sums = {name: torch.full(shape, 8.0) for name, shape in SHAPES.items()}
    stream = NoiseSource(seed).normals("gradient", "h", 1)
    return SumNoise(stream).noised_mean(sums, deviation, batch)


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])


def check_scale(found: Tensor) -> None:
    """Mean 8 / 4 and deviation 2 / 4: five standard errors, and the tails of a normal."""
    error = 0.5 / len(found) ** 0.5
    assert abs(float(found.mean()) - 2) < 5 * error
    assert abs(float(found.std()) - 0.5) < 5 * error / 2**0.5
    beyond = float(((found - 2).abs() > 1.5).double().mean())
    assert abs(beyond - 0.0027) < 5 * (0.0027 / len(found)) ** 0.5


def test_the_sum_and_the_noise_are_both_divided_by_the_expected_batch() -> None:
    check_scale(flat(draw()))
    goes_red(check_scale, flat(draw(deviation=1.9)))
    goes_red(check_scale, flat(draw(batch=4.1)))


def check_no_element_repeats(found: Tensor) -> None:
    """Streams and pieces share nothing; of 1.3 million float32 one in eight repeats by chance."""
    assert len(found.unique()) > 0.7 * len(found)
    for shift in (1, 2**15, 2**18):
        pair = torch.stack([found[:-shift], found[shift:]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 6 / pair.shape[1] ** 0.5


def test_every_element_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    check_no_element_repeats(flat(draw()))
    # Broken: every stream has one key (pitfall 6 within a hospital).
    monkeypatch.setattr(Normals, "split", lambda self, count: [Normals(7) for _ in range(count)])
    goes_red(check_no_element_repeats, flat(draw()))


def test_noise_differs_between_calls_generators_and_steps() -> None:
    assert torch.equal(flat(draw(1)), flat(draw(1)))
    assert not torch.equal(flat(draw(1)), flat(draw(2)))
    assert not torch.equal(flat(draw(None)), flat(draw(None)))
    adder = SumNoise(NoiseSource(1).normals("gradient"))
    steps = [adder.noised_mean({"a": torch.zeros(50)}, 1.0, 1.0)["a"] for _ in range(2)]
    assert not torch.equal(*steps)


def with_threads(count: int) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return flat(draw())
    finally:
        torch.set_num_threads(before)


def test_noise_does_not_depend_on_the_number_of_threads() -> None:
    assert torch.equal(with_threads(1), with_threads(3))


def test_noise_that_protects_nothing_is_refused() -> None:
    for deviation, batch in ((0.0, 1.0), (float("nan"), 1.0), (1.0, 0.0), (4.4e-45, 1.0)):
        refuses(
            lambda d=deviation, b=batch: draw(deviation=d, batch=b), "protects nothing", "above 0"
        )
