"""The tables of the configuration: every key, its default and its unit are written here alone."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmed.config.arms import ArmName, ImageNoise
from fedmed.config.names import Scheme, Seed, count, kebab, within


class Section(BaseModel):
    """A table of the configuration; unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        alias_generator=kebab, extra="forbid", frozen=True, strict=True, populate_by_name=True
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
    target: str = ""  # label(s) of a multi-label cohort that are trained on, split by '|'
    positive: str = ""  # table: the value(s) of the label column that mean disease, split by '|'
    uncertain: Literal["refuse", "negative", "positive", "ignore", "smooth"] = "refuse"
    uncertain_label: Annotated[float, within(1e-6, 1 - 1e-6)] = 0.5  # smooth: what training aims at
    patients: Annotated[int, Field(ge=20, le=1_000_000)] = 900  # phantom: number of patients
    image_size: Annotated[int, Field(ge=16, le=1024)] = 32  # pixels, square (or cube)
    dimensions: Literal[2, 3] = 2  # of the model's input; 3: volumes
    slices: Annotated[int, Field(ge=0, le=64)] = 0  # of a volume, as channels of a 2D model
    spacing: Annotated[float, within(0, 50)] = 0.0  # volumes: mm; 0 = the whole volume fits
    window_centre: Annotated[float, within(-4096, 32767)] = 40.0  # volumes in HU: black to
    window_width: Annotated[float, within(1e-3, 65536)] = 400.0  # white, HU
    hospitals: Annotated[int, Field(ge=1, le=1000)] = 2  # one per Flower node
    sites: str = ""  # deployed: the hospitals' names, comma separated; at a site its own alone
    site_keys: str = ""  # deployed: each hospital's node key, "NAME=SHA256:...,..."
    partition: Literal["site", "even", "label-skew", "size-skew"] = "site"
    partition_alpha: Annotated[float, within(1e-3, 1e6)] = (
        0.5  # concentration of the Dirichlet draw; smaller = more skew
    )
    split: Literal["given", "given-test", "patient"] = "given"
    validation_fraction: Annotated[float, within(1e-6, 0.499)] = 0.15
    test_fraction: Annotated[float, within(1e-6, 0.799)] = 0.25
    unknown_patients: Literal["refuse", "separate", "leave-out"] = "refuse"
    seed: Seed = 0  # fixes the phantom, the split and the hospitals; not the training

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of a deployed federation's hospitals; empty in a simulation."""
        return tuple(name.strip() for name in self.sites.split(",") if name.strip())

    @property
    def fingerprints(self) -> dict[str, str]:
        """The node key's fingerprint of each hospital that ``site_keys`` lists."""
        pairs = (pair.partition("=") for pair in self.site_keys.split(",") if pair.strip())
        return {name.strip(): key.strip() for name, _, key in pairs}

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels that are trained on, where there are several; empty for one."""
        names = tuple(name.strip() for name in self.target.split("|"))
        return names if len(names) > 1 else ()

    @property
    def outputs(self) -> int:
        """Logits of the model: one for each label."""
        return max(1, len(self.targets))


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
    rounds: Annotated[int, count(100_000)] = 4
    local_epochs: Annotated[float, within(1e-6, 1000)] = 2.0  # passes over the shard per round
    batch_size: Annotated[int, count(1_000_000)] = (
        16  # images; under dp-sgd the expected number of units in a step
    )
    optimizer: Literal["sgd", "adam", "adamw", "nadam"] = "sgd"
    learning_rate: Annotated[float, within(1e-12, 1e3)] = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # over the whole run
    warmup: Annotated[float, within(0, 0.999)] = 0.0  # share of the run's steps
    momentum: Annotated[float, within(0, 0.99999)] = 0.9  # sgd only
    weight_decay: Annotated[float, within(0, 1e3)] = 0.0  # adamw: apart from the gradient
    proximal: Annotated[float, within(0, 1e3)] = 0.0  # FedProx: pull towards the round's model
    augment: Literal["none", "flip", "shift", "flip-shift"] = "none"
    views: Annotated[int, Field(ge=1, le=64)] = 1  # dp-sgd: views of an image in one gradient
    precision: Literal["float32", "bfloat16"] = "float32"  # of training's forward pass
    ema: Annotated[float, within(0, 0.99999)] = 0.0  # decay of the parameters' average; 0 = none
    weighting: Literal["equal", "size"] = "equal"  # of the hospitals in the average
    largest_share: Annotated[float, Field(ge=0, le=1)] = (
        0.0  # of a round's weight for one hospital; 0 = a half where sizes are declared, else all
    )
    update_bound: Annotated[float, Field(ge=1, le=1e6)] = (
        10.0  # longest update, in median norms of the others', where no plan bounds it
    )
    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    server_learning_rate: Annotated[float, within(1e-12, 1e3)] = 1.0
    server_momentum: Annotated[float, within(0, 0.99999)] = 0.9  # adam: of the first moment
    server_second_moment: Annotated[float, within(0, 0.99999)] = 0.99  # adam: decay
    server_tau: Annotated[float, within(1e-12, 1e3)] = (
        1e-3  # adam: added to the root of the second moment
    )
    selection: Literal["last", "best-validation"] = "last"
    on_failure: Literal["stop", "continue"] = "stop"  # when a hospital fails in a round
    minimum_hospitals: Annotated[int, count(1000)] = (
        1  # with "continue": fewest updates that make a round
    )
    timeout: Annotated[float, within(1e-3, 1e7)] = 3600.0  # seconds to wait for a round's updates
    join_timeout: Annotated[float, within(1e-3, 1e7)] = (
        600.0  # seconds to wait for the hospitals before the first round
    )


class Privacy(Section):
    """The treatment of an arm; which keys count depends on ``arm``."""

    arm: ArmName = "none"
    epsilon: Annotated[float, within(1e-6, 1e9)] = 8.0
    noise_multiplier: Annotated[float, within(0, 1e4)] = (
        0.0  # 0 = from epsilon; else epsilon is the limit that this noise must keep
    )
    delta: Annotated[float, within(1e-12, 0.999)] = 1e-5
    unit: Literal["patient", "image"] = "patient"  # dp-sgd: whose data one epsilon protects
    images_per_patient: Annotated[int, Field(ge=0, le=64)] = (
        0  # cap in training, every arm; 0 = none
    )
    public_size: str = ""  # units that hospitals declare: "500", or "NAME=500,..."; empty = exact
    clipping_norm: Annotated[float, within(1e-6, 1e6)] = (
        1.0  # L2 norm of a unit's gradient (dp-sgd) or of an update
    )
    clip_quantile: Annotated[float, within(1e-3, 0.999)] = (
        0.5  # central-adaptive: the norm's target
    )
    clip_rate: Annotated[float, within(1e-6, 10)] = (
        0.2  # central-adaptive: how fast the norm follows
    )
    clip_share: Annotated[float, within(1e-3, 0.999)] = 0.1  # central-adaptive: budget of the norm
    maximum_noise_to_signal: Annotated[float, within(0, 1e12)] = (
        0.0  # a plan above it is impossible; 0 = no limit
    )
    image_mechanism: ImageNoise = "none"  # dp-sgd and update arms: noise the images too
    laplace_scale: Annotated[float, within(0, 1e15)] = (
        0.0  # of image noise, on [0, 1]; 0 = from epsilon
    )
    cell: Annotated[int, count(1024)] = 8  # dp-pix: side of the squares that are averaged, pixels
    neighbourhood: Annotated[int, count(2**30)] = (
        16  # dp-pix: how many differing pixels epsilon protects
    )
    clip_released: bool = False  # cut noised images to [0, 1] (post-processing)
    engine: Literal["fedmed", "opacus", "loop"] = "fedmed"  # of per-sample gradients
    clipping: Literal["flat", "automatic"] = "flat"  # dp-sgd: cut at the norm, or scaled to it
    physical_batch_size: Annotated[int, count(1024)] = (
        16  # images whose gradients are held in memory at once
    )
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
    epsilon: Annotated[float, within(0, 1e4)] = (
        0.0  # of the histograms, per evaluation patient; 0 = privacy.epsilon
    )
    delta: Annotated[float, within(0, 0.999)] = 0.0  # 0 = privacy.delta
    images_per_patient: Annotated[int, Field(ge=0, le=64)] = (
        0  # that count in histograms; 0 = privacy.images-per-patient, or 1 where noised, else all
    )
    attributes: str = "sex,age"  # histograms by these, comma separated; each costs accuracy
    specificity: Annotated[float, within(1e-6, 1 - 1e-6)] = 0.9  # sensitivity is also given there
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000  # behind each interval
    train_metrics: bool = False  # simulation only: training images too, which no epsilon covers
    noised_test: bool = False  # image mechanisms: test images noised as the training images are
    curves: bool = False  # accuracy and AUROC on test (and those sets) after every round as well

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
    hospitals_per_gpu: Annotated[int, count(1000)] = (
        1  # ray: simulated hospitals that share one GPU
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = (
        0  # CPU threads of torch per process; 0 = torch's choice
    )
    wire: Literal["float32", "bfloat16"] = "float32"  # of updates on their way to the server
    trackers: str = ""  # of fedmed run: tensorboard, mlflow, comma separated; each is an extra

    @property
    def tracked_by(self) -> tuple[str, ...]:
        """The trackers as names."""
        return tuple(name.strip() for name in self.trackers.split(",") if name.strip())
