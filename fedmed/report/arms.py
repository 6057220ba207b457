"""One arm over its seeds: the numbers that tables, figures and sentences use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedmed.config import ARMS
from fedmed.evaluation.metrics import shown
from fedmed.privacy.statement import meaning
from fedmed.privacy.statement.facts import Facts
from fedmed.report import checking
from fedmed.report.evidence import Estimate, Evidence
from fedmed.report.load import Comparison, Run
from fedmed.report.reading import Json, Number, dig, mean, number, pair, rows, table, texts

CHANCE = 0.5
"""AUROC of a model that knows nothing."""

_DETECTABLE = "minimum_detectable_gap"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of test patients under one arm; a metric without a number has no entry.

    `detectable` is, by metric, the smallest gap between this group and all others that would be
    seen. `note` says why there are no numbers; None where there are.
    """

    name: str
    images: Number
    positives: Number
    note: str | None
    metrics: dict[str, Estimate]
    detectable: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm with at least one finished seed; `number` is its place among all arms, from 0.

    `auroc` is over all test images, with its interval; `seed_aurocs` are the single seeds'.
    `epsilon` is the largest over seeds and holds for `unit`; None means that no differential
    privacy is claimed.
    """

    name: str
    number: int
    kind: str
    scheme: str
    unit: str
    epsilon: Number
    delta: Number
    trust: str
    runs: list[Run]
    estimate: Estimate
    seed_aurocs: list[float]
    evidence: Evidence | None = None

    @property
    def auroc(self) -> Number:
        """Mean test AUROC over seeds."""
        return self.estimate.value

    @property
    def low(self) -> Number:
        """Lower end of the AUROC's 95 % interval over test patients."""
        return self.estimate.low

    @property
    def high(self) -> Number:
        """Upper end of that interval."""
        return self.estimate.high

    @property
    def private(self) -> bool:
        """Whether noise or another treatment entered, with or without a claim."""
        return not (self.plain or self.control)

    @property
    def plain(self) -> bool:
        """Whether it trains without any treatment."""
        return self.kind in ARMS and ARMS[self.kind].plan == "none"

    @property
    def control(self) -> bool:
        """Whether it is a private arm's recipe without its noise, to split that arm's cost."""
        return self.kind in ARMS and ARMS[self.kind].control

    @property
    def element(self) -> str:
        """What its images are made of."""
        return "voxel" if self.runs[0].config.get("data.dimensions") == 3 else "pixel"

    @property
    def replaced(self) -> Number:
        """Epsilon where one unit's data are replaced, where the statement gives it."""
        return number(self.statement.get("epsilon_replace_one"))

    @property
    def axis_epsilon(self) -> Number:
        """Epsilon on the axis of its unit: one neighbouring relation for all arms there.

        See :func:`fedmed.privacy.statement.meaning.comparable`.
        """
        return meaning.comparable(self.unit, self.epsilon, self.replaced)

    @property
    def films(self) -> Number:
        """Images of one patient: the cap, else at least the mean of the test patients, rounded up.

        None where neither is known.
        """
        cap = number(self.statement.get("images_per_patient"))
        images, patients = self.metric("n_test"), self.metric("patients_test")
        if cap is not None or not images or not patients:
            return cap
        return float(math.ceil(images / patients))

    @property
    def patient_epsilon(self) -> Number:
        """What an epsilon per image comes to for a patient with several; None under other units.

        Where the statement does not say it: epsilon times :attr:`films`, all of which are replaced.
        """
        if self.unit != "image" or self.epsilon is None:
            return None
        told = number(self.statement.get("epsilon_patient"))
        if told is not None or self.films is None or self.films <= 1:
            return told
        return self.epsilon * self.films

    @property
    def mixed(self) -> bool:
        """Whether each hospital has a guarantee of its own, so that no one figure holds."""
        told = rows(self.statement, "hospitals")
        return self.epsilon is None and any(table(one, "guarantee") for one in told)

    @property
    def meaningful(self) -> bool:
        """Whether its guarantee is meaningful protection.

        See :func:`fedmed.privacy.statement.meaning.meaningful`.
        """
        return meaning.meaningful(
            self.unit, self.epsilon, replaced=self.replaced, of_patient=self.patient_epsilon
        )

    @property
    def weak(self) -> bool:
        """Whether it treats the data, and what it guarantees is no meaningful protection."""
        return self.private and not self.meaningful and not self.mixed

    @property
    def blind(self) -> bool:
        """Whether it is not shown to be better than chance: its outer interval reaches 0.5."""
        return self.estimate.reaches(CHANCE)

    @property
    def statement(self) -> Json:
        """The privacy statement of the seed whose guarantee is weakest; empty without any.

        Each of its figures is the worst of all seeds, which need not be that one's.
        """
        told = [run.privacy for run in self.runs if run.privacy]
        unclaimed = [one for one in told if number(one.get("epsilon")) is None]
        if unclaimed or not told:
            return next(iter(unclaimed), {})
        weakest = max(told, key=lambda one: number(one["epsilon"]) or 0.0)
        return {**weakest, **worst(told, checking.FIGURES)}

    @property
    def facts(self) -> Facts | None:
        """What the guarantee is about; None where hospitals differ or it is not recorded."""
        return checking.facts(self.statement.get("facts"))

    @property
    def results(self) -> list[Json]:
        """The results of its seeds."""
        return [run.result or {} for run in self.runs]

    def metric(self, *path: str) -> Number:
        """Mean over seeds of a number in the metrics, None where no seed has it."""
        return mean(dig(result, "metrics", *path) for result in self.results)

    def cost(self, *path: str) -> Number:
        """Mean over seeds of a number in the result."""
        return mean(dig(result, *path) for result in self.results)

    def measure(self, *path: str) -> Estimate:
        """A metric over all test images, with its interval; `path` ends with its name."""
        *inside, metric = path
        estimate = None
        if self.evidence is not None and not inside:
            estimate = self.evidence.estimate(self.name, "metrics", metric)
        return estimate or _averaged(
            [table(result, "metrics", *inside) for result in self.results],
            metric,
            ("intervals", metric),
            f"{metric}_interval",
        )

    def gap(self, attribute: str, quantity: str) -> Estimate:
        """A gap between the groups of one attribute, with its interval.

        The accuracy gap has a sign between the sexes, women minus men; of other attributes it is
        the largest size of a group's accuracy minus that of all others.
        """
        estimate = (
            self.evidence.estimate(self.name, "gaps", attribute, quantity)
            if self.evidence
            else None
        )
        gaps = [table(result, "metrics", "fairness", attribute) for result in self.results]
        if estimate is None and quantity == "accuracy_gap" and attribute != "sex":
            # Other groups may stand out under another seed: sizes are averaged, not signs.
            return _averages([_size(gap, quantity) for gap in gaps])
        return estimate or _averaged(gaps, quantity, ("intervals", quantity))

    def groups(self, attribute: str) -> list[Group]:
        """The groups of one attribute, in the order of the files."""
        merged: dict[str, list[Json]] = {}
        for result in self.results:
            for row in rows(result, "metrics", "groups", attribute):
                merged.setdefault(str(row.get("group")), []).append(row)
        return [self._group(attribute, name, same) for name, same in merged.items()]

    def attributes(self) -> list[str]:
        """The attributes that its groups are made of."""
        return list(
            dict.fromkeys(
                attribute
                for result in self.results
                for attribute in table(result, "metrics", "groups")
            )
        )

    def notes(self) -> list[str]:
        """Notes of the evaluation: what could not be measured, what was not compared."""
        notes: list[str] = []
        for result in self.results:
            metrics = table(result, "metrics")
            notes += texts(metrics, "notes")
            if metrics.get("threshold") is None and metrics.get("threshold_rule"):
                notes.append(str(metrics["threshold_rule"]))
        return list(dict.fromkeys(notes))

    def _group(self, attribute: str, name: str, same: list[Json]) -> Group:
        metrics = {}
        for metric in shown("intervals of groups"):
            estimate = (
                self.evidence.estimate(self.name, "groups", attribute, name, metric)
                if self.evidence
                else None
            )
            estimate = estimate or _averaged(same, metric, ("intervals", metric))
            if estimate.value is not None:
                metrics[metric] = estimate
        detectable = {
            metric: mean(dig(row, _DETECTABLE, metric) for row in same)
            for metric in shown("detectable in groups")
        }
        note = same[0].get("note")
        return Group(
            name=name,
            images=number(same[0].get("n")),
            positives=number(same[0].get("positives")),
            note=None if note is None else str(note),
            metrics=metrics,
            detectable={key: value for key, value in detectable.items() if value is not None},
        )


