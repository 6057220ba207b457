"""One typed, validated run configuration: keys, defaults and units are written here alone.

Keys are kebab case and nested (``data.image-size``). The same keys serve ``pyproject.toml``'s
Flower run config, an experiment's TOML and ``--set``. An empty string means "not given".
"""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedmed.errors import UserError

Arm = Literal[
    "none",
    "pixel-laplace",
    "dp-pix",
    "brightness-shift",
    "dp-sgd",
    "local-update",
    "central-fixed",
    "central-adaptive",
]
Scheme = Literal["federated", "pooled", "local-only"]
Attribute = Literal["sex", "age", "sex_age", "view", "comorbidities"]
ATTRIBUTES: tuple[str, ...] = get_args(Attribute)
TRACKERS = ("tensorboard", "mlflow")
ARMS: tuple[str, ...] = get_args(Arm)
IMAGE_ARMS = ("pixel-laplace", "dp-pix", "brightness-shift")
UPDATE_ARMS = ("local-update", "central-fixed", "central-adaptive")
UNPROTECTED = ("none", "brightness-shift")

Scalar = str | int | float | bool
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Section(BaseModel):
    """A table of the configuration; unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        alias_generator=_kebab, extra="forbid", frozen=True, strict=True, populate_by_name=True
    )


class Columns(Section):
    """Names of a table's own columns for each column of the schema (``table`` source)."""

    image: str = ""
    label: str = ""
    finding: str = ""
    comorbidities: str = ""
    patient_id: str = ""
    age: str = ""
    sex: str = ""
    view: str = ""
    site: str = ""
    split: str = ""


class Data(Section):
    """Where images come from, how they are split, and which hospital holds which."""

    source: Literal["phantom", "medmnist", "kermany", "table"] = "phantom"
    path: str = ""  # medmnist: .npz or set name; kermany: folder or zip; table: CSV or Parquet
    images: str = ""  # table: folder or zip of the images
    index: str = ""  # medmnist: CSV with split, row, patient_id
    mapping: Literal["", "nih-chestxray14", "chexpert", "mimic-cxr-jpg"] = ""
    columns: Columns = Columns()
    target: str = ""  # which label of a multi-label cohort is trained on
    positive: str = ""  # table: the value(s) of the label column that mean disease, split by '|'
    uncertain: Literal["refuse", "negative", "positive", "ignore", "smooth"] = "refuse"
    uncertain_label: Annotated[float, Field(gt=0, lt=1)] = 0.5  # smooth: what training aims at
    patients: Annotated[int, Field(ge=20)] = 900  # phantom: number of patients
    image_size: Annotated[int, Field(ge=16, le=1024)] = 32  # pixels, square (or cube)
    dimensions: Literal[2, 3] = 2  # of the model's input; 3: volumes
    slices: Annotated[int, Field(ge=0, le=64)] = 0  # of a volume, as channels of a 2D model
    spacing: Annotated[float, Field(ge=0, le=50)] = 0.0  # volumes: mm; 0 = the whole volume fits
    window_centre: Annotated[float, Field(ge=-4096, le=32767)] = 40.0  # volumes in HU: black to
    window_width: Annotated[float, Field(gt=0, le=65536)] = 400.0  # white, HU
    hospitals: Annotated[int, Field(ge=1, le=1000)] = 2  # one per Flower node
    sites: str = ""  # deployed: the hospitals' names, comma separated; at a site its own alone
    partition: Literal["site", "even", "label-skew", "size-skew"] = "site"
    partition_alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = (
        0.5  # concentration of the Dirichlet draw; smaller = more skew
    )
    split: Literal["given", "given-test", "patient"] = "given"
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.15
    test_fraction: Annotated[float, Field(gt=0, lt=0.8)] = 0.25
    unknown_patients: Literal["refuse", "separate", "leave-out"] = "refuse"
    seed: Seed = 0  # fixes the phantom, the split and the hospitals; not the training

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of a deployed federation's hospitals; empty in a simulation."""
        return tuple(name.strip() for name in self.sites.split(",") if name.strip())


