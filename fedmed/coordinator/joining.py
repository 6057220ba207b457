"""Who takes part: the hospitals that joined, those that are waited for, those that may not."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedmed import __version__
from fedmed.base import files
from fedmed.base.errors import RunError, UserError
from fedmed.config import Scalar, Settings
from fedmed.data.network import member_names
from fedmed.experiment.directory import RunDirectory
from fedmed.federation import messages
from fedmed.federation.members import make_member_plan
from fedmed.federation.messages import Joining
from fedmed.federation.node_keys import node_keys
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.plans import Plan
from fedmed.site import own_settings

log = logging.getLogger("fedmed.server")

_POLL = 0.2  # seconds between two looks at who is there
_DECLARED = ("public-size", "node-key")  # in the record of who joined, beside settings
_FIRST_WORD, _NEXT_WORD = 10.0, 30.0  # seconds until it is said who is waited for, and said again
_ASK_AGAIN = 10.0  # seconds until a deployed hospital that answered with a fault is asked again


@dataclass
class Participants:
    """The members of one run: asked once at its start, and again when one comes late or back.

    ``members`` maps Flower's node ids to hospital names, in the order of the names' list;
    ``refused`` gives each hospital whose policy says no, and why; ``silent`` are those that will
    not evaluate; ``plans`` are filled in from what hospitals declare.
    """

    grid: Grid
    settings: Settings
    directory: RunDirectory
    plans: dict[str, Plan]
    members: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    arms: dict[str, str] = field(default_factory=dict)
    _asked: dict[int, float] = field(default_factory=dict)  # node: when it may be asked (again)
    _pending: dict[str, int] = field(default_factory=dict)  # query: node
    _fault: str = ""  # of the last hospital that did not join
    _told: set[str] = field(default_factory=set)  # faults that were logged

    def __post_init__(self) -> None:
        self.expected = member_names(self.settings)
        self.deployed = bool(self.settings.data.site_names)
        if self.deployed:  # who joined before an interruption may have spent, here or not
            for name, told in self._declared().items():
                own = {key: value for key, value in told.items() if key not in _DECLARED}
                used = own_settings.check_own(self.settings, own, name)
                self.sizes[name], self.arms[name] = int(told["public-size"]), used.privacy.arm
                self.plans[name] = own_settings.declared_plan(used, name, self.sizes[name])

    @property
    def absent(self) -> list[str]:
        """Hospitals that are expected, have not refused, and are not there."""
        here = {*self.members.values(), *self.refused}
        return [name for name in self.expected if name not in here]

    def gather(self) -> None:
        """Wait for the hospitals; raises :class:`RunError` where too few join in time.

        In a simulation all must be there. A deployed federation goes on without those that miss
        ``train.join-timeout`` if ``train.on-failure`` is 'continue' and enough are there.
        """
        train = self.settings.train
        begun = time.monotonic()
        deadline, next_word = begun + train.join_timeout, begun + _FIRST_WORD
        while True:
            nodes = self._look()
            if not self.absent and not self._pending:
                break
            if not self.deployed and len(self._asked) == len(self.expected) and not self._pending:
                break  # all answered, and not one for each name
            if time.monotonic() > deadline:
                self._too_late(nodes)
                break
            if time.monotonic() >= next_word:
                self._say_who_is_missing(nodes, deadline)
                next_word += _NEXT_WORD
            time.sleep(_POLL)
        self._check_quorum()

    def _say_who_is_missing(self, nodes: int, deadline: float) -> None:
        log.warning(
            "waiting for %s, at most %.0f s more; here: %s; nodes connected: %d of %d",
            ", ".join(self.absent) or "an answer",
            deadline - time.monotonic(),
            ", ".join(self.members.values()) or "none",
            nodes,
            len(self.expected),
        )

    def update(self) -> None:
        """Take in deployed hospitals that come late or were started again, without waiting."""
        if self.deployed:
            self._look()

    def _look(self) -> int:
        """Ask nodes that are new, take the answers that are there; returns how many nodes are."""
        nodes = list(self.grid.get_node_ids())
        if not self.deployed and len(nodes) > len(self.expected):
            count = len(self.expected)
            raise UserError(
                f"the federation has {len(nodes)} nodes but data.hospitals (with this "
                f"train.scheme) makes {count}; set num-supernodes={count}"
            )
        now = time.monotonic()
        new = [n for n in nodes if n not in self.members and now >= self._asked.get(n, 0.0)]
        waiting = {*self._pending.values()}
        self._ask([node for node in new if node not in waiting])
        for query, node in list(self._pending.items()):
            for reply in self.grid.pull_messages([query]):
                del self._pending[query]
                self._take(node, messages.read_join(reply), nodes)
        return len(nodes)

    def _ask(self, nodes: Iterable[int]) -> None:
        content = messages.query_content(self.directory.run)
        for node in nodes:
            query = Message(content, node, MessageType.QUERY, group_id="query")
            self._asked[node] = float("inf")
            for pushed in self.grid.push_messages([query]):
                if pushed:
                    self._pending[pushed] = node

    def _take(self, node: int, answer: Joining | str, nodes: list[int]) -> None:
        """One answer: a member, a refusal, or a fault, which a simulation does not survive."""
        try:
            if isinstance(answer, str):
                who = f"node {node}" if self.deployed else "a hospital"
                raise RunError(f"{who} did not join: {answer} ({messages.ERRORS[answer]})")
            self._join(node, answer, nodes)
        except (RunError, UserError) as error:
            if not self.deployed:
                raise
            self._fault = str(error)
            self._asked[node] = time.monotonic() + _ASK_AGAIN
            if self._fault not in self._told:  # each is asked again and again
                self._told.add(self._fault)
                log.warning("%s", error)

    def _join(self, node: int, answer: Joining, nodes: list[int]) -> None:
        name = answer.hospital
        if answer.version != __version__:
            raise RunError(
                f"{name} runs fedmed {answer.version} and the server {__version__}; install the "
                "same version at both"
            )
        if name not in self.expected:
            raise RunError(f"a node calls itself '{name}', which data.sites does not name; add it")
        key = self._key_of(node, name)
        earlier = [other for other, known in self.members.items() if known == name]
        if any(other in nodes for other in earlier):
            raise RunError(f"two nodes call themselves '{name}'; stop one of them")
        if not answer.accepts:
            self._refuse(answer)
            return
        if self.deployed or answer.own or answer.public_size:
            self._declare(answer, key)
        if not answer.evaluates:
            self.silent.add(name)
            log.warning("%s's policy or settings allow no histograms for evaluation", name)
        for other in earlier:
            del self.members[other]
        self.refused.pop(name, None)
        members = {**self.members, node: name}
        order = self.expected.index
        self.members = dict(sorted(members.items(), key=lambda item: order(item[1])))

    def _key_of(self, node: int, name: str) -> str:
        """The node's key; :class:`RunError` where the name is another key's.

        The key that ``data.site-keys`` lists, else that of the first node of the run that took the
        name. Empty where the grid knows no keys, as in a simulation.
        """
        key = node_keys(self.grid).get(node, "")
        told = key or "unknown"
        listed = self.settings.data.fingerprints.get(name)
        if listed is not None:
            if key != listed:
                raise RunError(
                    f"node {node} calls itself '{name}', but its key is {told}, not that of "
                    f"data.site-keys, {listed}; stop that node, or correct data.site-keys"
                )
            return key
        first = str(self._declared().get(name, {}).get("node-key", key))
        if key != first:
            raise RunError(
                f"node {node} calls itself '{name}', but its key is {told}, and '{name}' joined "
                f"this run with {first}; stop that node, or list the right key in data.site-keys"
            )
        return key

    def _declare(self, answer: Joining, key: str) -> None:
        """What a hospital declares decides its plan, and stays as it is for the whole run."""
        settings, name = self.settings, answer.hospital
        used = own_settings.check_own(settings, answer.own, name)
        size = answer.public_size
        if self.deployed:
            plan = own_settings.declared_plan(used, name, size)
        else:
            plan = make_member_plan(used, name, Policy(public_size=size))
        known = self._declared()
        told = {"public-size": size, **answer.own}
        before = {k: v for k, v in known.get(name, told).items() if k != "node-key"}
        if before != told:
            raise RunError(
                f"{name} joined this run with {before} and now declares {told}; set it back "
                "there, or start a new run"
            )
        known[name] = {**told, **({"node-key": key} if key else {})}
        files.write_json(self._record, known)
        self.plans[name], self.sizes[name] = plan, size
        self.arms[name] = used.privacy.arm

    @property
    def _record(self) -> Path:
        return self.directory.path / "joined.json"

    def _declared(self) -> dict[str, dict[str, Scalar]]:
        """What each hospital declared when it first joined this run."""
        nothing: dict[str, dict[str, Scalar]] = {}
        return files.read_json(self._record) if self._record.exists() else nothing

    def _refuse(self, answer: Joining) -> None:
        """A policy's no: the federation goes on without that hospital, and says so."""
        room = "it would take nothing of this kind"
        if answer.rounds or answer.epsilon:
            room = f"it would take {answer.rounds} round(s) at this noise, or epsilon "
            room += f"{answer.epsilon:.3g} at this length"
        self.refused[answer.hospital] = f"{answer.hospital}'s policy refuses the plan; {room}"
        log.warning("%s", self.refused[answer.hospital])

    def _too_late(self, nodes: int) -> None:
        train, count = self.settings.train, len(self.expected)
        why = f"; the last fault: {self._fault}" if self._fault else ""
        text = f"{', '.join(self.absent)} did not join within train.join-timeout = "
        text += f"{train.join_timeout:g} s{why}"
        if self.deployed:
            if train.on_failure == "stop":
                raise RunError(
                    f"{text}; start them and run again, or set train.on-failure = 'continue'"
                )
            log.warning("%s; going on without them", text)
        elif self._pending:
            raise RunError(f"a hospital did not join: no-answer ({messages.ERRORS['no-answer']})")
        else:
            raise RunError(
                f"{nodes} nodes are connected but {count} hospitals are expected; "
                f"set num-supernodes={count} or data.hospitals = {nodes}"
            )

    def _check_quorum(self) -> None:
        expected, train = self.expected, self.settings.train
        if self.absent and not self.deployed:
            joined = len(expected) - len(self.absent)
            raise RunError(
                f"{joined} of {len(expected)} hospitals joined; start one node per hospital"
            )
        if len(self.members) < max(1, train.minimum_hospitals):
            if self.refused:
                why = f"first refusal: {next(iter(self.refused.values()))}"
            else:
                why = f"the last fault: {self._fault or 'nobody else is there'}"
            raise RunError(
                f"{len(self.members)} of {len(expected)} hospitals take the plan, fewer than "
                f"train.minimum-hospitals = {train.minimum_hospitals}; {why}"
            )
        evaluators = {*self.members.values()} - self.silent
        if self.settings.evaluation.where == "hospitals" and not evaluators:
            raise RunError(
                "no hospital's policy allows histograms for evaluation, so the model could not be "
                "evaluated; set evaluation.where = 'server', or ask the hospitals"
            )
