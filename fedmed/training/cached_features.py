"""Features of a shard by a frozen body: computed once where the images are, then cached."""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmed.base import files
from fedmed.data.shard import Shard
from fedmed.federation.exchange import fingerprint
from fedmed.models.features import FeatureNetwork
from fedmed.training.local import to_input

log = logging.getLogger("fedmed.hospital")

VERSION = "2"  # of how features are computed: another one is another cache
_KEPT = 64

Pixels = NDArray[np.uint8] | NDArray[np.float32]
_digests: OrderedDict[int, tuple[Any, str]] = OrderedDict()  # the arrays too: ids are reused


def is_fixed(model: nn.Module, augment: str = "none") -> bool:
    """Whether training never changes what ``model`` makes of an image before its head."""
    return (
        isinstance(model, FeatureNetwork)
        and augment == "none"
        and not any(p.requires_grad for p in model.body.parameters())
    )


def featured(
    model: nn.Module, shard: Shard, channels: int, augment: str = "none", dimensions: int = 2
) -> Shard:
    """The shard with features (n, width) float32 in the place of its images.

    They are the present images' own: noised images have other features than clean ones, which are
    post-processing of the noise. The cache is keyed by the pixels, the body, its weights and how
    they are pooled, and lies where shards lie. A model that is not :func:`is_fixed` gets its
    images.
    """
    if not isinstance(model, FeatureNetwork) or not is_fixed(model, augment):
        return shard
    body = fingerprint(model.body.state_dict())
    words = (VERSION, body, model.body, model.pooling, model.feature_size)
    key = hashlib.sha256("|".join(map(str, (*words, channels, _digest(shard.images)))).encode())
    path = files.home() / "cache" / "features" / f"{key.hexdigest()[:32]}.npy"
    if not path.is_file():
        features = compute(model, shard.images, channels, dimensions)
        files.write_atomically(path, lambda temporary: _save(temporary, features))
    return replace(shard, images=np.load(path, mmap_mode="r", allow_pickle=False))


@torch.inference_mode()
def compute(
    model: FeatureNetwork, images: Pixels, channels: int, dimensions: int = 2
) -> NDArray[np.float32]:
    """Features (n, width) of images, always finite.

    An image whose features are not has zeros: that it overflows a network tells who it is, so that
    neither an error nor another shape may. Each image goes alone: kernels round by the size of a
    batch, and one image must not change another's features.
    """
    device = next(model.parameters()).device
    features = np.empty((len(images), model.width), dtype=np.float32)
    for row in range(len(images)):
        rows = slice(row, row + 1)
        given = to_input(images[rows], channels, device, dimensions)
        features[rows] = model.pooled(given).cpu().numpy()
    overflown = ~np.isfinite(features).all(axis=1)
    if overflown.any():
        log.warning("the features of %d images are not finite, and taken for 0", overflown.sum())
        features[overflown] = 0
    return features


def _digest(images: Pixels) -> str:
    """SHA-256 of the pixels, remembered for as long as the array is used."""
    known = _digests.get(id(images))
    if known is not None:
        return known[1]
    total = hashlib.sha256(f"{images.shape}{images.dtype}".encode())
    for start in range(0, len(images), 1024):
        total.update(np.ascontiguousarray(images[start : start + 1024]).data)
    _digests[id(images)] = images, total.hexdigest()
    if len(_digests) > _KEPT:
        _digests.popitem(last=False)
    return total.hexdigest()


def _save(path: Path, values: NDArray[np.float32]) -> None:
    with path.open("wb") as target:
        np.save(target, values)