class Model(Section):
    """The classifier."""

    name: Literal["resnet18", "resnet9", "squeezenet1_1", "probe"] = "resnet18"
    norm: Literal["group", "frozen-batch"] = "group"
    activation: Literal["relu", "mish"] = "relu"
    weight_standardisation: bool = False  # of convolutions; Qiao et al. 2019
    stem: Literal["auto", "imagenet", "small"] = "auto"
    channels: Annotated[int, Field(ge=1, le=64)] = 1  # 1, 3, or data.slices
    weights: str = "none"  # none, imagenet, pretrain, or a local .pth, .safetensors or .npz file
    weights_origin: str = ""  # what the statement says of them: data, consent, who declared it
    trains: Literal["all", "last-block", "head"] = "all"  # the rest stays as it is
    features: Literal["squeezenet1_1", "resnet18", "resnet9"] = "squeezenet1_1"  # of a probe
    feature_size: Annotated[int, Field(ge=0, le=1024)] = 0  # pixels, enlarged first; 0 = as is
    pooling: Literal["mean", "stages", "grid"] = "mean"
    standardise: Literal["layer", "validation"] = "layer"  # features of a probe
    components: Annotated[int, Field(ge=0, le=4096)] = 0  # "validation": how many; 0 = all
    hidden: Annotated[int, Field(ge=0, le=4096)] = 0  # units of a hidden layer; 0 = none


class Train(Section):
    """The recipe every arm shares."""

    scheme: Scheme = "federated"
    rounds: Count = 4
    local_epochs: Annotated[float, Field(gt=0, le=1000)] = 2.0  # passes over the shard per round
    batch_size: Count = 16  # images; under dp-sgd the expected number of units in a step
    optimizer: Literal["sgd", "adam", "adamw", "nadam"] = "sgd"
    learning_rate: Positive = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # over the whole run
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the run's steps
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # sgd only
    weight_decay: NotNegative = 0.0  # adamw: apart from the gradient
    proximal: NotNegative = 0.0  # FedProx: pull towards the round's model
    augment: Literal["none", "flip", "shift", "flip-shift"] = "none"
    views: Annotated[int, Field(ge=1, le=64)] = 1  # dp-sgd: views of an image in one gradient
    precision: Literal["float32", "bfloat16"] = "float32"  # of training's forward pass
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the parameters' average; 0 = none
    weighting: Literal["equal", "size"] = "equal"  # of the hospitals in the average
    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # adam: of the first moment
    server_second_moment: Annotated[float, Field(ge=0, lt=1)] = 0.99  # adam: decay
    server_tau: Positive = 1e-3  # adam: added to the root of the second moment
    selection: Literal["last", "best-validation"] = "last"
    on_failure: Literal["stop", "continue"] = "stop"  # when a hospital fails in a round
    minimum_hospitals: Count = 1  # with "continue": fewest updates that make a round
    timeout: Positive = 3600.0  # seconds to wait for a round's updates
    join_timeout: Positive = 600.0  # seconds to wait for the hospitals before the first round


class Privacy(Section):
    """The treatment of an arm; which keys count depends on ``arm``."""

    arm: Arm = "none"
    epsilon: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = 8.0
    noise_multiplier: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)] = (
        0.0  # 0 = from epsilon; else epsilon is the limit that this noise must keep
    )
    delta: Annotated[float, Field(ge=1e-12, lt=1)] = 1e-5
    unit: Literal["patient", "image"] = "patient"  # dp-sgd: whose data one epsilon protects
    images_per_patient: Annotated[int, Field(ge=0, le=64)] = (
        0  # cap in training, every arm; 0 = none
    )
    public_size: str = ""  # units that hospitals declare: "500", or "NAME=500,..."; empty = exact
    clipping_norm: Positive = 1.0  # L2 norm of a unit's gradient (dp-sgd) or of an update
    clip_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5  # central-adaptive: the norm's target
    clip_rate: Positive = 0.2  # central-adaptive: how fast the norm follows
    clip_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # central-adaptive: budget of the norm
    maximum_noise_to_signal: NotNegative = 0.0  # a plan above it is impossible; 0 = no limit
    image_mechanism: Literal["none", "pixel-laplace", "dp-pix", "brightness-shift"] = (
        "none"  # dp-sgd and update arms: noise the images too
    )
    laplace_scale: NotNegative = 0.0  # of image noise, on [0, 1]; 0 = from epsilon
    cell: Count = 8  # dp-pix: side of the squares that are averaged, pixels
    neighbourhood: Count = 16  # dp-pix: how many differing pixels epsilon protects
    clip_released: bool = False  # cut noised images to [0, 1] (post-processing)
    engine: Literal["fedmed", "opacus", "loop"] = "fedmed"  # of per-sample gradients
    clipping: Literal["flat", "automatic"] = "flat"  # dp-sgd: cut at the norm, or scaled to it
    bad_gradients: Literal["refuse", "drop"] = "refuse"  # dp-sgd: one that is not finite
    physical_batch_size: Count = 16  # images whose gradients are held in memory at once
    reproducible_noise: bool = False  # simulation only; then no epsilon against who knows the seed


