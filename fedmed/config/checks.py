"""What must fit together: no key is silently ignored, no combination without a meaning."""

import re

from fedmed.config.arms import ARMS
from fedmed.config.names import ATTRIBUTES, kebab
from fedmed.config.reading import nearest
from fedmed.config.sources import KEYS, SOURCES
from fedmed.config.tables import Columns, Data, Evaluation, Model, Privacy, Train


def check_paths(data: Data) -> None:
    """Every source that reads files is told where they are."""
    for key, what in SOURCES[data.source].needs.items():
        if not getattr(data, key):
            raise ValueError(f"data.{key}: the {data.source} source needs {what}; set it")


def check_source_keys(data: Data) -> None:
    """No key is silently ignored: what a source does not read must not be given."""
    for key, sources in KEYS.items():
        given = getattr(data, key) != Data.model_fields[key].default
        if given and data.source not in sources:
            raise ValueError(
                f"data.{kebab(key)}: the {data.source} source does not read it (only "
                f"{', '.join(sources)}); remove it"
            )
    if data.columns != Columns() and not SOURCES[data.source].columns:
        raise ValueError(
            f"data.columns: the {data.source} source has columns of its own; remove it"
        )


def check_labels(data: Data) -> None:
    """How labels are read is said in one way."""
    for key in ("negative", "separator"):
        if getattr(data, key) and not data.positive:
            raise ValueError(
                f"data.{key}: it goes with data.positive, the values that mean disease; set that, "
                f"or remove data.{key}"
            )
    if data.mapping and (data.positive or data.columns != Columns()):
        key = "positive" if data.positive else "columns"
        raise ValueError(
            f"data.{key}: data.mapping = '{data.mapping}' says where labels and columns are; "
            "remove one of the two"
        )


def check_depths(data: Data) -> None:
    """``data.bits-stored`` is a number of bits, or one for each site."""
    given = data.depths
    if len(given) < len([pair for pair in data.bits_stored.split(",") if pair.strip()]):
        raise ValueError("data.bits-stored: a site has two values; give each one")
    for bits in given.values():
        if bits not in {str(depth) for depth in range(9, 17)}:
            raise ValueError(
                f"data.bits-stored: '{bits}' is not a number of bits from 9 to 16; give '12', or "
                "'SITE=12, OTHER=16'"
            )


_LARGEST_CUBE = 256


def check_sites(data: Data, train: Train, privacy: Privacy, evaluation: Evaluation) -> None:
    """A deployed federation: every hospital has a name, and its data stay where they are."""
    names = data.site_names
    check_site_keys(data)
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
    if train.scheme == "pooled":
        raise ValueError(
            "train.scheme: 'pooled' needs all data in one place, and the hospitals of data.sites "
            "keep theirs; use 'federated' or 'local-only'"
        )
    if evaluation.where != "hospitals":
        raise ValueError(
            f"evaluation.where: '{evaluation.where}' needs images at the server, which "
            "has none where data.sites names hospitals; use 'hospitals'"
        )
    if privacy.public_size:
        raise ValueError(
            "privacy.public-size: hospitals of data.sites declare their own in their policies; "
            "remove it"
        )


def check_site_keys(data: Data) -> None:
    """Each hospital of a deployed federation has one node key, and no two the same."""
    if not data.site_keys:
        return
    given = data.fingerprints
    if set(given) != set(data.site_names) or data.site_keys.count("=") > len(given):
        raise ValueError(
            "data.site-keys: it must name each hospital of data.sites once, as "
            "NAME=SHA256:...; correct it, or leave it empty"
        )
    for name, key in given.items():
        if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", key):
            raise ValueError(
                f"data.site-keys: '{key}' of {name} is no fingerprint; give what ssh-keygen -lf "
                "prints of its node.pub"
            )
        if list(given.values()).count(key) > 1:
            raise ValueError(
                f"data.site-keys: {name} has the key of another hospital; give each its own"
            )


_MOST_LABELS = 1000


def check_targets(data: Data, evaluation: Evaluation) -> None:
    """Several labels are named once each, and scored by the server."""
    if data.outputs > _MOST_LABELS:
        raise ValueError(
            f"data.target: {data.outputs} labels are more than a model is built for; name "
            f"{_MOST_LABELS} or fewer"
        )
    if "" in data.targets or len(set(data.targets)) != len(data.targets):
        raise ValueError(
            f"data.target: '{data.target}' has an empty or a repeated name; give each label once, "
            "split by '|'"
        )
    if data.targets and evaluation.where != "server":
        raise ValueError(
            "evaluation.where: hospitals' histograms are of one label, data.target names "
            f"{len(data.targets)}; set evaluation.where = 'server', or name one label"
        )


