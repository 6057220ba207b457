"""How many requests a guard answers: of one run, in a day, and that its data refused."""

import calendar
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fedmed.privacy.ledger.policy import Policy

DAY: Final = 86_400.0  # seconds
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"  # of the audit log's lines


@dataclass
class Requests:
    """What was asked so far, against the policy's limits; it begins with what the audit log has.

    A request that the data refuse (the code ``data``) tells something of them for nothing, however
    little: after ``data-refusals-per-day`` of them no data are touched until a day has passed.
    """

    policy: Policy
    clock: Callable[[], float] = time.time
    _runs: Counter[str] = field(default_factory=Counter, repr=False)
    _asked: deque[float] = field(default_factory=deque, repr=False)
    _refused: deque[float] = field(default_factory=deque, repr=False)

    def remember(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Count the lines of an audit log, the oldest first."""
        for line in lines:
            when = float(calendar.timegm(time.strptime(line["time"], _TIME)))
            if line["what"] == "request":
                self._count(str(line.get("run", "")), when)
            elif line["what"] == "refused" and line.get("code") == "data":
                self._refused.append(when)
        self._forget()

    def room(self, run: str) -> bool:
        """Whether another request of ``run`` is heard."""
        self._forget()
        policy = self.policy
        return (
            len(self._asked) < policy.requests_per_day and self._runs[run] < policy.requests_per_run
        )

    @property
    def touches_data(self) -> bool:
        """Whether a request may still touch data."""
        self._forget()
        return len(self._refused) < self.policy.data_refusals_per_day

    def asked(self, run: str) -> None:
        """Count a request of ``run``."""
        self._count(run, self.clock())

    def refused(self) -> None:
        """Count a request that the data refused."""
        self._refused.append(self.clock())

    def _count(self, run: str, when: float) -> None:
        self._asked.append(when)
        self._runs[run] += bool(run)

    def _forget(self) -> None:
        """Of the days before nothing but the runs' own numbers is kept."""
        before = self.clock() - DAY
        for times in (self._asked, self._refused):
            while times and times[0] < before:
                times.popleft()