class Evaluation(Section):
    """Who evaluates, on which images, and what hospitals may tell about theirs."""

    where: Literal["server", "hospitals", "both"] = (
        "server"  # on its own images; from the hospitals' histograms; both, to compare (simulation)
    )
    bins: Annotated[int, Field(ge=0, le=4096)] = 0  # of a histogram; 0 = 32 where noised, else 256
    binning: Literal["public", "equal-width"] = (
        "public"  # edges where the model scores synthetic images, or even in the score
    )
    epsilon: Annotated[float, Field(ge=0, le=1e4, allow_inf_nan=False)] = (
        0.0  # of the histograms, per evaluation patient; 0 = privacy.epsilon
    )
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0  # 0 = privacy.delta
    images_per_patient: Annotated[int, Field(ge=0, le=64)] = (
        0  # that count in histograms; 0 = privacy.images-per-patient, or 1 where noised, else all
    )
    attributes: str = "sex,age"  # histograms by these, comma separated; each costs accuracy
    specificity: Annotated[float, Field(gt=0, lt=1)] = 0.9  # sensitivity is also given there
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000  # behind each interval

    @property
    def grouped_by(self) -> tuple[str, ...]:
        """The attributes as names."""
        return tuple(name.strip() for name in self.attributes.split(",") if name.strip())


class Run(Section):
    """This run: its seed, its place and its machine."""

    seed: Seed = 0
    ledgers: str = ""  # folder of the hospitals' ledgers; empty = with the results
    policies: str = ""  # folder of the hospitals' policies, NAME.toml; empty = none
    sites: str = ""  # simulation: folder of the hospitals' own settings, NAME.toml; empty = none
    pretrained: str = ""  # weights that "pretrain" stands for; set by an experiment's [pretrain]
    out: str = ""  # run directory; empty = a folder of its own under fedmed's home
    device: Literal["auto", "cpu", "cuda"] = "auto"
    hospitals_per_gpu: Count = 1  # ray: simulated hospitals that share one GPU
    threads: Annotated[int, Field(ge=0)] = 0  # CPU threads of torch per process; 0 = torch's choice
    wire: Literal["float32", "bfloat16"] = "float32"  # of updates on their way to the server
    trackers: str = ""  # of fedmed run: tensorboard, mlflow, comma separated; each is an extra

    @property
    def tracked_by(self) -> tuple[str, ...]:
        """The trackers as names."""
        return tuple(name.strip() for name in self.trackers.split(",") if name.strip())


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
        arm, train, data = self.privacy.arm, self.train, self.data
        if train.weighting == "size" and arm.startswith("central-"):
            raise ValueError(
                "train.weighting: 'size' makes one hospital's share larger than the noise of "
                f"{arm} covers; use 'equal'"
            )
        declared = self.privacy.public_size or data.sites  # a site's policy declares its own
        if train.weighting == "size" and arm not in UNPROTECTED and not declared:
            raise ValueError(
                f"train.weighting: 'size' tells the hospitals' sizes, which {arm} does not "
                "protect; declare them in privacy.public-size, or use 'equal'"
            )
        if train.scheme != "federated" and arm in UPDATE_ARMS:
            raise ValueError(
                f"train.scheme: '{train.scheme}' has no exchange of updates for {arm} to "
                "protect; use 'federated'"
            )
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
        if self.model.norm == "frozen-batch" and self.model.weights == "none":
            raise ValueError(
                "model.norm: 'frozen-batch' needs statistics from pretrained weights; set "
                "model.weights, or use 'group'"
            )
        if self.model.norm == "frozen-batch" and self.model.weight_standardisation:
            raise ValueError(
                "model.weight-standardisation: the statistics of 'frozen-batch' are those of the "
                "weights as they were; use model.norm = 'group'"
            )
        if train.precision != "float32" and arm == "dp-sgd" and self.privacy.engine == "opacus":
            raise ValueError(
                "train.precision: the engine 'opacus' computes in float32; set "
                "privacy.engine = 'fedmed'"
            )
        if data.source == "table" and not data.path:
            raise ValueError("data.path: the table source needs a CSV or Parquet file; set it")
        if data.source == "table" and not data.images:
            raise ValueError("data.images: the table source needs a folder or zip; set it")
        if data.source in ("medmnist", "kermany") and not data.path:
            raise ValueError(f"data.path: the {data.source} source needs it; set it")
        _check_source_keys(data)
        _check_sites(self)
        _check_volumes(data, self.model)
        _check_model(self.model, train)
        _check_privacy(self.privacy, data)
        _check_evaluation(self.evaluation, self.privacy, train, self.model)
        _check_names("run.trackers", self.run.tracked_by, TRACKERS)
        return self

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