def summarise(comparison: Comparison) -> list[Arm]:
    """Arms with at least one finished seed, in the experiment's order."""
    arms = []
    for place, name in enumerate(comparison.arms):
        runs = [run for run in comparison.runs if run.arm == name and run.result is not None]
        if runs:
            arms.append(_arm(name, place, runs, comparison.evidence))
    return arms


def reference(arms: list[Arm]) -> Arm | None:
    """The arm that private arms are compared with: federated, without privacy.

    Where arms were compared on the same images, it is the baseline of that comparison.
    """
    named = next((arm.evidence.baseline for arm in arms if arm.evidence), "")
    for arm in arms:
        if arm.name == named:
            return arm
    return next((arm for arm in arms if arm.plain and arm.scheme == "federated"), None)


def _arm(name: str, place: int, runs: list[Run], evidence: Evidence | None) -> Arm:
    results = [run.result or {} for run in runs]
    first = results[0]
    metrics = [table(result, "metrics") for result in results]
    aurocs = [value for m in metrics if (value := number(m.get("auroc"))) is not None]
    estimate = evidence.estimate(name, "metrics", "auroc") if evidence else None
    return Arm(
        name=name,
        number=place,
        kind=str(first.get("arm") or name),
        scheme=str(first.get("scheme") or "federated"),
        unit=str(first.get("unit") or "none"),
        epsilon=_largest(results, "epsilon"),
        delta=_largest(results, "delta"),
        trust=str(first.get("trust") or "not recorded"),
        runs=runs,
        estimate=estimate or _averaged(metrics, "auroc", ("intervals", "auroc"), "auroc_interval"),
        seed_aurocs=aurocs,
        evidence=evidence,
    )


