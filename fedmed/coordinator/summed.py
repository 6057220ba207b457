"""DP-SGD over all hospitals: clipped sums become one noised gradient, and the server's step."""

import logging
import secrets
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from fedmed.base.errors import RunError
from fedmed.base.files import write_bytes
from fedmed.coordinator.bounds import believed, largest_number
from fedmed.coordinator.stepping import ServerSteps
from fedmed.coordinator.strategies import Averaging, BudgetSpent, Start
from fedmed.coordinator.summing import Arrays
from fedmed.federation import messages
from fedmed.federation.messages import Reply
from fedmed.federation.sums import masked_of, secret_file, vector_of
from fedmed.privacy.ledger.filtering import OverBudget
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.mechanisms.grid import Vector
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans import Plan, SummedPlan, part
from fedmed.secure_sum import (
    Collector,
    Hello,
    Opened,
    Signed,
    SumRefused,
    Terms,
    hellos_text,
)

log = logging.getLogger("fedmed.server")


def make_secret(folder: Path) -> None:
    """The secret from which a simulation's members have their long-term keys, once for a run."""
    path = secret_file(folder)
    if not path.exists():
        write_bytes(path, secrets.token_bytes(32))


class SummedGradients(Averaging):
    """One step of FedSGD each round: a noised sum, over the expected batch of those who answered.

    ``plans`` are the hospitals', of whom some may join later: their public sizes are in them. The
    divisor is public, whoever answered, and what the server does with the noised gradient is
    post-processing.
    """

    def __init__(
        self, start: Start, initial: Arrays, plan: SummedPlan, plans: Mapping[str, Plan]
    ) -> None:
        super().__init__(start, initial, {})
        self.plan, self.plans = plan, plans
        self.steps = ServerSteps(start.train, start.state)
        self.count = sum(value.numel() for value in self._form.values())
        self.grid = plan.grid(self.count)

    def state(self) -> dict[str, Arrays]:
        """The optimiser's moments."""
        return self.steps.state

    def read(self, message: Message, hospital: str) -> Reply:
        """A sum of whole numbers; see :func:`messages.read_sum`."""
        masked = self.plan.placement == "shares"
        return messages.read_sum(message, hospital, self.count, masked=masked)

    def combine(self, round_number: int, replies: Iterable[Reply]) -> None:
        """Sum, noise or unmask, divide, take the step; one that is given up changes nothing."""
        total, names = self.total(round_number, replies)
        if total is None:
            return
        flat = torch.from_numpy(self.grid.opened(total))
        flat /= self.expected_batch(names)
        gradient, start = {}, 0
        for name, form in self._form.items():
            gradient[name] = flat[start : start + form.numel()].view(form.shape).to(form.dtype)
            start += form.numel()
        if not bool(torch.isfinite(flat).all()):
            raise RunError("the sum of the gradients is not finite; nothing is aggregated")
        self.become(self.steps.step(self.parameters, gradient, round_number))

    def expected_batch(self, names: Iterable[str]) -> float:
        """Units in a batch of these hospitals, by the sizes that they declared."""
        units = self.units()
        return self.plan.rate * sum(units[name] for name in names)

    def units(self) -> dict[str, float]:
        """Units of every hospital, declared ones believed as far as the others' allow."""
        own = {name: part(plan, SummedPlan) for name, plan in self.plans.items()}
        units = {name: plan.units for name, plan in own.items() if plan is not None}
        trusted = believed(units, self.train.update_bound)
        declared = {name for name, plan in own.items() if plan is not None and plan.declared}
        return {name: trusted[name] if name in declared else float(units[name]) for name in units}

    @abstractmethod
    def total(
        self, round_number: int, replies: Iterable[Reply]
    ) -> tuple[Vector | None, Sequence[str]]:
        """The noised sum modulo 2^32 and whose it is; None where the step is given up."""


class CentralSum(SummedGradients):
    """The server adds the noise, once, and pays for the step from its own ledger.

    No hospital's numbers are larger than those of a sum over what it declares can be: what is
    larger is cut (:func:`largest_number`), and the server's own log alone says whose it was.
    """

    def __init__(
        self,
        start: Start,
        initial: Arrays,
        plan: SummedPlan,
        plans: Mapping[str, Plan],
        ledger: Ledger,
        source: NoiseSource,
    ) -> None:
        super().__init__(start, initial, plan, plans)
        self.ledger, self.source = ledger, source

    def total(
        self, round_number: int, replies: Iterable[Reply]
    ) -> tuple[Vector | None, Sequence[str]]:
        """See :meth:`SummedGradients.total`."""
        total, names = np.zeros(self.count, dtype=np.uint32), []
        units = self.units()
        for reply in replies:
            total += self._cut(vector_of(reply.update or {}), reply.hospital, units)
            names.append(reply.hospital)
            del reply
        model = messages.fingerprint(self.parameters)
        try:
            self.ledger.reserve(
                self.run, round_number, model, 1, repeatable=self.source.reproducible
            )
        except OverBudget as error:
            raise BudgetSpent from error
        return self.grid.noised(total, self.source.key("central", round_number, model)), names

    def _cut(self, vector: Vector, hospital: str, units: Mapping[str, float]) -> Vector:
        limit = largest_number(self.plan, units[hospital], self.grid)
        numbers = vector.view(np.int32)
        cut = np.clip(numbers, -limit, limit)
        if not np.array_equal(cut, numbers):
            log.warning("%s sent numbers above what its size can give: cut", hospital)
        return cut.view(np.uint32)


