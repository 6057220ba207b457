"""Every patient as one noised vector and one noised label, and the linear head that fits them.

What a hospital gives away is drawn once, before anything is trained
(:class:`fedmed.privacy.mechanisms.features.FeatureLaplace`). Body and projection come with the
server's model, and a server may choose them as it likes: the guarantee rests on the clipping after
them alone, and with another body or projection it is another release, which is paid for.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmed.base.errors import RunError
from fedmed.config import Settings
from fedmed.data import pools
from fedmed.data.shard import Shard
from fedmed.federation.exchange import fingerprint
from fedmed.models.features import FeatureNetwork
from fedmed.privacy.mechanisms.features import FeatureLaplace, Released
from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.plans.features import FeaturePlan
from fedmed.training.cached_features import featured
from fedmed.training.local import LocalResult

_SLOPE = 4.0  # of the logit at a half, where the probability's is 1
_SMALLEST = 1e-6  # share of the whole variance below which no component is enlarged


def release_name(model: nn.Module, settings: Settings, mechanism: FeatureLaplace) -> str:
    """Name of the release that ``mechanism`` makes of what ``model`` makes of films.

    Everything that a film goes through has a part in it: the body and its weights, the projection,
    and the form of images.
    """
    network = _network(model)
    frozen = {n: v for n, v in network.state_dict().items() if not n.startswith("fc.")}
    data = settings.data
    form = (settings.model.channels, data.image_size, data.dimensions, data.slices)
    told = (network.body, network.pooling, network.feature_size, *form, fingerprint(frozen))
    words = "|".join(map(str, told))
    return f"{mechanism.key}-{hashlib.sha256(words.encode()).hexdigest()[:32]}"


def released_features(
    model: nn.Module,
    shard: Shard,
    settings: Settings,
    plan: FeaturePlan,
    source: NoiseSource,
    before: Callable[[str, str], None],
    *,
    member: str,
) -> Shard:
    """The shard with a row per place of the plan: noised vectors (n, k) float32, signed by their
    labels, and noised labels.

    A patient who was released before by this mechanism, body and projection, with the same films
    and label, shows the same noise again. ``before`` hears, before any noise is drawn, the name of
    the release and a name for those patients of it that are new (empty: none is). Raises
    :class:`UserError` where the file of the release cannot be used.
    """
    mechanism = plan.mechanism
    patients = _taking_part(shard, plan.units)
    items = [_identity(shard, rows) for _, rows in patients]
    # Hospitals of a simulation have one pool: the same noise at two would show empty places.
    items += [f"nobody-{member}-{place}" for place in range(plan.units - len(items))]
    with pools.opened(release_name(model, settings, mechanism), source) as pool:
        new = pool.new(items)
        before(pool.name, new)
        vectors = _vectors(model, shard, settings, [r for _, r in patients]) if new else None

        def draw(place: int) -> bytes:
            context = (pool.name.partition(":")[0], items[place])
            if vectors is None or place >= len(patients):
                return mechanism.nobody(source, *context).packed()
            answer = bool((shard.labels[patients[place][1]] >= 0.5).any())
            return mechanism.release(vectors[place], answer, source, *context).packed()

        # By what was drawn, and not by patients: a place says nothing of who has it, and sums of
        # floating point rest on the order.
        drawn = [Released.of(value) for value in sorted(pool.values(items, draw))]
    steps = np.stack([one.steps for one in drawn])
    answers = np.array([one.answer for one in drawn], dtype=np.int64)
    names = pd.Series([f"place-{place}" for place in range(len(drawn))], dtype="string")
    table = pd.DataFrame({"image": names, "patient_id": names, "label": answers})
    return Shard(shard.key, mechanism.vectors(steps).astype(np.float32), table)


def fit_released(model: nn.Module, shard: Shard, plan: FeaturePlan) -> LocalResult:
    """Set the head of ``model`` to the linear discriminant of a released shard, in one step.

    With features x around the mean of public images, labels y and the covariance V of public
    images, which the projection tells, least squares have the slope w = V^-1 cov(x, y). As
    cov(x, y) = E[(2 y - 1) x] / 2 - (E[y] - 1/2) E[x], it is half the mean of the signed vectors
    (n, k) that were released, where the hospital's patients are like the public images in the mean
    (E[x] = 0). Noise has mean 0, so that this is unbiased; V holds none that would have to be taken
    out. A logit is 4 (P - 1/2) for the probability P that was fitted (its tangent at a half), whose
    mean is that of the unbiased labels. Whatever was released is finite, and so is the head.
    """
    network = _network(model)
    answers = plan.mechanism.unbiased(shard.labels.astype(np.float64))
    share = float(np.clip(answers.mean(), 0.0, 1.0))
    slope = shard.images.astype(np.float64).mean(0) / 2 / public_variance(network)
    head = network.fc
    if not isinstance(head, nn.Linear):
        raise RunError("a head with a hidden layer cannot be solved for; set model.hidden = 0")
    with torch.no_grad():
        head.weight.copy_(_tensor(_SLOPE * slope[None], head.weight))
        head.bias.copy_(_tensor(_SLOPE * np.array([share - 0.5]), head.bias))
    return LocalResult(1, None)


def public_variance(network: FeatureNetwork) -> NDArray[np.float64]:
    """Variances (k,) of the projected features of the public images that the projection is from.

    They sum to 1, and each is in proportion to the root of its component's variance, as
    :func:`fedmed.models.features.standardise` has it; a column of the projection has the inverse
    fourth root as its length.
    """
    lengths = network.project.detach().cpu().double().square().sum(0).numpy()
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        roots = np.where(lengths > 0, 1 / lengths, 0.0)
        shares = roots / roots.sum()
    shares = np.where(np.isfinite(shares), shares, 1.0)
    result: NDArray[np.float64] = np.maximum(shares, _SMALLEST)
    return result


def _taking_part(shard: Shard, places: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Patients and their rows, where there are more than ``places`` those whose hash is smallest.

    The order depends on each patient alone: one more takes the place of one at most.
    """
    named = [(str(shard.table["patient_id"].iloc[rows[0]]), rows) for rows in shard.patients()]
    named.sort(key=lambda one: hashlib.sha256(f"place|{one[0]}".encode()).digest())
    return named[:places]


def _identity(shard: Shard, rows: NDArray[np.int64]) -> str:
    """What tells a patient's data from all others: the name, the films and their labels."""
    table = shard.table.iloc[rows]
    films = sorted(
        hashlib.sha256(f"{name}|{label}|".encode() + shard.images[row].tobytes()).hexdigest()
        for name, label, row in zip(table["image"], shard.labels[rows], rows, strict=True)
    )
    patient = str(table["patient_id"].iloc[0])
    return hashlib.sha256("|".join([patient, *films]).encode()).hexdigest()


def _vectors(
    model: nn.Module, shard: Shard, settings: Settings, patients: list[NDArray[np.int64]]
) -> list[NDArray[np.float64]]:
    """The mean of each patient's projected features (k,), nothing of it bounded yet.

    Each patient's are computed alone, as products of matrices round by how many there are.
    """
    network, data = _network(model), settings.data
    features = featured(model, shard, settings.model.channels, "none", data.dimensions).images
    centre = network.centre.detach().cpu().double().numpy()
    project = network.project.detach().cpu().double().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        return [
            ((features[rows].astype(np.float64).mean(0) - centre) @ project) for rows in patients
        ]


def _network(model: nn.Module) -> FeatureNetwork:
    if not isinstance(model, FeatureNetwork) or model.standard != "validation":
        raise RunError("only a probe with model.standardise = 'validation' can be released")
    return model


def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)
