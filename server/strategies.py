"""How the hospitals' updates become the next model: Flower strategies."""

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedmed.config import Train
from fedmed.errors import RunError
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.filtering import OverBudget
from fedmed.privacy.ledger import Ledger
from fedmed.privacy.noise import NoiseSource
from fedmed.privacy.plans import UpdatePlan
from fedmed.privacy.updates import GaussianNoise, clip, norm
from server.optimizers import ServerOptimizer

log = logging.getLogger("fedmed.server")

Arrays = dict[str, Tensor]


class BudgetSpent(Exception):
    """A member (or the server's own ledger) has no step left: the run ends with what it has."""


@dataclass
class RoundReport:
    """What the history says of a round; ``sent`` and ``received`` are bytes of encoded arrays."""

    hospitals: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    loss: float | None = None
    sent: int = 0
    received: int = 0
    extra: dict[str, float] = field(default_factory=dict)


class FederationStrategy(Strategy):
    """What every strategy here shares: messages to all members, checked replies, failures.

    ``members`` maps Flower's node ids to hospital names; ``completed`` rounds were done before (a
    resumed run), so Flower's round 1 is round ``completed + 1``; ``run`` names the run in ledgers.
    """

    def __init__(
        self,
        train: Train,
        members: Mapping[int, str],
        frozen: ArrayRecord,
        completed: int,
        *,
        run: str = "",
    ) -> None:
        self.train = train
        self.run = run
        self.members = dict(members)
        self.frozen = frozen
        self.completed = completed
        self.report = RoundReport()
        self._sent = 0

    @abstractmethod
    def model_for(self, hospital: str) -> Arrays:
        """The model this hospital trains next."""

    @abstractmethod
    def combine(self, round_number: int, replies: list[Reply]) -> None:
        """Take in a round's updates, sorted by hospital, failures already handled."""

    @abstractmethod
    def models(self) -> dict[str, Arrays]:
        """The present model(s) by owner, for the checkpoint and the evaluation."""

    @abstractmethod
    def state(self) -> dict[str, Arrays]:
        """What the strategy keeps between rounds beside the models, for the checkpoint."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One train message for every member."""
        round_number = server_round + self.completed
        encoded: dict[int, ArrayRecord] = {}
        outgoing = []
        for node, hospital in self.members.items():
            model = self.model_for(hospital)
            record = encoded.setdefault(id(model), messages.encode_arrays(model))
            content = messages.train_content(record, self.frozen, round_number, self.run)
            outgoing.append(Message(content, node, MessageType.TRAIN, group_id=str(round_number)))
        self._sent = sum(messages.size_of(message) for message in outgoing)
        return outgoing

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every reply, handle failures as configured, combine the rest.

        Raises :class:`RunError` where the round cannot count and :class:`BudgetSpent` where a
        member has no steps left.
        """
        received: dict[str, Reply] = {}
        size = 0
        for message in replies:
            size += messages.size_of(message)
            hospital = self.members[message.metadata.src_node_id]
            like = self.model_for(hospital)
            received[hospital] = messages.read_reply(message, hospital, like)
        checked = [received.get(h, Reply(h, error="no-answer")) for h in self.members.values()]
        failures = [r for r in checked if r.error is not None]
        good = sorted((r for r in checked if r.error is None), key=lambda r: r.hospital)
        losses = [r.loss for r in good if r.loss is not None]
        self.report = RoundReport(
            len(good),
            [{"hospital": r.hospital, "code": str(r.error)} for r in failures],
            sum(losses) / len(losses) if losses and len(losses) == len(good) else None,
            sent=self._sent,
            received=size,
        )
        if any(r.error == "budget" for r in failures):
            for reply in failures:
                log.warning(
                    "%s: %s (%s)", reply.hospital, reply.error, messages.ERRORS[str(reply.error)]
                )
            raise BudgetSpent
        if failures and all(r.error == "policy" for r in checked):
            raise BudgetSpent
        self._handle(failures, len(good))
        self.combine(server_round + self.completed, good)
        return None, None

    def _handle(self, failures: list[Reply], good: int) -> None:
        if not failures:
            return
        # A policy's no is a right, not a fault: the federation goes on without that hospital.
        faults = [r for r in failures if r.error != "policy"]
        first = faults[0] if faults else failures[0]
        text = f"{first.hospital}: {first.error} ({messages.ERRORS[str(first.error)]})"
        if faults and self.train.on_failure == "stop":
            raise RunError(f"{text}; mend it, or set train.on-failure = 'continue'")
        if good < self.train.minimum_hospitals:
            raise RunError(
                f"{good} of {len(self.members)} hospitals answered, fewer than "
                f"train.minimum-hospitals = {self.train.minimum_hospitals}; first failure: {text}"
            )
        log.warning("going on without %d hospital(s); first: %s", len(failures), text)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: a hospital's own evaluation would be another release of its data."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Nothing to log beyond Flower's own lines."""


class Averaging(FederationStrategy):
    """Federated averaging (McMahan et al. 2017) of updates, weighted equally or by size."""

    def __init__(
        self,
        train: Train,
        members: Mapping[int, str],
        frozen: ArrayRecord,
        completed: int,
        initial: Arrays,
        sizes: Mapping[str, int],
        *,
        run: str = "",
        state: Mapping[str, Arrays] | None = None,
    ) -> None:
        super().__init__(train, members, frozen, completed, run=run)
        self.parameters = initial
        self.sizes = sizes
        self.optimizer = ServerOptimizer(train, state)

    def model_for(self, hospital: str) -> Arrays:
        """The one global model."""
        return self.parameters

    def models(self) -> dict[str, Arrays]:
        """The one global model."""
        return {"global": self.parameters}

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        """Give the weighted mean of the updates to the server's optimiser."""
        if self.train.weighting == "equal":
            weights = {r.hospital: 1 / len(replies) for r in replies}
        else:
            total = sum(self.sizes[r.hospital] for r in replies)
            weights = {r.hospital: self.sizes[r.hospital] / total for r in replies}
        self._add(weighted_sum(replies, weights), 1.0)

    def _add(self, update: Arrays, divisor: float) -> None:
        mean = {n: v / divisor for n, v in update.items()} if divisor != 1 else update
        self.parameters = self.optimizer.step(self.parameters, mean)

    def state(self) -> dict[str, Arrays]:
        """The server optimiser's."""
        return self.optimizer.state


