"""Where a model's starting weights come from, for the statement."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.base.opening import expanded
from fedmed.config import Settings
from fedmed.models.packaged import packaged_weights


class Weights(BaseModel):
    """Starting weights: what they are, and what is known of the data behind them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="imagenet, or the file's name")
    sha256: str | None = Field(description="of the file")
    cohort: str | None = Field(description="of the run of this project that made the file")
    arm: str | None = Field(description="of that run")
    declared: str = Field(description="model.weights-origin; empty where nobody declared anything")


def weights_of(settings: Settings) -> Weights | None:
    """The starting weights of a run; None where it starts from random numbers."""
    model = settings.model
    if model.weights == "none":
        return None
    if model.weights == "imagenet" and not _packaged(settings):
        return Weights(
            name="imagenet", sha256=None, cohort=None, arm=None, declared=model.weights_origin
        )
    path = weights_path(settings)
    result = {} if _packaged(settings) else _result_beside(path)
    return Weights(
        name=path.name if model.weights != "pretrain" else f"pretrain/{path.name}",
        sha256=_sha256(path),
        cohort=result.get("cohort"),
        arm=result.get("arm"),
        declared=model.weights_origin,
    )


def weights_path(settings: Settings) -> Path:
    """The file that ``model.weights`` names."""
    given = settings.model.weights
    if _packaged(settings):
        return packaged_weights()
    return expanded(settings.run.pretrained if given == "pretrain" else given)


def _packaged(settings: Settings) -> bool:
    model = settings.model
    return model.weights == "imagenet" and model.features == "efficientnet_lite0"


def describe(weights: Weights | None) -> str:
    """One sentence for the statement."""
    if weights is None:
        return "none: the model starts from random numbers"
    if weights.name == "imagenet":
        text = "the model starts from torchvision's ImageNet weights"
    else:
        text = f"the model starts from {weights.name}"
        if weights.sha256:
            text += f" (SHA-256 {weights.sha256[:16]}...)"
        if weights.cohort:
            text += f", trained on {weights.cohort} under the arm {weights.arm}"
    if weights.declared:
        return f"{text}; declared: {weights.declared}"
    return f"{text}; its training data are taken to be public, which nobody declared"


def _sha256(path: Path) -> str | None:
    try:
        return files.digest(path)
    except (OSError, UserError):
        return None


def _result_beside(path: Path) -> dict[str, Any]:
    """``result.json`` of the run directory that the file lies in; empty where there is none."""
    try:
        return files.read_object(path.parent / "result.json")
    except UserError:
        return {}