def check_volumes(data: Data, model: Model) -> None:
    """Keys of volumes belong to volumes, and a model's channels to their slices."""
    volumes = data.dimensions == 3 or data.slices > 0
    if data.dimensions == 3 and data.slices:
        raise ValueError(
            "data.slices: takes slices of volumes as channels of a 2D model; set "
            "data.dimensions = 2, or remove it"
        )
    if volumes and (data.mapping or not SOURCES[data.source].volumes):
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
        name = f"data.{kebab(key)}"
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
_RESIDUAL_KEYS = ("norm", "activation", "weight_standardisation", "stem")
_MODEL_KEYS: dict[str, tuple[str, ...]] = {
    "norm": (*_RESIDUAL, "probe"),
    "activation": (*_RESIDUAL, "probe"),
    "weight_standardisation": (*_RESIDUAL, "probe"),
    "stem": (*_RESIDUAL, "probe"),
    "trains": (*_RESIDUAL, "squeezenet1_1"),
    "features": ("probe",),
    "scales": ("probe",),
    "standardise": ("probe",),
    "components": ("probe",),
    "feature_size": ("probe", "squeezenet1_1"),
    "pooling": ("probe", "squeezenet1_1"),
    "hidden": ("probe", "squeezenet1_1"),
}


def check_model(model: Model, train: Train) -> None:
    """No key that the architecture does not read, no probe of nothing."""
    default = Model()
    for key, names in _MODEL_KEYS.items():
        if model.name not in names and getattr(model, key) != getattr(default, key):
            raise ValueError(
                f"model.{kebab(key)}: the model '{model.name}' does not read it (only "
                f"{', '.join(names)}); remove it"
            )
    if model.pooling == "middle" and model.name == "squeezenet1_1" and model.trains != "head":
        raise ValueError(
            "model.pooling: 'middle' leaves the last stage out, and training it would do nothing; "
            "use 'stages', or model.trains = 'head'"
        )
    if model.trains == "norms" and (model.name not in _RESIDUAL or model.norm != "group"):
        raise ValueError(
            "model.trains: 'norms' trains the factors of group norm, and this model has none; use "
            "'head' or 'last-block', or a ResNet with model.norm = 'group'"
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
    for key in _RESIDUAL_KEYS if model.features not in _RESIDUAL else ():
        if getattr(model, key) != getattr(default, key):
            raise ValueError(
                f"model.{kebab(key)}: features of {model.features} do not rest on it; remove it"
            )
    if model.weights == "none" and model.features != "scattering":
        raise ValueError(
            "model.weights: a probe rests on pretrained features; give weights of "
            f"{model.features}, or set model.features = 'scattering', which has none"
        )
    if train.augment != "none":
        raise ValueError(
            "train.augment: a probe's features are computed once, from the images as they are; "
            "use 'none', or model.name = 'squeezenet1_1' with model.trains = 'head'"
        )


def check_privacy(privacy: Privacy, data: Data) -> None:
    """An arm that can be accounted, and noise that has a size."""
    arm, stacked = privacy.arm, privacy.image_mechanism
    row = ARMS[arm]
    if 0 < privacy.noise_multiplier < 0.01:
        raise ValueError(
            f"privacy.noise-multiplier: {privacy.noise_multiplier:g} is no noise; give 0.01 or "
            "more, or 0 to have it from privacy.epsilon"
        )
    if 0 < privacy.laplace_scale < 1e-5:
        raise ValueError(
            f"privacy.laplace-scale: {privacy.laplace_scale:g} is too near the resolution of "
            "float32 images; give 1e-05 or more, or 0 to have it from privacy.epsilon"
        )
    if row.plan in ("gradient", "summed", "update") and not 1e-4 <= privacy.epsilon <= 1e4:
        raise ValueError(
            f"privacy.epsilon: {privacy.epsilon:g} is outside 0.0001 to 10000, where {arm} can be "
            "accounted; choose one inside"
        )
    if row.samples and privacy.unit == "image" and not privacy.images_per_patient:
        raise ValueError(
            "privacy.images-per-patient: the image unit needs a declared cap on the images of one "
            "patient; set it, for example to 4"
        )
    if stacked != "none" and not row.stacks:
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


def check_names(key: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Every name of a list in one text is known, and named once."""
    for name in names:
        if name not in known or names.count(name) > 1:
            what = "named twice" if name in known else f"not known{nearest(name, known)}"
            raise ValueError(
                f"{key}: '{name}' is {what}; use each of {', '.join(known)} at most once, "
                "separated by commas"
            )


def check_evaluation(evaluation: Evaluation, privacy: Privacy, train: Train, model: Model) -> None:
    """An evaluation that its arm can pay, and that the rest of the run does without."""
    check_names("evaluation.attributes", evaluation.grouped_by, ATTRIBUTES)
    if evaluation.bins == 1:
        raise ValueError("evaluation.bins: 1 bin tells nothing apart; give 2 or more, or 0")
    if 0 < evaluation.delta < 1e-12:
        raise ValueError(
            f"evaluation.delta: {evaluation.delta:g} is below 1e-12, where nothing is accounted; "
            "give 1e-12 or more, or 0 for privacy.delta"
        )
    if evaluation.where == "server":
        return
    keys = ("redraw_threshold", "train_metrics", "noised_test", "curves")
    further = [kebab(key) for key in keys if getattr(evaluation, key)]
    if evaluation.where == "hospitals" and further:
        key = further[0]
        raise ValueError(
            f"evaluation.{key}: the server has no images (evaluation.where = 'hospitals'); remove "
            "it, or set evaluation.where = 'server'"
        )
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
    if ARMS[privacy.arm].protects and not 1e-4 <= epsilon <= 1e4:
        raise ValueError(
            f"evaluation.epsilon: {epsilon:g} (as privacy.epsilon) is outside 0.0001 to 10000, "
            "where histograms can be accounted; set it"
        )
