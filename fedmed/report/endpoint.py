"""What the report says of the primary endpoint: the one change that was named beforehand."""

from __future__ import annotations

from fedmed.evaluation.metrics import METRICS
from fedmed.report.evidence import Evidence
from fedmed.report.reading import number
from fedmed.report.words import interval


def sentences(evidence: Evidence | None) -> list[str]:
    """Whether the margin that the experiment names is kept; nothing where it names none."""
    told = {} if evidence is None else evidence.primary
    metric, margin = METRICS.get(str(told.get("metric"))), number(told.get("margin"))
    if evidence is None or metric is None or margin is None:
        return []
    arm, change = str(told.get("arm")), number(told.get("change"))
    low, high = number(told.get("low")), number(told.get("high"))
    both = told.get("test") == "equivalence"
    start = "Primary endpoint"
    if told.get("after_results"):
        start = "Endpoint named after results were seen, which makes it no test"
    if change is None or low is None or high is None:
        return [f"{start}: the {metric.title} of {arm}, whose change has no interval."]
    seen = f"the change is {change:+.3f} ({interval(low, high, sign=True)})"
    if told.get("worse"):
        result = "differs from" if both else "is worse than"
        return [
            f"{start}: the {metric.title} of {arm} {result} that of {evidence.baseline} by more "
            f"than {margin:g}; {seen}."
        ]
    kept = "the same within" if both else "not worse by more than"
    if told.get("shown"):
        return [
            f"{start}: the {metric.title} of {arm} is shown to be {kept} {margin:g} against "
            f"{evidence.baseline}; {seen}."
        ]
    return [
        f"{start}: that the {metric.title} of {arm} is {kept} {margin:g} against "
        f"{evidence.baseline} is not shown; {seen}."
    ]