_SOURCE_KEYS = {
    "path": ("medmnist", "kermany", "table"),
    "images": ("table",),
    "index": ("medmnist", "kermany"),
    "mapping": ("table",),
    "positive": ("table",),
}


def _check_source_keys(data: Data) -> None:
    """No key is silently ignored: what a source does not read must not be given."""
    for key, sources in _SOURCE_KEYS.items():
        if getattr(data, key) and data.source not in sources:
            raise ValueError(
                f"data.{key}: the {data.source} source does not read it (only "
                f"{', '.join(sources)}); remove it"
            )
    if data.columns != Columns() and data.source != "table":
        raise ValueError(
            f"data.columns: the {data.source} source has columns of its own; remove it"
        )


def _check_sites(settings: Settings) -> None:
    """A deployed federation: every hospital has a name, and its data stay where they are."""
    data, names = settings.data, settings.data.site_names
    if not names:
        return
    for name in names:
        if names.count(name) > 1 or name == "pooled":
            what = "is named twice" if name != "pooled" else "means all data in one place"
            raise ValueError(f"data.sites: '{name}' {what}; give every hospital a name of its own")
    if len(names) not in (1, data.hospitals):
        raise ValueError(
            f"data.hospitals: {data.hospitals} is not the {len(names)} that data.sites names; set "
            f"data.hospitals = {len(names)}"
        )
    if settings.train.scheme == "pooled":
        raise ValueError(
            "train.scheme: 'pooled' needs all data in one place, and the hospitals of data.sites "
            "keep theirs; use 'federated' or 'local-only'"
        )
    if settings.evaluation.where != "hospitals":
        raise ValueError(
            f"evaluation.where: '{settings.evaluation.where}' needs images at the server, which "
            "has none where data.sites names hospitals; use 'hospitals'"
        )
    if settings.privacy.public_size:
        raise ValueError(
            "privacy.public-size: hospitals of data.sites declare their own in their policies; "
            "remove it"
        )


_LARGEST_CUBE = 256


def _check_volumes(data: Data, model: Model) -> None:
    """Keys of volumes belong to volumes, and a model's channels to their slices."""
    volumes = data.dimensions == 3 or data.slices > 0
    if data.dimensions == 3 and data.slices:
        raise ValueError(
            "data.slices: takes slices of volumes as channels of a 2D model; set "
            "data.dimensions = 2, or remove it"
        )
    if volumes and (data.source == "kermany" or data.mapping):
        raise ValueError(
            f"data.dimensions: {data.mapping or data.source} has flat images; set "
            "data.dimensions = 2 and data.slices = 0"
        )
    if data.dimensions == 3 and data.image_size > _LARGEST_CUBE:
        raise ValueError(
            f"data.image-size: a cube of {data.image_size} is too large to train on; use "
            f"{_LARGEST_CUBE} or less"
        )
    plain = Data()
    for key in ("spacing", "window_centre", "window_width"):
        if getattr(data, key) == getattr(plain, key):
            continue
        name = f"data.{_kebab(key)}"
        if not volumes:
            raise ValueError(f"{name}: only volumes have it; set data.dimensions = 3, or remove it")
        if data.source == "medmnist":
            raise ValueError(f"{name}: MedMNIST's volumes are prepared already; remove it")
    if data.slices and model.channels != data.slices:
        raise ValueError(
            f"model.channels: {model.channels} is not data.slices = {data.slices}, which are the "
            "model's channels; set both alike"
        )
    if not data.slices and model.channels not in (1, 3):
        raise ValueError(f"model.channels = {model.channels}: it must be 1 or 3; correct it")
    if data.uncertain_label != plain.uncertain_label and data.uncertain != "smooth":
        raise ValueError("data.uncertain-label: read by data.uncertain = 'smooth' only; remove it")


