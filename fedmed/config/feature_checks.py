"""What ``feature-laplace`` needs: a short vector of public features, one label, a linear head."""

from typing import Final

from fedmed.config.arms import ARMS
from fedmed.config.names import kebab
from fedmed.config.tables import Data, Evaluation, Model, Privacy, Train

_COMPONENTS: Final = 64
_EPSILONS: Final = (0.01, 64.0)


def check_features(
    model: Model, data: Data, train: Train, privacy: Privacy, evaluation: Evaluation
) -> None:
    """A model whose head can be solved for from noised vectors, and noise that can be drawn."""
    arm = privacy.arm
    if ARMS[arm].plan != "features":
        return
    if model.name != "probe":
        raise ValueError(
            f"model.name: {arm} releases features of a public body, and '{model.name}' trains its "
            "own; use 'probe'"
        )
    if model.standardise != "validation":
        raise ValueError(
            f"model.standardise: {arm} projects features on a few components of public images; "
            "use 'validation', with model.components"
        )
    if not 1 <= model.components <= _COMPONENTS:
        raise ValueError(
            f"model.components: {arm} noises each of them, so that few carry anything; give 1 to "
            f"{_COMPONENTS}, for example 4"
        )
    if model.hidden:
        raise ValueError(f"model.hidden: {arm} solves for a linear head; use 0")
    if data.outputs != 1:
        raise ValueError(f"data.target: {arm} releases one label of a patient; name one")
    if privacy.unit != "patient":
        raise ValueError(f"privacy.unit: {arm} protects a patient with all films; use 'patient'")
    low, high = _EPSILONS
    if not low <= privacy.epsilon <= high:
        raise ValueError(
            f"privacy.epsilon: {privacy.epsilon:g} is outside {low:g} to {high:g}, for which {arm} "
            "draws noise; choose one inside"
        )
    plain = Train()
    for key in ("server_optimizer", "server_learning_rate"):
        if getattr(train, key) != getattr(plain, key):
            raise ValueError(
                f"train.{kebab(key)}: {arm} averages the hospitals' solutions and does not read "
                "it; remove it"
            )
    if evaluation.noised_test:
        raise ValueError(
            f"evaluation.noised-test: {arm} noises no images; remove it, or set it to false"
        )