def _averaged(
    tables: list[Json], key: str, interval: tuple[str, ...], older: str | None = None
) -> Estimate:
    """Mean over seeds of a number and of the ends of its interval.

    `older` is the key under which earlier versions wrote the interval.
    """
    ends = [pair(dig(one, *interval)) for one in tables]
    if older is not None:
        ends = [
            end if end[0] is not None else pair(one.get(older))
            for end, one in zip(ends, tables, strict=True)
        ]
    return _averages(
        [
            Estimate(value=number(one.get(key)), low=low, high=high)
            for one, (low, high) in zip(tables, ends, strict=True)
        ]
    )


def _averages(estimates: list[Estimate]) -> Estimate:
    """Means over seeds of a number and of the ends of its interval."""
    return Estimate(
        value=mean(one.value for one in estimates),
        low=mean(one.low for one in estimates),
        high=mean(one.high for one in estimates),
        seeds=sum(one.value is not None for one in estimates),
    )


def _size(gaps: Json, quantity: str) -> Estimate:
    """A gap of one run, counted in the direction that it has."""
    low, high = pair(dig(gaps, "intervals", quantity))
    gap = Estimate(value=number(gaps.get(quantity)), low=low, high=high)
    return -gap if (gap.value or 0.0) < 0.0 else gap


def worst(records: Sequence[Json], keys: Iterable[str]) -> Json:
    """Each figure that the records have, the largest; None as soon as one of them has none."""
    largest = {}
    for key in keys:
        values = [number(record.get(key)) for record in records if key in record]
        present = [value for value in values if value is not None]
        if values:
            largest[key] = max(present) if len(present) == len(records) else None
    return largest


def _largest(results: Iterable[Json], key: str) -> Number:
    """The weakest guarantee over seeds: None (no claim) as soon as one seed has none."""
    values = [number(result.get(key)) for result in results]
    present = [value for value in values if value is not None]
    return max(present) if len(present) == len(values) and present else None