class SecureSum(SummedGradients):
    """Every hospital noises and masks its own; the server learns the sum of those who answered.

    It relays keys, signatures and shares, and holds none. Where members have no keys of a meeting
    (any more) they meet again before the next step; meetings are numbered by the clock, so that
    they go forward over restarts as well.
    """

    def __init__(
        self,
        start: Start,
        initial: Arrays,
        plan: SummedPlan,
        plans: Mapping[str, Plan],
        names: Sequence[str],
    ) -> None:
        super().__init__(start, initial, plan, plans)
        self.terms = Terms(
            run=start.run,
            members=tuple(names),
            threshold=plan.threshold,
            colluding=plan.colluding,
            count=self.count,
            about=plan.agreed(self.count),
        )
        self.meeting = 0
        self._met = False
        self._grid: Grid | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One train message for every member, once all of them have met."""
        asked = super().configure_train(server_round, arrays, config, grid)
        self._grid = grid
        if not self._met:
            self._meet()
        return asked

    def read(self, message: Message, hospital: str) -> Reply:
        """See :class:`SummedGradients`; a hospital without keys makes all meet again."""
        reply = super().read(message, hospital)
        if reply.error == "meeting":
            self._met = False
        return reply

    def total(
        self, round_number: int, replies: Iterable[Reply]
    ) -> tuple[Vector | None, Sequence[str]]:
        """See :meth:`SummedGradients.total`; below the threshold nothing is unmasked."""
        collector = Collector(self.terms, self.meeting, round_number)
        try:
            for reply in replies:
                with _answer_of(reply.hospital):
                    collector.add(reply.hospital, masked_of(reply.update or {}))
                del reply
            if not collector.enough and "budget" in {f["code"] for f in self.report.failures}:
                raise BudgetSpent
            return self._unmasked(collector), collector.survivors
        except SumRefused as error:
            if self.train.on_failure == "stop":
                raise RunError(
                    f"step {round_number} is given up, and what was reserved stays spent: {error}; "
                    "mend it, or set train.on-failure = 'continue'"
                ) from error
            log.warning("step %d is given up: %s", round_number, error)
            self.report.extra["given_up"] = 1.0
            return None, []

    def _unmasked(self, collector: Collector) -> Vector:
        survivors = collector.survivors
        self.terms.check_survivors(survivors)
        asked = {name: collector.ask(name).to_text() for name in survivors}
        for name, text in self._phase("sign", asked).items():
            with _answer_of(name):
                collector.signed(name, Signed.from_text(text))
        asked = {name: collector.ask(name).to_text() for name in survivors}
        for name, text in self._phase("open", asked).items():
            with _answer_of(name):
                collector.opened(name, Opened.from_text(text))
        return collector.total()

    def _meet(self) -> None:
        """Every member's fresh key, to every member; raises where one is not there."""
        self.meeting = max(self.meeting + 1, time.time_ns() // 1_000_000)
        everybody = self.terms.members
        told = self._phase("hello", dict.fromkeys(everybody, str(self.meeting)))
        hellos: dict[str, Hello] = {}
        for name, text in told.items():
            with _answer_of(name):
                hellos[name] = Hello.from_text(text)
        if len(hellos) == len(everybody):
            met = self._phase("meet", dict.fromkeys(everybody, hellos_text(hellos)))
            self._met = len(met) == len(everybody)
            missing = [name for name in everybody if name not in met]
        else:
            missing = [name for name in everybody if name not in hellos]
        if not self._met:
            raise RunError(
                f"{missing[0]} did not take part in the meeting before a secure sum: all members "
                "must be there once, with each other's keys pinned; its own log says why"
            )

    def _phase(self, phase: str, asked: Mapping[str, str]) -> dict[str, str]:
        """The answers of those who answered, by name."""
        nodes = {name: node for node, name in self.members.items()}
        out = [
            Message(
                messages.phase_content(self.run, phase, text),
                nodes[name],
                MessageType.TRAIN,
                group_id=str(self._round),
            )
            for name, text in asked.items()
            if name in nodes
        ]
        answers: dict[str, str] = {}
        if self._grid is None:
            return answers
        for message in self._grid.send_and_receive(out, timeout=self.train.timeout):
            name = self.members.get(message.metadata.src_node_id, "")
            told = messages.read_phase(message, name) if name in asked else None
            if told is not None:
                answers[name] = told
        return answers


@contextmanager
def _answer_of(name: str) -> Iterator[None]:
    """A member whose answer does not fit is one that did not answer."""
    try:
        yield
    except SumRefused as error:
        log.warning("%s: %s", name, error)
