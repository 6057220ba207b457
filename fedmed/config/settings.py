"""Everything one run of one arm needs, validated as a whole."""

from typing import Any, Self

from pydantic import ValidationError, model_validator

from fedmed.base.errors import UserError
from fedmed.config.arms import ARMS, Arm
from fedmed.config.checks import (
    check_depths,
    check_evaluation,
    check_labels,
    check_model,
    check_names,
    check_paths,
    check_privacy,
    check_sites,
    check_source_keys,
    check_targets,
    check_volumes,
)
from fedmed.config.feature_checks import check_features
from fedmed.config.flat import flatten, put, unflatten
from fedmed.config.names import TRACKERS, Scalar
from fedmed.config.reading import explain, widen
from fedmed.config.scattering import check_scattering
from fedmed.config.tables import Data, Evaluation, Model, Privacy, Run, Section, Train
from fedmed.config.train_checks import check_norm, check_precision, check_train


class Settings(Section):
    """Everything one run of one arm needs."""

    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    privacy: Privacy = Privacy()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        train, data = self.train, self.data
        check_train(train, data, self.privacy)
        check_norm(self.model)
        check_precision(train, self.privacy)
        check_paths(data)
        check_source_keys(data)
        check_labels(data)
        check_depths(data)
        check_sites(data, train, self.privacy, self.evaluation)
        check_targets(data, self.evaluation)
        check_volumes(data, self.model)
        check_model(self.model, train)
        check_scattering(self.model, data)
        check_privacy(self.privacy, data)
        check_features(self.model, data, train, self.privacy, self.evaluation)
        check_evaluation(self.evaluation, self.privacy, train, self.model)
        check_names("run.trackers", self.run.tracked_by, TRACKERS)
        return self

    @property
    def arm(self) -> Arm:
        """The row of ``privacy.arm``."""
        return ARMS[self.privacy.arm]

    @property
    def nodes(self) -> int:
        """Number of federation members: one per hospital, or one that holds everything."""
        return 1 if self.train.scheme == "pooled" else self.data.hospitals

    def to_nested(self) -> dict[str, Any]:
        """Nested dict with kebab-case keys, as an experiment's TOML has them."""
        return self.model_dump(by_alias=True)

    def to_flat(self) -> dict[str, Scalar]:
        """Flat dict with dotted kebab-case keys, as Flower's run config has them."""
        return flatten(self.to_nested())

    def replaced(self, overrides: dict[str, Any], where: str = "--set") -> "Settings":
        """A copy with dotted keys replaced and everything validated again."""
        merged = self.to_nested()
        for key, value in overrides.items():
            put(merged, key, value, where)
        return parse(merged, where)


def parse(nested: dict[str, Any], where: str) -> Settings:
    """Validate a nested dict; raises :class:`UserError` naming the first wrong key and remedy."""
    try:
        return Settings.model_validate(widen(nested, Settings), by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Settings)}") from error


def from_flat(flat: dict[str, Any], where: str = "run config") -> Settings:
    """Validate a run config with dotted keys."""
    return parse(unflatten(flat, where), where)