class CentralGaussian(Averaging):
    """Clipped updates are summed, noised once, and divided by the number of hospitals *planned*.

    The noise and the divisor never depend on who replied (or how many), and every update is clipped
    here again, because a sensitivity that others promise is none (McMahan et al. 2018).
    """

    def __init__(
        self,
        train: Train,
        members: Mapping[int, str],
        frozen: ArrayRecord,
        completed: int,
        initial: Arrays,
        plan: UpdatePlan,
        ledger: Ledger,
        source: NoiseSource,
        *,
        run: str = "",
        clipping_norm: float | None = None,
        state: Mapping[str, Arrays] | None = None,
    ) -> None:
        super().__init__(train, members, frozen, completed, initial, {}, run=run, state=state)
        self.plan = plan
        self.ledger = ledger
        self.source = source
        self.clipping_norm = clipping_norm or plan.clipping_norm

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        """Reserve the round in the server's ledger, sum, noise, divide, add."""
        model = messages.fingerprint(self.parameters)
        try:
            self.ledger.reserve(
                self.run, round_number, model, 1, repeatable=self.source.reproducible
            )
        except OverBudget as error:
            raise BudgetSpent from error
        bound = self.clipping_norm
        clipped = [Reply(r.hospital, clip(r.update or {}, bound)) for r in replies]
        total = weighted_sum(clipped, {r.hospital: 1.0 for r in clipped})
        noise = GaussianNoise(self.plan.noise_at(bound))
        generator = self.source.torch("central", round_number, model)
        self._add(noise.add(total, generator), float(self.plan.hospitals))
        if self.plan.adaptive is not None:
            within = sum(norm(r.update or {}) <= bound for r in replies)
            self.clipping_norm = self._next_norm(within, len(replies), round_number, model)
            self.report.extra["clipping_norm"] = bound

    def _next_norm(self, within: int, replies: int, round_number: int, model: str) -> float:
        """The next round's clipping norm (Andrew et al. 2021, Algorithm 1).

        Each update adds +1/2 or -1/2 to a count, and zeroing one out takes that away: sensitivity
        1/2. The noised count is divided by the hospitals planned, whoever replied.
        """
        adaptive, multiplier = self.plan.adaptive, self.plan.count_multiplier
        if adaptive is None or multiplier is None:
            return self.clipping_norm
        generator = self.source.torch("clip", round_number, model)
        noise = torch.empty(1, dtype=torch.float64).normal_(
            0.0, multiplier * 0.5, generator=generator
        )
        share = (within - replies / 2 + float(noise)) / self.plan.hospitals + 0.5
        step = adaptive.rate * (share - adaptive.quantile)
        # The noise of few hospitals can be large: no round changes the norm by more than e.
        moved = self.clipping_norm * math.exp(-min(1.0, max(-1.0, step)))
        return min(max(moved, self.plan.clipping_norm * 1e-6), self.plan.clipping_norm * 1e6)


class LocalOnly(FederationStrategy):
    """The baseline without exchange: every hospital goes on with its own model."""

    def __init__(
        self,
        train: Train,
        members: Mapping[int, str],
        frozen: ArrayRecord,
        completed: int,
        models: Mapping[str, Arrays],
        *,
        run: str = "",
        state: Mapping[str, Arrays] | None = None,
    ) -> None:
        super().__init__(train, members, frozen, completed, run=run)
        self.own = dict(models)
        kept: dict[str, dict[str, Arrays]] = {hospital: {} for hospital in self.own}
        for name, arrays in (state or {}).items():
            moment, _, hospital = name.partition(":")
            kept[hospital][moment] = arrays
        self.optimizers = {h: ServerOptimizer(train, mine) for h, mine in kept.items()}

    def model_for(self, hospital: str) -> Arrays:
        """The hospital's own model."""
        return self.own[hospital]

    def models(self) -> dict[str, Arrays]:
        """Every hospital's model, by its name."""
        return dict(self.own)

    def combine(self, round_number: int, replies: list[Reply]) -> None:
        """Each update changes its own hospital's model, by an optimiser of its own."""
        for reply in replies:
            own = self.own[reply.hospital]
            self.own[reply.hospital] = self.optimizers[reply.hospital].step(own, reply.update or {})

    def state(self) -> dict[str, Arrays]:
        """Every hospital's optimiser's, as ``moment:hospital``."""
        return {
            f"{moment}:{hospital}": arrays
            for hospital, optimizer in self.optimizers.items()
            for moment, arrays in optimizer.state.items()
        }


def weighted_sum(replies: Iterable[Reply], weights: Mapping[str, float]) -> Arrays:
    """Sum of updates times weights; the order of ``replies`` fixes the order of additions."""
    total: Arrays = {}
    for reply in replies:
        weight = weights[reply.hospital]
        for name, value in (reply.update or {}).items():
            if name in total:
                total[name].add_(value, alpha=weight)
            else:
                total[name] = value * weight
    if not total or not all(math.isfinite(w) for w in weights.values()):
        raise RunError("no hospital sent an update; nothing can be aggregated")
    return total
