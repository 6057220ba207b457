"""``privacy``: the treatment of an arm."""

from typing import Annotated, Literal

from pydantic import Field

from fedmed.config.arms import ArmName, ImageNoise
from fedmed.config.names import Unit, count, within
from fedmed.config.tables.section import Section


class Privacy(Section):
    """The treatment of an arm; which keys count depends on ``arm``."""

    arm: ArmName = "none"
    """The privacy treatment. See [privacy.md](privacy.md)."""

    epsilon: Annotated[float, within(1e-6, 1e9), Unit("per the arm's unit")] = 8.0
    """The budget of the whole run, from which the noise follows. Image arms use it only where
    `privacy.laplace-scale` is 0: `pixel-laplace` per image, `dp-pix` for `privacy.neighbourhood`
    pixels, `brightness-shift` as a scale of 1/epsilon. `dp-sgd` and the update arms take 0.0001 to
    10,000; `feature-laplace` 0.01 to 64, of which a tenth is the label's."""

    noise_multiplier: Annotated[float, within(0, 1e4), Unit("times the sensitivity")] = 0.0
    """`dp-sgd` and update arms: the noise itself. `privacy.epsilon` is then the limit that it must
    keep; a plan above it is impossible. 0: from `privacy.epsilon`. Else 0.01 or more."""

    delta: Annotated[float, within(1e-12, 0.999)] = 1e-5
    """Must be below 1/patients of every hospital (`dp-sgd` and its kin) or 1/hospitals (update
    arms). The image arms and `feature-laplace` are pure (delta 0); their statement also gives
    epsilon at this delta."""

    unit: Literal["patient", "image"] = "patient"
    """`dp-sgd`: whose data one epsilon protects. `image` needs `privacy.images-per-patient`."""

    images_per_patient: Annotated[int, Field(ge=0, le=64), Unit("images")] = 0
    """At most so many training images of one patient are used, in every arm alike. Which ones is
    fixed by a hash of their names. 0: no cap."""

    public_size: Annotated[str, Unit("`500`, or `hospital-1=500,hospital-2=300`")] = ""
    """Number of protected units that hospitals declare public: sampling rate, steps, divisor and
    the check of delta rest on it, and `train.weighting = "size"` too. Empty: the exact number,
    which then counts as public. A hospital's policy takes precedence."""

    clipping_norm: Annotated[float, within(1e-6, 1e6), Unit("L2 norm; `feature-laplace`: L1")] = 1.0
    """Bound on one unit's gradient (`dp-sgd`) or on one hospital's update (update arms).
    `central-adaptive`: of the first round. `feature-laplace`: on a patient's vector; the server's
    validation images have vectors of a root mean square length of 1."""

    colluding: Annotated[int, Field(ge=0, le=254), Unit("hospitals")] = 1
    """`distributed-dp-sgd`: how many hospitals may take the server's side, and tell it their shares
    of the noise. Each share is as much larger as those that are left need it."""

    threshold: Annotated[int, Field(ge=0, le=255), Unit("hospitals")] = 0
    """`distributed-dp-sgd`: the fewest hospitals whose sum is unmasked. A step with fewer is given
    up, and what was reserved stays spent. Shares of the noise are so large that as few suffice:
    fewer than all of them cost accuracy. 0: all."""

    clip_quantile: Annotated[float, within(1e-3, 0.999), Unit("share of the updates")] = 0.5
    """`central-adaptive`: which quantile of the updates' lengths the clipping norm follows."""

    clip_rate: Annotated[float, within(1e-6, 10)] = 0.2
    """`central-adaptive`: how fast the norm follows, as a factor of exp(rate x difference) a round.
    """

    clip_share: Annotated[float, within(1e-3, 0.999), Unit("share of the budget")] = 0.1
    """`central-adaptive`: share of the budget (as 1/noise²) that pays for the estimate of the norm.
    """

    maximum_noise_to_signal: Annotated[float, within(0, 1e12), Unit("ratio")] = 0.0
    """A plan whose step has more noise than this, over the largest signal, is impossible, and the
    nearest possible ones are named. 0: no limit."""

    image_mechanism: ImageNoise = "none"
    """`dp-sgd` and update arms: noise the images as well, before training. Needs
    `privacy.laplace-scale`."""

    laplace_scale: Annotated[float, within(0, 1e15), Unit("brightness (white: 1)")] = 0.0
    """Scale of an image mechanism's noise. 0: from `privacy.epsilon`. Else 1e-05 or more."""

    cell: Annotated[int, count(1024), Unit("pixels")] = 8
    """`dp-pix`: side of the squares (of volumes: cubes) whose means are noised. It must divide
    `data.image-size`."""

    neighbourhood: Annotated[int, count(2**30), Unit("pixels")] = 16
    """`dp-pix`: how many differing pixels (of volumes: voxels) its epsilon is about."""

    clip_released: bool = False
    """Cut noised images to 0 to 1. Post-processing: it costs nothing and promises nothing."""

    engine: Literal["fedmed", "opacus", "loop"] = "fedmed"
    """`dp-sgd`: what computes the clipped gradients. The same numbers, at different speed. See
    [engine.md](engine.md)."""

    clipping: Literal["flat", "automatic"] = "flat"
    """`dp-sgd`: gradients longer than `privacy.clipping-norm` are shortened to it, or every
    gradient is scaled to nearly that length."""

    physical_batch_size: Annotated[int, count(1024), Unit("images")] = 16
    """How many images are computed at once. It changes memory and speed, not the result's privacy.
    """

    reproducible_noise: bool = False
    """Noise from `run.seed` instead of secret entropy. For simulation only: no epsilon is claimed
    then."""