_RESIDUAL = ("resnet18", "resnet9")
_MODEL_KEYS: dict[str, tuple[str, ...]] = {
    "norm": (*_RESIDUAL, "probe"),
    "activation": (*_RESIDUAL, "probe"),
    "weight_standardisation": (*_RESIDUAL, "probe"),
    "stem": (*_RESIDUAL, "probe"),
    "trains": (*_RESIDUAL, "squeezenet1_1"),
    "features": ("probe",),
    "standardise": ("probe",),
    "components": ("probe",),
    "feature_size": ("probe", "squeezenet1_1"),
    "pooling": ("probe", "squeezenet1_1"),
    "hidden": ("probe", "squeezenet1_1"),
}


def _check_model(model: Model, train: Train) -> None:
    """No key that the architecture does not read, no probe of nothing."""
    default = Model()
    for key, names in _MODEL_KEYS.items():
        if model.name not in names and getattr(model, key) != getattr(default, key):
            raise ValueError(
                f"model.{_kebab(key)}: the model '{model.name}' does not read it (only "
                f"{', '.join(names)}); remove it"
            )
    if model.components and model.standardise != "validation":
        raise ValueError(
            "model.components: principal components come with model.standardise = 'validation'; "
            "set that, or remove it"
        )
    if model.weights_origin and model.weights == "none":
        raise ValueError("model.weights-origin: there are no weights; set model.weights")
    if model.name != "probe":
        return
    if model.weights == "none":
        raise ValueError(
            f"model.weights: a probe rests on pretrained features; give weights of {model.features}"
        )
    if train.augment != "none":
        raise ValueError(
            "train.augment: a probe's features are computed once, from the images as they are; "
            "use 'none', or model.name = 'squeezenet1_1' with model.trains = 'head'"
        )


_PRIVATE_TRAINING = ("dp-sgd", *UPDATE_ARMS)
READ_BY: dict[str, tuple[str, ...]] = {
    "train.views": ("dp-sgd",),
    "privacy.epsilon": tuple(arm for arm in ARMS if arm != "none"),
    "privacy.noise-multiplier": _PRIVATE_TRAINING,
    "privacy.maximum-noise-to-signal": _PRIVATE_TRAINING,
    "privacy.image-mechanism": _PRIVATE_TRAINING,
    "privacy.unit": ("dp-sgd",),
    "privacy.clipping-norm": _PRIVATE_TRAINING,
    "privacy.clip-quantile": ("central-adaptive",),
    "privacy.clip-rate": ("central-adaptive",),
    "privacy.clip-share": ("central-adaptive",),
    "privacy.laplace-scale": IMAGE_ARMS,
    "privacy.clip-released": IMAGE_ARMS,
    "privacy.cell": ("dp-pix",),
    "privacy.neighbourhood": ("dp-pix",),
    "privacy.engine": ("dp-sgd",),
    "privacy.clipping": ("dp-sgd",),
    "privacy.bad-gradients": ("dp-sgd",),
    "privacy.physical-batch-size": ("dp-sgd",),
}
"""Which arms (or image mechanisms) read a key; keys that are absent are read by all."""


def _check_privacy(privacy: Privacy, data: Data) -> None:
    arm, stacked = privacy.arm, privacy.image_mechanism
    if 0 < privacy.noise_multiplier < 0.01:
        raise ValueError(
            f"privacy.noise-multiplier: {privacy.noise_multiplier:g} is no noise; give 0.01 or "
            "more, or 0 to have it from privacy.epsilon"
        )
    if arm in ("dp-sgd", *UPDATE_ARMS) and not 1e-4 <= privacy.epsilon <= 1e4:
        raise ValueError(
            f"privacy.epsilon: {privacy.epsilon:g} is outside 0.0001 to 10000, where {arm} can be "
            "accounted; choose one inside"
        )
    if arm == "dp-sgd" and privacy.unit == "image" and not privacy.images_per_patient:
        raise ValueError(
            "privacy.images-per-patient: the image unit needs a declared cap on the images of one "
            "patient; set it, for example to 4"
        )
    if stacked != "none" and arm not in ("dp-sgd", *UPDATE_ARMS):
        raise ValueError(
            f"privacy.image-mechanism: the arm {arm} has no mechanism to stack it on; "
            "remove it, or use dp-sgd or an update arm"
        )
    if stacked != "none" and not privacy.laplace_scale:
        raise ValueError(
            "privacy.laplace-scale: epsilon belongs to the arm, so the images' noise needs a "
            "scale of its own; set it"
        )
    if "dp-pix" in (arm, stacked):
        if data.image_size % privacy.cell:
            raise ValueError(
                f"privacy.cell: {privacy.cell} does not divide data.image-size = "
                f"{data.image_size}; choose a divisor"
            )
        points = data.image_size**data.dimensions * max(1, data.slices)
        if privacy.neighbourhood > points:
            raise ValueError(
                f"privacy.neighbourhood: {privacy.neighbourhood} is more than the image's "
                f"{points} pixels; lower it"
            )


