"""What training needs of the other tables: a weighting, a norm and a precision that fit the arm."""

from fedmed.config.arms import ARMS
from fedmed.config.names import kebab
from fedmed.config.tables import Data, Model, Privacy, Train


def check_train(train: Train, data: Data, privacy: Privacy) -> None:
    """A weighting that tells nothing secret, and a scheme that the arm can protect."""
    arm = ARMS[privacy.arm]
    if train.weighting == "size" and arm.at_server:
        raise ValueError(
            "train.weighting: 'size' makes one hospital's share larger than the noise of "
            f"{arm.name} covers; use 'equal'"
        )
    declared = privacy.public_size or data.sites  # a site's policy declares its own
    if train.weighting == "size" and arm.protects and not declared:
        raise ValueError(
            f"train.weighting: 'size' tells the hospitals' sizes, which {arm.name} does not "
            "protect; declare them in privacy.public-size, or use 'equal'"
        )
    if train.scheme != "federated" and arm.plan in ("update", "summed"):
        raise ValueError(
            f"train.scheme: '{train.scheme}' has no exchange of updates for {arm.name} to "
            "protect; use 'federated'"
        )
    if arm.plan == "summed":
        _check_summed(train, arm.name)
    if train.trim:
        _check_trim(train, data, privacy)
    if train.minimum_hospitals > data.hospitals:
        raise ValueError(
            f"train.minimum-hospitals: {train.minimum_hospitals} is more than "
            f"data.hospitals = {data.hospitals}; lower it"
        )
    if train.views > 1 and train.augment == "none":
        raise ValueError(
            f"train.views: {train.views} views of an image are all the same without "
            "augmentation; set train.augment, or train.views = 1"
        )


def _check_trim(train: Train, data: Data, privacy: Privacy) -> None:
    """A trimmed mean needs updates that the server sees, and more hospitals than it leaves out."""
    if "train.trim" in ARMS[privacy.arm].ignores:
        raise ValueError(
            f"train.trim: the noise of {privacy.arm} is for a sum over all hospitals, and a "
            "trimmed mean is none; remove it"
        )
    if train.scheme != "federated":
        return  # a baseline of the same experiment has nobody to leave out
    if train.weighting == "size":
        raise ValueError("train.trim: a trimmed mean has no weights; use train.weighting = 'equal'")
    if 2 * train.trim >= data.hospitals:
        raise ValueError(
            f"train.trim: {train.trim} at both ends leave nobody of data.hospitals = "
            f"{data.hospitals}; use {(data.hospitals - 1) // 2} at most"
        )


def _check_summed(train: Train, arm: str) -> None:
    """The server takes the step, by ``train.optimizer``: nothing else moves the model."""
    plain = Train()
    keys = ("proximal", "ema", "server_optimizer", "server_learning_rate")
    for key in keys:
        if getattr(train, key) != getattr(plain, key):
            raise ValueError(
                f"train.{kebab(key)}: {arm} takes one step of train.optimizer at the server and "
                "does not read it; remove it"
            )
    if train.weighting == "size":
        raise ValueError(f"train.weighting: {arm} sums over patients, not hospitals; use 'equal'")


def check_norm(model: Model) -> None:
    """Frozen statistics come with weights, and belong to the weights as they were."""
    if model.norm != "frozen-batch":
        return
    if model.weights == "none":
        raise ValueError(
            "model.norm: 'frozen-batch' needs statistics from pretrained weights; set "
            "model.weights, or use 'group'"
        )
    if model.weight_standardisation:
        raise ValueError(
            "model.weight-standardisation: the statistics of 'frozen-batch' are those of the "
            "weights as they were; use model.norm = 'group'"
        )


def check_precision(train: Train, privacy: Privacy) -> None:
    """Opacus computes per-sample gradients in float32 alone."""
    clipped = "privacy.engine" in ARMS[privacy.arm].reads
    if train.precision != "float32" and clipped and privacy.engine == "opacus":
        raise ValueError(
            "train.precision: the engine 'opacus' computes in float32; set "
            "privacy.engine = 'fedmed'"
        )
