"""The answer of a comparison in a few sentences computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.report import absent, gap_words, places, ranking, together
from fedmed.report.arms import CHANCE, Arm, reference
from fedmed.report.words import guarantee, interval, listed


def answer(arms: Sequence[Arm]) -> list[str]:
    """What training together reaches, what privacy and its place cost, what groups get of it.

    Arms are compared within one unit and at about one epsilon (:mod:`fedmed.report.ranking`); those
    without meaningful protection are left to :func:`unprotected`. A difference that its interval
    cannot tell from zero is called that, and none is called the best by luck.
    """
    measured = [arm for arm in arms if arm.auroc is not None]
    if not measured:
        return ["No arm has a test AUROC yet, so there is no answer yet."]
    private = _private(measured)
    base = reference(measured)
    sentences = [] if base is None else [_reached(base)]
    if private:
        sentences += ranking.costs(private, base)
        protected = [arm for arm in private if arm.meaningful]
        told = [*([] if base is None else [base]), *(arm for arm in protected if arm is not base)]
        sentences += places.sentences(protected)
        sentences += together.against_alone(told)
        sentences += gap_words.sentences(protected, base)
        sentences += together.sensitivity(told)
    elif base is None:
        sentences.append(_baselines(measured))
    return sentences


def unprotected(arms: Sequence[Arm]) -> str:
    """Arms that are in no ranking for want of meaningful protection; empty where there are none."""
    return ranking.unprotected([arm for arm in arms if arm.auroc is not None])


def cautions(arms: Sequence[Arm]) -> list[str]:
    """What a reader of the answer has to know beside it."""
    blind = [arm for arm in arms if arm.blind]
    caveats = []
    if blind:
        caveats.append(
            f"Not shown to be better than chance (0.5): {listed(list(map(_blind, blind)))}."
        )
    private = [arm for arm in _private(arms) if arm.auroc is not None]
    if len(ranking.levels(private)) > 1:
        caveats.append(
            "Arms are compared within one protected unit and at about one epsilon only: others are "
            "other promises."
        )
    if arms and all(len(arm.runs) == 1 for arm in arms):
        caveats.append("Each arm was trained once: no interval holds the luck of training.")
    if len(arms) > 1 and not any(arm.evidence for arm in arms):
        caveats.append(absent.comparison(arms))
    return caveats


def _reached(base: Arm) -> str:
    """What the arm that others are compared with reaches."""
    seen = ", which is not shown to be better than chance: what privacy costs cannot be seen"
    seen = seen if base.blind else ""
    if base.private:
        return (
            f"No arm is without privacy: the others are compared with {base.name} "
            f"({guarantee(base)}), which reaches a test AUROC of {ranking.measured(base)}"
            f"{seen.replace('which', 'and')}."
        )
    name = "training together" if base.scheme == "federated" else f"the {base.scheme} baseline"
    reached = f"reaches a test AUROC of {ranking.measured(base)}{seen}"
    return f"Without privacy, {name} ({base.name}) {reached}."


def _baselines(measured: Sequence[Arm]) -> str:
    """What arms without any privacy reach, where none of them trained together."""
    told = [f"{arm.name} {ranking.measured(arm)}" for arm in measured]
    return f"No arm trained together. Test AUROC: {'; '.join(told)}."


def _private(measured: Sequence[Arm]) -> list[Arm]:
    private = [arm for arm in measured if arm.private]
    return [arm for arm in private if arm.scheme == "federated"] or private


def _blind(arm: Arm) -> str:
    """An arm at chance, with the interval that says so where the table of arms has another."""
    if arm.low is not None and arm.low > CHANCE:
        return f"{arm.name} (with the luck of training {interval(*arm.estimate.outer)})"
    return arm.name if arm.private else f"{arm.name} (without privacy)"
