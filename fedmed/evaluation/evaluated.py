"""One evaluation as an object: its numbers as tables, for a notebook, and as the dict of JSON."""

from __future__ import annotations

import copy
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd

from fedmed.base.errors import UserError
from fedmed.evaluation import summary
from fedmed.evaluation.measuring.measures import RESAMPLES, SEED
from fedmed.evaluation.metrics import shown
from fedmed.evaluation.tables import foreign
from fedmed.evaluation.thresholds import SPECIFICITY

Json = dict[str, Any]
Table = Literal["metrics", "groups", "gaps", "targets"]
_NUMBER: Final = ("metric", "value", "low", "high")
_COLUMNS: Final[dict[Table, tuple[str, ...]]] = {
    "metrics": _NUMBER,
    "groups": ("attribute", "group", "images", "positives", *_NUMBER, "note"),
    "gaps": ("attribute", *_NUMBER),
    "targets": ("target", *_NUMBER),
}
_ABOUT_GROUP: Final = (  # what a group's row says beside its metrics
    *("group", "n", "patients", "positives", "negatives", "prevalence"),
    *("intervals", "minimum_detectable_gap", "note"),
)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Every number of one predictions table, with its interval; :func:`evaluate` makes it.

    :meth:`table` gives them as data frames, :meth:`to_dict` as what ``fedmed evaluate --json``
    prints. A notebook shows the metrics and the gaps.
    """

    found: Json

    def table(self, of: Table = "metrics") -> pd.DataFrame:
        """One row per number: ``metric``, ``value``, and the interval ``low`` to ``high``.

        ``metrics``: of the whole test set, also at the second threshold (``..._at_specificity``).
        ``groups``: of each ``group`` of each ``attribute``, with its ``images`` and ``positives``;
        a group with too few has a ``note`` and no values. ``gaps``: between the groups of an
        attribute. ``targets``: of each label, where there are several. A number that is not
        defined, and an interval that there is none of, are NaN. docs/evaluation.md says what each
        means.

        >>> import pandas as pd
        >>> scores = pd.DataFrame({"label": [0, 0, 1, 1], "score": [0.1, 0.6, 0.4, 0.9]})
        >>> table = evaluate(scores, resamples=0).table()
        >>> table.loc[table["metric"] == "auroc", "value"].item()
        0.75
        """
        if of not in get_args(Table):
            raise UserError(f"table: '{of}' is not known; use {', '.join(get_args(Table))}")
        rows = {
            "metrics": self._metrics,
            "groups": self._groups,
            "gaps": self._gaps,
            "targets": self._targets,
        }[of]()
        frame = pd.DataFrame(rows, columns=list(_COLUMNS[of]))
        return frame.astype(dict.fromkeys(_NUMBER[1:], float))

    def to_dict(self) -> Json:
        """All of it as JSON has it: what ``fedmed evaluate --json`` prints. A copy.

        >>> import pandas as pd
        >>> scores = pd.DataFrame({"label": [0, 1], "score": [0.1, 0.9]})
        >>> evaluate(scores, resamples=0).to_dict()["n_test"]
        2
        """
        return copy.deepcopy(self.found)

    def __repr__(self) -> str:
        parts = [row for row in self._metrics() if row["metric"] in shown("result")]
        width = max(len(row["metric"]) for row in parts)
        numbers = [f"  {row['metric']:<{width}}  {_shown(row)}" for row in parts]
        notes = [f"  note: {note}" for note in self.found["notes"]]
        more = "  .table() has every number, .table('groups') and .table('gaps') those of groups"
        return "\n".join([f"Evaluation of {self._about()}", *numbers, *notes, more])

    def _repr_html_(self) -> str:
        """What a notebook shows: metrics, gaps, notes."""
        parts = [f"<p>Evaluation of {html.escape(self._about())}</p>"]
        kinds: tuple[Table, ...] = ("metrics", "gaps")
        for kind in kinds:
            table = self.table(kind).dropna(subset="value")
            if len(table):
                parts.append(table.to_html(index=False, float_format="{:.3f}".format, na_rep=""))
        parts += [f"<p>note: {html.escape(note)}</p>" for note in self.found["notes"]]
        return "\n".join(parts)

    def _about(self) -> str:
        found = self.found
        ill = "" if found["prevalence"] is None else f", {found['prevalence']:.1%} with the disease"
        return f"{found['n_test']} test images of {found['patients_test']} patients{ill}"

    def _metrics(self) -> list[Json]:
        found = self.found
        rows = [_row(found, name) for name in shown("result")]
        second = found["at_specificity"]
        for name in second["intervals"] if second else ():
            rows.append({**_row(second, name), "metric": f"{name}_at_specificity"})
        return rows

    def _groups(self) -> list[Json]:
        return [
            {
                "attribute": attribute,
                "group": row["group"],
                "images": row["n"],
                "positives": row["positives"],
                **_row(row, name),
                "note": row["note"] or "",
            }
            for attribute, rows in self.found["groups"].items()
            for row in rows
            for name in row
            if name not in _ABOUT_GROUP
        ]

    def _gaps(self) -> list[Json]:
        return [
            {"attribute": attribute, **_row(row, name)}
            for attribute, row in self.found["fairness"].items()
            for name in row["intervals"]
        ]

    def _targets(self) -> list[Json]:
        return [
            {"target": target, **_row(one, name)}
            for target, one in self.found.get("targets", {}).items()
            for name in shown("result")
        ]


def evaluate(
    predictions: pd.DataFrame | Path | str,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    specificity: float = SPECIFICITY,
    redraw_threshold: bool = False,
    where: str = "",
) -> Evaluation:
    """Discrimination, calibration and fairness of anyone's predictions, with intervals.

    `predictions` is a data frame or a .parquet or .csv file with the columns `label` (0 or 1) and
    `score` (0 to 1); docs/evaluation.md lists those that add validation rows, patients and groups.
    Thresholds come from validation rows only; without both classes there, numbers that need one are
    not defined. Intervals are bootstrap intervals over patients; 0 `resamples` gives none. A second
    threshold reaches `specificity` on validation rows. With `redraw_threshold` intervals also hold
    the choice of the threshold. Raises UserError for a bad table, which `where` names.

    >>> import pandas as pd
    >>> scores = pd.DataFrame({"label": [0, 1, 0, 1], "score": [0.2, 0.7, 0.4, 0.3]})
    >>> found = evaluate(scores, resamples=0)
    >>> found.to_dict()["auroc"]
    0.75
    """
    if not all(isinstance(one, int | np.integer) and one >= 0 for one in (resamples, seed)):
        raise UserError("resamples and seed are whole numbers >= 0; correct them")
    if not (isinstance(specificity, float | int) and 0 <= specificity <= 1):
        raise UserError(f"specificity = {specificity!r}: give a number from 0 to 1")
    if isinstance(predictions, str | Path):
        where = where or str(predictions)
        predictions = foreign.load(Path(predictions))
    if not isinstance(predictions, pd.DataFrame):
        raise UserError("predictions: give a data frame, or the path of a .csv or .parquet file")
    if predictions.columns.duplicated().any():
        name = predictions.columns[predictions.columns.duplicated()][0]
        raise UserError(f"{where or 'predictions'}: column '{name}' is there twice; drop one")
    return Evaluation(
        summary.evaluate(
            predictions,
            resamples=resamples,
            seed=seed,
            specificity=specificity,
            redraw_threshold=redraw_threshold,
            where=where or "predictions",
        )
    )


def _row(numbers: Json, name: str) -> Json:
    low, high = numbers["intervals"].get(name) or (None, None)
    return {"metric": name, "value": numbers[name], "low": low, "high": high}


def _shown(row: Json) -> str:
    if row["value"] is None:
        return "not defined"
    within = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['value']:.3f}{within}"
