"""Guards that are broken on purpose: what ``experiments.distinguish`` and the tests must find."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from fedmed.hospital import histograms, rounds
from fedmed.privacy.gradients.noise import SumNoise
from fedmed.privacy.mechanisms.normals import Normals
from fedmed.privacy.mechanisms.updates import GaussianNoise, Update
from fedmed.training.local import LocalResult


@contextmanager
def noise_divided(by: float) -> Iterator[None]:
    """A part of the noise that is accounted, wherever it is drawn."""
    gradient, update, noised = SumNoise.noised_mean, GaussianNoise.add, histograms.noised

    def less_mean(self: SumNoise, sums: Any, deviation: float, divisor: float) -> Any:
        return gradient(self, sums, deviation / by, divisor)

    def less(self: GaussianNoise, given: Any, normals: Normals) -> Any:
        return update(GaussianNoise(self.standard_deviation / by), given, normals)

    with ExitStack() as stack:
        for patch in (
            mock.patch.object(SumNoise, "noised_mean", less_mean),
            mock.patch.object(GaussianNoise, "add", less),
            mock.patch.object(histograms, "noised", lambda c, d, g: noised(c, d / by, g)),
        ):
            stack.enter_context(patch)
        yield


@contextmanager
def not_finite_refused() -> Iterator[None]:
    """A gradient or an update that is no number is a code, as it once was."""
    change = rounds.Round._change

    def refusing(self: rounds.Round, *given: Any) -> tuple[Update, LocalResult]:
        made, result = change(self, *given)
        if result.dropped:
            raise rounds.NotFinite
        return made, result

    step = rounds.Round.step

    def refusing_step(self: rounds.Round, model: Any, shard: Any, *given: Any) -> Any:
        seen, context = self._featured(model, shard), (self.name, self.number, self.model_hash)
        plan = given[-1]
        if rounds.clipped_sum(model, seen, self.settings, plan, self.source, context)[1].dropped:
            raise rounds.NotFinite
        return step(self, model, shard, *given)

    with (
        mock.patch.object(rounds.Round, "_change", refusing),
        mock.patch.object(rounds.Round, "step", refusing_step),
        mock.patch.object(rounds.Round, "protects", False),
    ):
        yield


BROKEN: Final[Mapping[str, Callable[[], Any]]] = {
    "noise": lambda: noise_divided(10),
    "not-finite": not_finite_refused,
}
