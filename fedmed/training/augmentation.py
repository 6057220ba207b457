"""Random views of a batch of images or volumes."""

import random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

SHIFT = 1 / 8  # of the side: the largest move, as 4 pixels of 32 (He et al. 2016)


def augment(images: Tensor, kind: str, views: int, draws: np.random.Generator) -> Tensor:
    """``views`` random views of each of ``images`` (n, channels, *sides), in consecutive rows.

    ``kind`` names what is done, joined by "-": "flip" mirrors the last axis of every second image,
    "shift" moves by up to an eighth of each side and repeats the border. "none" repeats the images.

    Every row has draws of its own. For DP-SGD they must come from a secret generator: were they
    known and tied to the place in the batch, a patient's absence would change the others' views.
    """
    result = images.repeat_interleave(views, dim=0) if views > 1 else images
    if kind == "none" or not len(result):
        return result
    if "flip" in kind:
        chosen = torch.from_numpy(draws.random(len(result)) < 0.5)
        mask = chosen.to(result.device).view(-1, *[1] * (result.dim() - 1))
        result = torch.where(mask, result.flip(-1), result)
    if "shift" in kind:
        result = _shifted(result, draws)
    return result


def seeded(seed: int, context: tuple[str | int, ...]) -> np.random.Generator:
    """A generator of the experiment's seed and ``context``, where views are no secret.

    That is wherever no patient hides in a sample: not for DP-SGD.
    """
    words = ":".join(str(part) for part in ("augmentation", seed, *context))
    return np.random.default_rng(random.Random(words).getrandbits(64))


def _shifted(images: Tensor, draws: np.random.Generator) -> Tensor:
    sides = images.shape[2:]
    reach = [max(1, int(side * SHIFT)) for side in sides]
    widths = [width for width in reversed(reach) for _ in range(2)]  # last axis first
    result = pad(images, widths, mode="replicate")
    for axis, (side, width) in enumerate(zip(sides, reach, strict=True), start=2):
        moves = torch.from_numpy(draws.integers(2 * width + 1, size=(len(images), 1)))
        taken = moves.to(images.device) + torch.arange(side, device=images.device)
        shape = [1] * result.dim()
        shape[0], shape[axis] = len(images), side
        wanted = list(result.shape)
        wanted[axis] = side
        result = result.gather(axis, taken.view(shape).expand(wanted))
    return result
