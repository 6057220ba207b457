"""What a comparison would cost, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from fedmed.config import Scalar
from fedmed.experiment.forecast import Forecast, patient_total
from fedmed.experiment.forecast import forecast as forecast_of
from fedmed.library.comparing import Source, folder_of, open_experiment


@dataclass(frozen=True, repr=False)
class Forecasts:
    """Every arm's plan, hospital by hospital, before any training; :func:`forecast` makes it.

    ``epsilon`` and ``delta`` are those of one patient over all arms and seeds that bound it, None
    where none does or an arm is impossible.
    """

    arms: tuple[Forecast, ...]
    epsilon: float | None
    delta: float | None

    @property
    def possible(self) -> bool:
        """Whether every arm is possible as planned."""
        return all(arm.possible for arm in self.arms)

    def table(self) -> pd.DataFrame:
        """One row per arm and hospital; an arm that is impossible has one row with its reason."""
        rows = [
            {"arm": arm.arm, "possible": arm.possible, **about}
            for arm in self.arms
            for about in [asdict(row) for row in arm.hospitals] or [{"reason": arm.reason}]
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.4g}".format, na_rep="")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = self.table().to_html(index=False, float_format="{:.4g}".format, na_rep="")
        return shown


def forecast(
    experiment: Source,
    *,
    arms: Sequence[str] = (),
    changes: Mapping[str, Scalar] | None = None,
    out: Path | str | None = None,
    timed: bool = False,
) -> Forecasts:
    """What a comparison would cost in privacy, before any training. What ``fedmed plan`` does.

    ``experiment``, ``arms``, ``changes`` and ``out`` are those of :func:`fedmed.run`; ledgers that
    lie in ``out`` count. ``timed`` measures a step on this machine and forecasts the time too.
    An arm that is impossible says why and what comes nearest; raises :class:`UserError` for a
    mistake that no other plan would mend.

    >>> data = {"patients": 300, "hospitals": 2, "partition": "even"}
    >>> forecasts = forecast({"arms": ["none"], "data": data})
    >>> forecasts.table()[["arm", "hospital", "unit", "possible"]].values.tolist()
    [['none', 'hospital-1', 'none', True], ['none', 'hospital-2', 'none', True]]
    """
    loaded = open_experiment(experiment, arms, (), changes)
    forecasts = forecast_of(loaded, folder_of(loaded, out), timed=timed)
    total = patient_total(loaded) if all(arm.possible for arm in forecasts) else None
    return Forecasts(tuple(forecasts), *(total or (None, None)))
