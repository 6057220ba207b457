"""A simulated hospital's side of the app: its data are read in this process."""

import functools
import logging
from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.federation import messages
from fedmed.federation.exchange import Buffers
from fedmed.federation.messages import Reply
from fedmed.hospital import histograms
from fedmed.hospital.hospital import hospital_for
from fedmed.hospital.refusals import Refusal
from fedmed.hospital.secure_sums import SimulatedSums
from fedmed.hospital.terms import Site, in_sum, review, terms_for

log = logging.getLogger("fedmed.hospital")
_BUFFERS = Buffers()  # this process's, whichever hospital trains in it


def query(message: Message, context: Context) -> RecordDict:
    """Answer with the hospital's name and its policy's view of the plan, or an error code."""

    def answer() -> RecordDict:
        run = str(messages.part_of(message.content, "request", ConfigRecord)["run"])
        return messages.join_content(review(*_member(context), context.run_id, _site(context), run))

    return _guarded(answer)


def train(message: Message, context: Context) -> RecordDict:
    """Train one round and answer with the update, or with an error code.

    A message of a secure sum is answered with another one.
    """

    def answer() -> RecordDict:
        content = message.content
        request = messages.part_of(content, "request", ConfigRecord)
        if "phase" in request:
            return _summing(request, context)
        hospital = hospital_for(*_member(context), context.run_id, _site(context))
        frozen = _BUFFERS.find(messages.read_frozen(content))
        if frozen is None:
            raise Refusal("buffers")
        _BUFFERS.keep(frozen)
        reply = hospital.train(
            str(request["run"]),
            int(str(request["round"])),
            messages.decode_arrays(messages.part_of(content, "model", ArrayRecord)),
            frozen,
            _sums(context, hospital.settings),
        )
        return messages.update_content(reply, hospital.settings.run.wire, spend=True)

    return _guarded(answer)


def _summing(request: ConfigRecord, context: Context) -> RecordDict:
    """A member's answer to a message of a secure sum."""
    settings, index = _member(context)
    terms = terms_for(settings, index, context.run_id, _site(context))
    phase, text = str(request["phase"]), str(request["text"])
    sums = _sums(context, terms.settings)
    told = in_sum(sums, terms, str(request["run"]), phase, text)
    return messages.sum_content(terms.name, told)


def _sums(context: Context, settings: config.Settings) -> SimulatedSums:
    return SimulatedSums(files.run_folder(settings.run.out, context.run_id))


def evaluate(message: Message, context: Context) -> RecordDict:
    """Score the hospital's evaluation images and answer with histograms, or with an error code."""

    def answer() -> RecordDict:
        hospital = hospital_for(*_member(context), context.run_id, _site(context))
        content = message.content
        request = messages.part_of(content, "request", ConfigRecord)
        edges = request["edges"]
        reply = histograms.evaluate(
            hospital,
            str(request["run"]),
            messages.decode_arrays(messages.part_of(content, "model", ArrayRecord)),
            messages.decode_arrays(messages.part_of(content, "frozen", ArrayRecord)),
            [float(str(edge)) for edge in (edges if isinstance(edges, list) else [])],
        )
        return messages.histogram_content(reply)

    return _guarded(answer)


def _guarded(answer: Callable[[], RecordDict]) -> RecordDict:
    """What ``answer`` gives; whatever goes wrong in it, only a code leaves the hospital."""
    try:
        return answer()
    except Refusal as refusal:
        code = refusal.code
    except MemoryError:
        code = "memory"
    except Exception as error:
        # The text of an exception can hold data: its kind alone is logged, at the hospital.
        log.error("a hospital failed: %s", type(error).__name__)
        code = "internal"
    return messages.update_content(Reply("", error=code))


def _member(context: Context) -> tuple[config.Settings, int]:
    try:
        settings = _settings(tuple(context.run_config.items()))
    except UserError as error:
        raise Refusal("plan") from error
    return settings, int(context.node_config["partition-id"])


@functools.lru_cache(maxsize=8)
def _settings(flat: tuple[tuple[str, config.Scalar], ...]) -> config.Settings:
    """The run's settings, which come with every message."""
    return config.from_flat(dict(flat))


def _site(context: Context) -> Site:
    """The site's own files, from how its node was started: no run config can move them."""
    given = context.node_config
    return Site(policy=str(given.get("policy", "")), ledger=str(given.get("ledger", "")))
