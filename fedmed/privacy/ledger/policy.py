"""A hospital's own rules: what it lets a federation ask, whatever the server says."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.base.files import safe_name
from fedmed.base.opening import expanded, is_folder
from fedmed.config import ARMS, Section, within
from fedmed.privacy.ledger.filtering import Limit

UNITS = ("patient", "image", "pixels", "hospital")
"""What an account can count: add or remove one patient or one image, replace the pixels of one
image, or replace one hospital's data."""


class Policy(Section):
    """The content of a policy file (TOML). Without a file everything is allowed: a simulation.

    ``maximum-epsilon`` at ``delta`` is the limit of the account, over all runs. Where it is set,
    arms that claim nothing for the account's unit are allowed only if ``arms`` names them.
    Histograms of evaluation patients are charged to the same account where there is a limit, and
    without one to an account of their own; see :mod:`fedmed.privacy.plans.evaluation`.
    """

    account: str = ""  # where spend is charged; empty = one account per hospital and unit
    unit: str = ""  # patient, image, pixels, hospital; empty = patient, or without limit the run's
    maximum_epsilon: Annotated[float, within(0, 1e9)] = 0.0  # 0 = none
    delta: Annotated[float, within(1e-12, 0.01)] = 1e-5
    arms: list[str] = []  # empty = every arm that the limit allows
    honest_hospitals: Annotated[int, Field(ge=0, le=255)] = (
        0  # a guarantee may count on so many hospitals' shares of the noise; 0 = on any number
    )
    minimum_cohort: Annotated[int, Field(ge=0, le=10**9)] = 0  # patients in training
    public_size: Annotated[int, Field(ge=0, lt=10**9)] = (
        0  # declared number of units; 0 = see the settings
    )
    evaluation: Literal["", "shared", "separate", "refuse"] = (
        ""  # histograms: charged to training's account, to one of its own; empty = as limited
    )
    allow_reproducible_noise: bool = False
    requests_per_run: Annotated[int, Field(ge=1)] = 5000  # that a guard answers
    requests_per_day: Annotated[int, Field(ge=1)] = 20_000
    data_refusals_per_day: Annotated[int, Field(ge=1)] = 20  # then it touches no data for a day
    apps: list[str] = []  # SHA-256 of app bundles that a deployed node may run; empty = any

    @model_validator(mode="after")
    def _known(self) -> "Policy":
        if "maximum_epsilon" in self.model_fields_set and not self.maximum_epsilon:
            raise ValueError(
                "maximum-epsilon = 0 could be read as no budget or as no limit; remove it for no "
                "limit, or set arms to what may run"
            )
        for arm in self.arms:
            if arm not in ARMS:
                raise ValueError(
                    f"arms: {arm!r} is not known{config.nearest(arm, ARMS)}; use {', '.join(ARMS)}"
                )
        if self.unit not in ("", *UNITS):
            raise ValueError(f"unit: {self.unit!r} is not known; use {', '.join(UNITS)}")
        for digest in self.apps:
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(
                    f"apps: {digest!r} is no SHA-256 in 64 small hexadecimal digits; take it from "
                    "flwr build"
                )
        if self.account and not self.unit:
            raise ValueError(f"unit: a named account needs it; use one of {', '.join(UNITS)}")
        return self

    def account_for(self, owner: str, unit: str) -> tuple[str, str]:
        """Name and unit of the account that a request for ``unit`` is charged to.

        Under a limit every request is counted in one unit, by default the patient: with an account
        for each unit the same patient could be asked for the limit several times.
        """
        unit = self.unit or ("patient" if self.limit else unit)
        return self.account or f"{owner}/{unit}", unit

    @property
    def limit(self) -> Limit | None:
        """What the account may spend in all; None where the policy sets no limit."""
        return Limit(self.maximum_epsilon, self.delta) if self.maximum_epsilon else None

    def allows(self, arm: str) -> bool:
        """Whether the arm as such may be asked for."""
        if self.arms:
            return arm in self.arms
        return not self.maximum_epsilon or ARMS[arm].protects_alone


SIMULATION = Policy(allow_reproducible_noise=True)


def load_policy(folder: str, hospital: str) -> Policy:
    """The policy ``NAME.toml`` in ``folder``; without a folder or a file, that of a simulation."""
    if not folder:
        return SIMULATION
    root = expanded(folder)
    if not is_folder(root):
        raise UserError(f"run.policies = '{folder}': no such folder; create it or remove the key")
    path = root / f"{safe_name(hospital)}.toml"
    return read_policy(path) if os.path.lexists(path) else SIMULATION


def read_policy(path: Path) -> Policy:
    """The policy at ``path``; raises :class:`UserError` naming the file and the first wrong key."""
    text = config.read_toml(path)
    for key in text:
        known = [name.replace("_", "-") for name in Policy.model_fields]
        if key not in known:
            raise UserError(
                f"{path}: unknown key {key!r}{config.nearest(key, known)}; use {', '.join(known)}"
            )
    try:
        return Policy.model_validate(config.widen(text, Policy), by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{path}: {config.explain(error, Policy)}") from error
