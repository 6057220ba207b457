"""A statement's sentences, made from its facts and figures: for people alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedmed.base.rounding import up, up_text
from fedmed.config import ARMS
from fedmed.privacy.plans import Plan
from fedmed.privacy.statement import evaluation, facts
from fedmed.privacy.statement.meaning import comparable, meaningful

if TYPE_CHECKING:  # which is made with these
    from fedmed.privacy.statement.contents import Statement

_OWN: Final = "each hospital's own: see hospitals"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run says of all its hospitals."""

    neighbouring: str
    trust: str
    mechanism: str
    sampling: str
    accountant: str
    released: tuple[str, ...]
    not_covered: tuple[str, ...]


def told(plans: Mapping[str, Plan], scheme: str) -> Told:
    """The run's words; where hospitals' differ, each one's own beside its name."""
    words = {name: plan.words(scheme) for name, plan in plans.items()}
    every = list(words.values())
    first, mixed = every[0], len({own.facts for own in every}) > 1
    claiming = {name: own.accountant for name, own in words.items() if own.facts.unit != "none"}
    limits = dict.fromkeys(text for own in every for text in own.not_covered)
    whole = "the run as a whole: hospitals chose different protections, each for its own patients"
    return Told(
        neighbouring=_OWN if mixed else first.neighbouring,
        trust=_OWN if mixed else first.trust,
        mechanism=_by_hospital({name: own.mechanism for name, own in words.items()}),
        sampling=_by_hospital({name: own.sampling for name, own in words.items()}),
        accountant=_by_hospital(claiming) or "none",
        released=tuple(dict.fromkeys(text for own in every for text in own.released)),
        not_covered=(*((whole,) if mixed else ()), *limits),
    )


def _by_hospital(texts: Mapping[str, str]) -> str:
    """One text where all are the same, else each behind the names that it belongs to."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{', '.join(whose)}: {text}" for text, whose in names.items())


def summary(record: Statement) -> str:
    """One plain paragraph for a reader who is no expert."""
    evaluated = evaluation.summary(record.evaluation) if record.evaluation else ""
    return (_training(record) + " " + evaluated).strip()


def _training(record: Statement) -> str:
    if record.facts is None:
        return _mixed(record)
    if record.unit == "none":
        noised = ARMS[record.arm].noise != "nowhere"
        return (
            "What this run does to the images gives no guarantee. "
            * noised
            + "This run protects nobody: the models that hospitals send, and the final model, may "
            "reveal whether a patient took part and what the images show."
        )
    if record.epsilon is None or record.delta is None:
        return (
            "The noise of this run can be repeated from the experiment's seed. That is useful for "
            "checking the software and protects nobody against a person who knows the seed, so no "
            "epsilon is claimed."
        )
    epsilon = f"epsilon = {up_text(record.epsilon)} at delta = {up(record.delta):.3g}"
    trusted = "without trusting anybody"
    if record.facts.trusted:
        trusted = f"as long as {facts.trust(record.facts.trusted)} is trusted"
    counted = {"once": "release(s)", "everyone": "round(s)"}.get(record.facts.sampling, "step(s)")
    text = (
        f"One {record.unit} is protected with {epsilon} ({record.neighbouring}), {trusted}. "
        f"{record.steps_taken} of {record.steps_planned} planned {counted} were taken and paid "
        "for. "
    )
    if record.epsilon_planned is not None and record.epsilon_planned > record.epsilon:
        text += (
            "If somebody who saw results ended it early, it is the whole plan's epsilon = "
            f"{up_text(record.epsilon_planned)} that holds. "
        )
    if record.epsilon_patient is not None:
        text += (
            f"One patient, with up to {record.images_per_patient} images, is protected with "
            f"epsilon = {up_text(record.epsilon_patient)}. "
        )
    if not meaningful(
        record.unit,
        record.epsilon,
        replaced=record.epsilon_replace_one,
        of_patient=record.epsilon_patient,
    ):
        judged = comparable(record.unit, record.epsilon, record.epsilon_replace_one)
        if judged is not None and judged > record.epsilon:
            text += f"Where its data are replaced, epsilon is {up_text(judged)}. "
        return text + (
            "An epsilon of this size is no meaningful protection: an attacker can all but always "
            "tell two such data sets apart."
        )
    if record.tpr_at_fpr_001 is not None:
        text += (
            "An attacker who knows everything else and accuses 1 in 100 wrongly finds "
            f"{up(100 * record.tpr_at_fpr_001, 2):.2g} in 100 of those who are there. "
        )
    if record.epsilon > 1:
        return text + "Something can still be learnt: lower epsilon protects more."
    return text + f"Very little can be learnt about one {record.unit}."


def _mixed(record: Statement) -> str:
    clauses = ["Hospitals chose different protections for their own patients:"]
    for member in record.hospitals:
        own = member.guarantee
        if own is None or own.unit == "none":
            clauses.append(f"{member.hospital} protects nobody;")
        elif member.epsilon is None:
            clauses.append(
                f"{member.hospital} ({own.arm}) has noise that can be repeated from the seed, so "
                "no epsilon is claimed;"
            )
        else:
            delta = f" at delta = {up(member.delta):.3g}" if member.delta else ""
            clauses.append(
                f"{member.hospital} ({own.arm}) protects one {own.unit} with epsilon = "
                f"{up_text(member.epsilon)}{delta} ({own.neighbouring}), trusting {own.trust};"
            )
    return " ".join(clauses)[:-1] + ". No one figure holds for the run as a whole."
