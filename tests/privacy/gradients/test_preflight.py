"""The check before the first step: it refuses what mixes samples, and not what rounding does."""

from collections.abc import Callable

import pytest
import torch
from support import SIZE, goes_red, tiny_network
from torch import Tensor, nn

from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.coordinator.evaluation import initial_model
from fedmed.privacy.gradients import preflight
from fedmed.privacy.gradients.bookkeeping import BookkeepingEngine
from fedmed.privacy.gradients.engine import Options
from fedmed.privacy.gradients.loop import LoopEngine, norm_of

Pair = tuple[dict[str, Tensor], Tensor]


def engine_that_differs(times: int) -> Callable[[Tensor, Tensor], Pair]:
    """Sums of two samples' gradients, wrong in one array for the first ``times`` pairs."""
    loop = LoopEngine(NETWORK, Options())
    pairs: list[Tensor] = []

    def unclipped(images: Tensor, labels: Tensor) -> Pair:
        pairs.append(images)
        parts = [loop.gradient(images[i : i + 1], labels[i : i + 1]) for i in range(2)]
        norms = torch.stack([norm_of(part) for part in parts])
        sums = {name: parts[0][name] + parts[1][name] for name in parts[0]}
        if len(pairs) <= times:
            sums["0.weight"] = sums["0.weight"] * 1.5
        if len(pairs) > 1:
            assert not torch.equal(pairs[-1], pairs[-2]), "another pair is tried"
        return sums, norms

    return unclipped


NETWORK = tiny_network()
IMAGES, LABELS = torch.zeros(4, 1, SIZE, SIZE), torch.tensor([0.0, 1.0, 0.0, 1.0])


def check_accepted(times: int) -> None:
    try:
        preflight.check_against_loop(NETWORK, engine_that_differs(times), IMAGES, LABELS, Options())
    except UserError as error:
        raise AssertionError from error


def test_a_relu_that_rounding_flips_stops_no_training() -> None:
    """One pair in thirty differs in float32: six in a row are a false alarm of 1e-9."""
    check_accepted(0)
    check_accepted(preflight.ATTEMPTS - 1)
    goes_red(check_accepted, preflight.ATTEMPTS)


def test_what_differs_for_every_pair_is_refused_with_its_name() -> None:
    with pytest.raises(UserError, match=r"0\.weight.*mixes samples"):
        preflight.check_against_loop(NETWORK, engine_that_differs(99), IMAGES, LABELS, Options())


def test_the_pair_is_secret_and_holds_nothing_of_the_batch() -> None:
    """Weights made for public seeds would pass; a real image or label would make it a reply."""
    seen: list[tuple[Tensor, Tensor]] = []
    loop = LoopEngine(NETWORK, Options())

    def unclipped(images: Tensor, labels: Tensor) -> Pair:
        seen.append((images, labels))
        parts = [loop.gradient(images[i : i + 1], labels[i : i + 1]) for i in range(2)]
        norms = torch.stack([norm_of(part) for part in parts])
        return {name: parts[0][name] + parts[1][name] for name in parts[0]}, norms

    def check(images: Tensor, labels: Tensor) -> None:
        seen.clear()
        for _ in range(2):
            torch.manual_seed(0)
            preflight.check_against_loop(NETWORK, unclipped, images, labels, Options())
        (first, answers), (second, _) = seen[0], seen[-1]
        assert not torch.equal(first, second)
        assert 0.8 < float(first.std()) < 1.2  # 512 normal draws: outside by chance below 1e-9
        assert bool(((answers == -1) | (answers == 2)).all())

    check(IMAGES, LABELS)
    check(IMAGES.fill_(7.0), torch.full((4,), 0.25))
    check(IMAGES[:0], LABELS[:0])


def test_public_seeds_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmed.privacy.gradients.preflight.secrets.randbits", lambda _: 1)
    goes_red(test_the_pair_is_secret_and_holds_nothing_of_the_batch)


def test_a_model_that_is_sure_is_not_refused() -> None:
    """Logits of 20 leave gradients of rounding alone for the answers that it is sure of."""
    asked = {"data.image-size": 16, "model.name": "resnet9", "model.trains": "head"}
    sure = initial_model(Settings().replaced(asked))
    head = sure.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.fill_(0.01)
        head.weight.mul_(20.0 / sure(torch.randn(64, 1, 16, 16)).mean())
    engine = BookkeepingEngine(sure, 8)

    def check(answers: tuple[float, float]) -> None:
        for _ in range(10):
            pair = torch.randn(2, 1, 16, 16)
            assert not preflight._problem(
                sure, engine.unclipped, pair, torch.tensor(answers), Options()
            )

    check((-1.0, 2.0))
    goes_red(check, (0.0, 1.0))
    for _ in range(5):  # of the labels 0 and 1 one in six is refused
        preflight.check_against_loop(sure, engine.unclipped, IMAGES, LABELS, Options())
    engine.close()