def _check_names(key: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known or names.count(name) > 1:
            what = "named twice" if name in known else f"not known{nearest(name, known)}"
            raise ValueError(
                f"{key}: '{name}' is {what}; use each of {', '.join(known)} at most once, "
                "separated by commas"
            )


def _check_evaluation(evaluation: Evaluation, privacy: Privacy, train: Train, model: Model) -> None:
    _check_names("evaluation.attributes", evaluation.grouped_by, ATTRIBUTES)
    if evaluation.bins == 1:
        raise ValueError("evaluation.bins: 1 bin tells nothing apart; give 2 or more, or 0")
    if evaluation.where == "server":
        return
    if evaluation.where == "hospitals" and train.selection != "last":
        raise ValueError(
            f"train.selection: '{train.selection}' needs a validation AUROC in every round, which "
            "hospitals do not give (evaluation.where = 'hospitals'); use 'last'"
        )
    if evaluation.where == "hospitals" and model.standardise == "validation":
        raise ValueError(
            "model.standardise: 'validation' needs the server's validation images, which "
            "evaluation.where = 'hospitals' leaves it without; use 'layer'"
        )
    epsilon = evaluation.epsilon or privacy.epsilon
    if privacy.arm not in UNPROTECTED and not 1e-4 <= epsilon <= 1e4:
        raise ValueError(
            f"evaluation.epsilon: {epsilon:g} (as privacy.epsilon) is outside 0.0001 to 10000, "
            "where histograms can be accounted; set it"
        )


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested dict to one with dotted keys."""
    flat: dict[str, Scalar] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: dict[str, Any], where: str) -> dict[str, Any]:
    """Dict with dotted keys to a nested one."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        put(nested, key, value, where)
    return nested


def put(nested: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key in a nested dict; raises :class:`UserError` where a part is no table."""
    *parents, last = key.split(".")
    table = nested
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"{where}: '{key}' goes through '{part}', which is not a table")
    table[last] = value


def parse(nested: dict[str, Any], where: str) -> Settings:
    """Validate a nested dict; raises :class:`UserError` naming the first wrong key and remedy."""
    try:
        return Settings.model_validate(widen(nested, Settings), by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from error


def from_flat(flat: dict[str, Any], where: str = "run config") -> Settings:
    """Validate a run config with dotted keys."""
    return parse(unflatten(flat, where), where)


def parse_assignment(text: str) -> tuple[str, Scalar]:
    """``key=value`` of ``--set``; the value is read as TOML, else as text."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise UserError(f"--set {text}: write it as key=value, for example train.rounds=3")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    if not isinstance(parsed, str | int | float | bool):
        raise UserError(f"--set {text}: give one number, true, false or text")
    return key.strip(), parsed


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises :class:`UserError` naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an experiment's TOML") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; give the path of an experiment's TOML") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check path and rights"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}; correct that line") from error


def explain(error: ValidationError) -> str:
    """The first validation error in one line: key, what is wrong, what to do."""
    first = error.errors()[0]
    key = ".".join(_kebab(str(part)) for part in first["loc"])
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden":
        spelt = ".".join(str(part) for part in first["loc"])
        return f"unknown key '{spelt}'; remove it or correct the spelling (keys are kebab case)"
    if kind == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        return f"{key} = {given!r} is not known; use {first['ctx']['expected']}"
    message = str(first["msg"]).replace("Input should be", "it must be")
    return f"{key} = {given!r}: {message}; correct it"


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean '...'?`` where a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def widen(nested: Any, section: type[BaseModel]) -> Any:
    """Let ``1`` stand for ``1.0`` where a fraction is expected (TOML tells them apart)."""
    if not isinstance(nested, dict):
        return nested
    fields = {_kebab(name): field for name, field in section.model_fields.items()}
    widened: dict[str, Any] = {}
    for key, value in nested.items():
        field = fields.get(key)
        kind = None if field is None else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            value = widen(value, kind)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            # A number beyond the range of float stays as it is, and is refused with its key.
            value = float(value) if abs(value) < 2**1023 else value
        widened[key] = value
    return widened
