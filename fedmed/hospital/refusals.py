"""How a hospital says no: one code leaves it, and its own log has the reason."""

import contextlib
import logging
from collections.abc import Iterator

from fedmed.base.errors import RunError, UserError
from fedmed.privacy.ledger.filtering import OverBudget
from fedmed.privacy.ledger.ledger import CohortChanged, Ledger
from fedmed.secure_sum import NotMet, SumRefused

log = logging.getLogger("fedmed.hospital")


class Refusal(Exception):
    """A hospital's refusal: a code from ``fedmed.federation.answers.ERRORS`` and nothing else."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@contextlib.contextmanager
def ledger_failures(ledger: Ledger, name: str) -> Iterator[None]:
    """A ledger that cannot be used is a refusal: without a record nothing is released."""
    try:
        yield
    except OverBudget as error:
        log.warning("%s: %s", name, error)
        with contextlib.suppress(RunError, UserError):
            ledger.note("refused", reason=str(error))
        raise Refusal("policy" if error.by_policy else "budget") from error
    except CohortChanged as error:
        log.error("%s: %s", name, error)
        raise Refusal("data") from error
    except (RunError, UserError) as error:
        log.error("%s", error)
        raise Refusal("ledger") from error


@contextlib.contextmanager
def summing(name: str) -> Iterator[None]:
    """What a secure sum refuses is logged here, at the hospital; only the code leaves it."""
    try:
        yield
    except NotMet as error:
        log.warning("%s: %s", name, error)
        raise Refusal("meeting") from error
    except SumRefused as error:
        log.error("%s: secure sum: %s", name, error)
        raise Refusal("sum") from error


@contextlib.contextmanager
def refusing(code: str, name: str) -> Iterator[None]:
    """What goes wrong is logged here, at the hospital; only the code leaves it."""
    try:
        yield
    except (UserError, RunError) as error:
        log.error("%s: %s", name, error)
        raise Refusal(code) from error
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        if code != "data":
            raise
        # Whatever a reader raises, data decided it: one code, and it is counted as such.
        log.error("%s: the data cannot be read: %s", name, type(error).__name__)
        raise Refusal(code) from error
