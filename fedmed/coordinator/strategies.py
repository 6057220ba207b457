"""How the hospitals' updates become the next model: Flower strategies."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedmed.base.errors import RunError
from fedmed.config import Train
from fedmed.coordinator.bounds import Bounds, capped
from fedmed.coordinator.optimizers import ServerOptimizer
from fedmed.coordinator.summing import Arrays, TrimmedSum, WeightedSum
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.privacy.mechanisms.updates import finite, norm

log = logging.getLogger("fedmed.server")
_LOST = 2  # times that a node may lose the buffers before they go with every message


_RIGHTS = ("policy", "budget")  # a hospital's no that is no fault: the others go on


class BudgetSpent(Exception):
    """No member (or not the server's own ledger) has a step left: the run ends with what it has."""


@dataclass
class RoundReport:
    """What the history says of a round; ``sent`` and ``received`` are bytes of encoded arrays."""

    hospitals: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    loss: float | None = None
    sent: int = 0
    received: int = 0
    norms: dict[str, float] = field(default_factory=dict)  # of the updates, as they were taken in
    cut: list[dict[str, Any]] = field(default_factory=list)  # see :class:`Bounds`
    extra: dict[str, float] = field(default_factory=dict)


class Roster(Protocol):
    """Who takes part, and may change between rounds: see ``joining.Participants``."""

    members: dict[int, str]

    @property
    def absent(self) -> list[str]:
        """Hospitals that are waited for."""
        ...

    def update(self) -> None:
        """Look who is there now."""
        ...


@dataclass(frozen=True)
class Start:
    """What every strategy goes on from, at the first round or after ``completed`` ones.

    ``members`` maps Flower's node ids to hospital names; ``frozen`` is what no training changes;
    ``run`` names the run in ledgers; ``state`` is what the strategy kept in the checkpoint.
    ``recall`` reads the model of the last whole round: a strategy with one global model then keeps
    none in memory while answers come.
    """

    train: Train
    members: Mapping[int, str]
    frozen: ArrayRecord
    completed: int = 0
    run: str = ""
    state: Mapping[str, Arrays] = field(default_factory=dict)
    roster: Roster | None = None
    wire: str = "float32"
    bounds: Bounds | None = None
    recall: Callable[[], Arrays] | None = None


class FederationStrategy(Strategy):
    """What every strategy here shares: messages to all members, checked replies, failures.

    Flower's round 1 is round ``completed + 1``.
    """

    clipping_norm: float | None = None  # of the next round, where the server's changes

    def __init__(self, start: Start) -> None:
        self.train = start.train
        self.run = start.run
        self.members = dict(start.members)
        self.frozen = start.frozen
        self.completed = start.completed
        self.report = RoundReport()
        self.roster = start.roster
        self.wire = start.wire
        self.bounds = start.bounds
        self._sent = 0
        self._round = start.completed
        self._records: dict[int, ArrayRecord] = {}  # encoded models, by the model's identity
        self._buffers = ""  # fingerprint of what no training changes; empty where all is trained
        if start.frozen:
            self._buffers = messages.fingerprint(messages.decode_arrays(start.frozen))
        self._have: set[int] = set()  # nodes that were sent the buffers in this process
        self._lost: Counter[int] = Counter()  # how often a node did not have them any more
        self._repeated: set[int] = set()  # nodes that got them again in this round

    @abstractmethod
    def model_for(self, hospital: str) -> Arrays:
        """The model this hospital trains next."""

    @abstractmethod
    def hold(self, hospital: str, model: Arrays) -> None:
        """Keep these equal arrays, which share their memory with a message, as its model."""

    def park(self) -> None:
        """Answers have begun to come: forget a model that is only needed after the last one."""

    def form_of(self, hospital: str) -> Arrays:
        """Arrays of its model's names, shapes and dtypes; their numbers mean nothing."""
        return self.model_for(hospital)

    def read(self, message: Message, hospital: str) -> Reply:
        """A hospital's answer, checked; it is emptied."""
        return messages.read_reply(message, hospital, self.form_of(hospital), self.wire)

    @abstractmethod
    def combine(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Take in a round's updates as they come, in any order; the model changes after the last.

        ``replies`` raises where the round cannot count: nothing may have changed until it ends.
        """

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
        self._round = server_round + self.completed
        if self.roster is not None:
            self.roster.update()
            self.members = dict(self.roster.members)
        self._sent, self._records, self._repeated = 0, {}, set()
        return [self._message(node) for node in self.members]

    def _message(self, node: int) -> Message:
        """What this node is asked; the buffers go with it unless it has them."""
        hospital = self.members[node]
        model = self.model_for(hospital)
        record = self._records.get(id(model))
        if record is None:
            record = messages.encode_arrays(model)
            model = messages.decode_arrays(record)  # no second copy beside what is sent
            self.hold(hospital, model)
            self._records[id(model)] = record
        # Where nothing is kept from round to round, asking twice costs more than sending.
        keeps = node not in self._repeated and self._lost[node] < _LOST
        has = self._buffers and node in self._have and keeps
        frozen = self._buffers if has else self.frozen
        self._have.add(node)
        content = messages.train_content(record, frozen, self._round, self.run)
        message = Message(content, node, MessageType.TRAIN, group_id=str(self._round))
        self._sent += messages.size_of(message)
        return message

    def again(self, answer: Message) -> Message | None:
        """The same request with the buffers, for a hospital that kept none; else None."""
        node = answer.metadata.src_node_id
        lost = node in self.members and messages.error_of(answer) == "buffers"
        if not lost or node in self._repeated:
            return None
        self._repeated.add(node)
        self._lost[node] += 1
        return self._message(node)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every reply, handle failures as configured, combine the rest.

        Raises :class:`RunError` where the round cannot count and :class:`BudgetSpent` where no
        member has steps left.
        """
        good: Iterable[Reply] = self._checked(replies)
        if self.bounds is not None:
            good = self.bounds.within(good, self.members.values(), self._length)
        self.combine(server_round + self.completed, good)
        if self.bounds is not None:
            self.report.cut = self.bounds.cut
            self.report.norms = dict(self.bounds.norms)
            for one in self.report.cut:
                text = "%s sent an update of norm %.4g: cut to %.4g"
                log.warning(text, one["hospital"], one["norm"], one["bound"])
        return None, None

    def _length(self) -> float:
        """The largest norm of a model that is trained."""
        return max(norm(arrays) for arrays in self.models().values())

    def _checked(self, answers: Iterable[Message]) -> Iterator[Reply]:
        """The good replies as they arrive; after the last, the report, and failures are handled.

        An answer of a node that was not asked, or a second one, is dropped.
        """
        left = dict(self.members)
        failed = dict.fromkeys(self.roster.absent, "absent") if self.roster else {}
        losses: dict[str, float] = {}
        good = size = 0
        for message in answers:
            hospital = left.pop(message.metadata.src_node_id, None)
            if hospital is None:
                continue
            size += messages.size_of(message)
            self.park()
            reply = self.read(message, hospital)
            del message  # its bytes are a second copy
            if reply.error is not None:
                failed[hospital] = reply.error
                continue
            good += 1
            if reply.loss is not None:
                losses[hospital] = reply.loss
            yield reply
            del reply
        failed |= dict.fromkeys(left.values(), "no-answer")
        order = sorted(losses)
        self.report = RoundReport(
            good,
            [{"hospital": name, "code": failed[name]} for name in self._names() if name in failed],
            sum(losses[name] for name in order) / good if losses and len(losses) == good else None,
            sent=self._sent,
            received=size,
        )
        if failed and not good and {*failed.values()} <= {*_RIGHTS}:
            for name, code in failed.items():
                log.warning("%s: %s (%s)", name, code, messages.ERRORS[code])
            raise BudgetSpent
        self._handle({name: failed[name] for name in self._names() if name in failed}, good)

    def _names(self) -> list[str]:
        """Every hospital that could answer, in the members' order, then those that are absent."""
        return [*self.members.values(), *(self.roster.absent if self.roster else [])]

    def _handle(self, failures: Mapping[str, str], good: int) -> None:
        if not failures:
            return
        faults = [name for name, code in failures.items() if code not in _RIGHTS]
        first = faults[0] if faults else next(iter(failures))
        text = f"{first}: {failures[first]} ({messages.ERRORS[failures[first]]})"
        if faults and self.train.on_failure == "stop":
            raise RunError(f"{text}; mend it, or set train.on-failure = 'continue'")
        if good < self.train.minimum_hospitals:
            raise RunError(
                f"{good} of {len(self._names())} hospitals answered, fewer than "
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
    """Federated averaging (McMahan et al. 2017) of updates, weighted equally or by size.

    By size no hospital has more than ``largest_share`` of the weight of a round's members. With
    ``trim`` so many numbers at both ends of each coordinate are left out.
    """

    def __init__(
        self,
        start: Start,
        initial: Arrays,
        sizes: Mapping[str, int],
        *,
        largest_share: float = 1.0,
        trim: int = 0,
    ) -> None:
        super().__init__(start)
        self.largest_share = largest_share
        self.trim = trim
        self._form = {n: torch.empty_like(v, device="meta") for n, v in initial.items()}
        self._parameters: Arrays | None = initial
        self.recall = start.recall
        self.sizes = sizes
        self.optimizer = ServerOptimizer(start.train, start.state)

    @property
    def parameters(self) -> Arrays:
        """The one global model; parked, it comes back from where ``recall`` finds it."""
        if self._parameters is None and self.recall is not None:
            self._parameters = self.recall()
        return self._parameters or {}

    @parameters.setter
    def parameters(self, arrays: Arrays) -> None:
        self._parameters = arrays

    def park(self) -> None:
        """The checkpoint has the model: while answers come, their sum is what needs memory."""
        if self.recall is not None:
            self._parameters, self._records = None, {}

    def form_of(self, hospital: str) -> Arrays:
        """See :meth:`FederationStrategy.form_of`; without numbers."""
        return self._form

    def model_for(self, hospital: str) -> Arrays:
        """The one global model."""
        return self.parameters

    def hold(self, hospital: str, model: Arrays) -> None:
        """See :meth:`FederationStrategy.hold`."""
        self.parameters = model

    def models(self) -> dict[str, Arrays]:
        """The one global model."""
        return {"global": self.parameters}

    def combine(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Give the weighted, or trimmed, mean of the updates to the server's optimiser."""
        total = TrimmedSum(self.trim) if self.trim else WeightedSum()
        weights = self._weights()
        for reply in replies:
            total.add(reply.hospital, reply.update or {}, weights[reply.hospital])
            del reply  # or its update would stay until the next one is there
        self._step(total.over(total.weight))

    def _weights(self) -> dict[str, float]:
        """Of the round's members, whoever of them answers."""
        names = self.members.values()
        if self.train.weighting == "equal":
            return dict.fromkeys(names, 1.0)
        return capped({name: self.sizes[name] for name in names}, self.largest_share)

    def _step(self, mean: Arrays) -> None:
        if not finite(mean):
            raise RunError("the sum of the updates is not finite; nothing is aggregated")
        self.become(self.optimizer.step(self.parameters, mean, spend=True))

    def become(self, model: Arrays) -> None:
        """The next global model."""
        self.parameters = model

    def state(self) -> dict[str, Arrays]:
        """The server optimiser's."""
        return self.optimizer.state


class LocalOnly(FederationStrategy):
    """The baseline without exchange: every hospital goes on with its own model."""

    def __init__(self, start: Start, models: Mapping[str, Arrays]) -> None:
        super().__init__(start)
        self.own = dict(models)
        kept: dict[str, dict[str, Arrays]] = {hospital: {} for hospital in self.own}
        for name, arrays in start.state.items():
            moment, _, hospital = name.partition(":")
            kept[hospital][moment] = arrays
        self.optimizers = {h: ServerOptimizer(start.train, mine) for h, mine in kept.items()}

    def model_for(self, hospital: str) -> Arrays:
        """The hospital's own model."""
        return self.own[hospital]

    def hold(self, hospital: str, model: Arrays) -> None:
        """See :meth:`FederationStrategy.hold`."""
        self.own[hospital] = model

    def models(self) -> dict[str, Arrays]:
        """Every hospital's model, by its name."""
        return dict(self.own)

    def combine(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Each update changes its own hospital's model, by an optimiser of its own."""
        for reply in list(replies):
            own = self.own[reply.hospital]
            self.own[reply.hospital] = self.optimizers[reply.hospital].step(own, reply.update or {})

    def state(self) -> dict[str, Arrays]:
        """Every hospital's optimiser's, as ``moment:hospital``."""
        return {
            f"{moment}:{hospital}": arrays
            for hospital, optimizer in self.optimizers.items()
            for moment, arrays in optimizer.state.items()
        }
