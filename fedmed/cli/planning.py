"""``fedmed plan``: what a comparison would cost, or the one number that is not given."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedmed.base.errors import UserError
from fedmed.base.rounding import up_text
from fedmed.base.terminal import say


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of one training, as options give them; None where one is not given."""

    patients: int | None
    batch: int | None
    epochs: float | None
    epsilon: float | None
    noise_multiplier: float | None
    delta: float | None

    def refuse_any(self) -> None:
        """Raise :class:`UserError` for the first that is given."""
        for number in fields(self):
            if getattr(self, number.name) is not None:
                option = f"--{number.name.replace('_', '-')}"
                raise UserError(
                    f"fedmed plan: {option} is not read beside an experiment; use --set"
                )


def solve(numbers: Numbers, given: Mapping[str, object], *, as_json: bool) -> None:
    """Print all numbers of one training; ``given`` are options that need an experiment."""
    if numbers.patients is None:
        raise UserError("fedmed plan: give an EXPERIMENT.toml, or --patients and the rest")
    for option, value in given.items():
        if value:
            raise UserError(f"fedmed plan: {option} needs an EXPERIMENT.toml; give one")
    from fedmed.cli.solving import Asked, solved

    answer = solved(
        Asked(
            patients=numbers.patients,
            batch=numbers.batch,
            epochs=numbers.epochs,
            epsilon=numbers.epsilon,
            noise_multiplier=numbers.noise_multiplier,
            delta=1e-5 if numbers.delta is None else numbers.delta,
        )
    )
    say(json.dumps(answer, indent=2) if as_json else _lines(answer))


def plan_experiment(
    experiment: Path,
    *,
    arms: Sequence[str],
    changes: Sequence[str],
    out: Path | None,
    timed: bool,
    as_json: bool,
) -> None:
    """Print every arm's plan; raises :class:`UserError` where one is impossible."""
    from fedmed.cli.tables import print_plans
    from fedmed.experiment.file import load_experiment
    from fedmed.experiment.forecast import forecast, patient_total

    loaded = load_experiment(experiment, arms=arms, assignments=changes)
    folder = out if out is not None else Path("runs") / loaded.name
    plans = forecast(loaded, folder, timed=timed)
    impossible = [plan.arm for plan in plans if not plan.possible]
    total = None if impossible else patient_total(loaded)
    if as_json:
        content = {
            "experiment": loaded.name,
            "seeds": list(loaded.seeds),
            "arms": [plan.to_json() for plan in plans],
            "epsilon_per_patient_in_all": None if total is None else total[0],
            "delta_of_all": None if total is None else total[1],
        }
        say(json.dumps(content, indent=2))
    else:
        print_plans(plans)
        if total is not None:
            say(
                f"all arms and {len(loaded.seeds)} seed(s) together: epsilon "
                f"{up_text(total[0], 4)} at delta {total[1]:g} for one patient, from the arms that "
                "bound it"
            )
    if impossible:
        raise UserError(f"impossible as planned: {', '.join(impossible)}; see the reasons above")


def _lines(numbers: dict[str, Any]) -> str:
    width = max(len(name) for name in numbers)
    return "\n".join(
        f"{name:<{width}}  {value:.5g}" if isinstance(value, float) else f"{name:<{width}}  {value}"
        for name, value in numbers.items()
    )
