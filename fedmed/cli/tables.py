"""Tables on standard output: cohorts, plans, accounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from fedmed.base.rounding import up_text
from fedmed.base.terminal import cell, console, say

if TYPE_CHECKING:  # pandas and a forecast's torch take a second each to load
    import pandas as pd

    from fedmed.experiment.forecast import Forecast
    from fedmed.privacy.ledger.report import Account


def print_table(frame: pd.DataFrame) -> None:
    """A data frame as a table on standard output."""
    present = frame.astype(object).where(frame.notna(), None)
    print_rows(list(frame.columns), present.itertuples(index=False))


def print_rows(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Rows as a table on standard output, None as nothing; off a terminal as wide as it needs."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(cell(column), justify="right" if number > 2 else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell("" if value is None else value) for value in row))
    screen = console()
    if not screen.is_terminal:
        screen = console(width=240)
    screen.print(table)


def print_plans(forecasts: Iterable[Forecast]) -> None:
    """Every arm's plan, hospital by hospital, or why it is impossible."""
    for forecast in forecasts:
        time = "" if forecast.seconds is None else f", about {_duration(forecast.seconds)} a seed"
        say(f"{forecast.arm}{time}")
        if not forecast.possible:
            say(f"  impossible: {forecast.reason}")
        rows = [
            {
                "hospital": row.hospital,
                "unit": row.unit,
                "epsilon": None if row.epsilon is None else up_text(row.epsilon, 4),
                "delta": _number(row.delta),
                "sigma": _number(row.noise_multiplier),
                "rate": _number(row.sampling_rate),
                "batch": row.expected_batch,
                "steps": row.steps,
                "noise/signal": _number(row.noise_to_signal),
                "policy": "yes" if row.accepted else "no",
            }
            for row in forecast.hospitals
        ]
        if all(row.unit == "none" for row in forecast.hospitals) and forecast.possible:
            say("  no privacy is claimed\n")
            continue
        if rows:
            print_rows(list(rows[0]), (row.values() for row in rows))
        for row in forecast.hospitals:
            if not row.accepted:
                say(f"  {row.hospital} refuses: {row.reason}")
        if forecast.evaluation is not None:
            cost = forecast.evaluation
            say(
                f"  evaluation: epsilon {up_text(cost.epsilon, 4)}, delta "
                f"{_number(cost.delta)} for one evaluation patient, sigma "
                f"{_number(cost.noise_multiplier)}"
            )
        say("")


def print_accounts(accounts: Iterable[Account]) -> None:
    """What each account has spent."""
    rows = [
        {
            "ledger": Path(account.ledger).stem,
            "account": account.account,
            "unit": account.unit,
            "epsilon": "not bounded" if account.epsilon is None else up_text(account.epsilon, 4),
            "delta": _number(account.delta),
            "plans": account.plans,
            "rounds": account.rounds,
            "steps": account.steps,
            "by": account.how,
            "never above": ""
            if account.limit_epsilon is None
            else f"{_number(account.limit_epsilon)} at {_number(account.limit_delta)}",
        }
        for account in accounts
    ]
    if not rows:
        say("nothing spent")
        return
    print_rows(list(rows[0]), (row.values() for row in rows))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
