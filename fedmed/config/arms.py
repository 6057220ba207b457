"""The arms: one row for each kind of privacy, in the facts by which all other code decides.

To add an arm, add its row here and, where no kind of plan fits, a plan in ``fedmed.privacy.plans``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

PlanKind = Literal["none", "image", "features", "gradient", "unnoised", "summed", "update"]
Place = Literal["nowhere", "images", "features", "gradients", "shares", "updates", "sum"]

_TRAINING = ("privacy.noise-multiplier", "privacy.maximum-noise-to-signal", "privacy.clipping-norm")
_CLIPPED = (
    *("privacy.unit", "privacy.engine", "privacy.clipping", "privacy.physical-batch-size"),
    "train.views",
)
_LOCAL = (
    *("train.local-epochs", "train.batch-size", "train.proximal", "train.ema"),
    *("train.weighting", "train.server-optimizer", "train.server-learning-rate", "train.trim"),
)
_STEPS = (  # of training, where a head is solved for
    *("train.local-epochs", "train.batch-size", "train.optimizer", "train.learning-rate"),
    *("train.schedule", "train.warmup", "train.momentum", "train.weight-decay"),
    *("train.proximal", "train.augment", "train.precision", "train.ema"),
    *("train.server-optimizer", "train.server-learning-rate", "train.round-average"),
)
_IMAGE = ("privacy.laplace-scale", "privacy.clip-released")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What an arm is: its plan, where its noise enters, and which keys not all arms read.

    ``noise`` is a place: at the hospital, but for ``sum``, which is noised at the server. Of
    ``shares`` each hospital adds one to a sum that nobody sees the parts of.
    ``protects`` is False where no epsilon is claimed. ``own`` says whether a site may choose the
    arm by itself, ``stacks`` whether images may be noised under it (``privacy.image-mechanism``).
    ``reads`` are keys that only some arms read, ``ignores`` those that all others do. ``enters``,
    ``unit``, ``relation`` (what differs between neighbouring data sets) and ``trusted`` are words,
    for tables that people read: what is counted comes from a plan's facts.
    """

    name: str
    plan: PlanKind
    noise: Place
    protects: bool = True
    own: bool = False
    stacks: bool = False
    reads: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    enters: str
    unit: str
    relation: str = "none"
    trusted: str
    unclaimed: str = ""  # what a report says in the place of an epsilon

    @property
    def control(self) -> bool:
        """Whether it is DP-SGD's recipe without noise, which protects nobody."""
        return self.plan == "unnoised"

    @property
    def samples(self) -> bool:
        """Whether its batches are Poisson samples of patients, or of images."""
        return self.plan in ("gradient", "unnoised", "summed")

    @property
    def once(self) -> bool:
        """Whether its noise enters once, before training, and gives a pure epsilon."""
        return self.plan in ("image", "features")

    @property
    def at_server(self) -> bool:
        """Whether its noise is the server's, one for all hospitals."""
        return self.noise == "sum"

    @property
    def noised_at_home(self) -> bool:
        """Whether what leaves a hospital is noised there, under a claim."""
        return self.protects and not self.at_server

    @property
    def protects_alone(self) -> bool:
        """Whether a hospital's own noise is the whole of its guarantee."""
        return self.noised_at_home and self.noise != "shares"

    @property
    def one_noise(self) -> bool:
        """Whether all hospitals have one noise between them, so that none has its own settings."""
        return self.noise in ("sum", "shares")


_ROWS = (
    Arm(
        name="none",
        plan="none",
        noise="nowhere",
        protects=False,
        enters="nowhere",
        unit="none",
        trusted="everyone",
        unclaimed="no differential privacy",
    ),
    Arm(
        name="pixel-laplace",
        plan="image",
        noise="images",
        own=True,
        reads=("privacy.epsilon", *_IMAGE),
        enters="the images, once, at the hospital",
        unit="image",
        relation="replace the pixels of one image",
        trusted="nobody",
    ),
    Arm(
        name="dp-pix",
        plan="image",
        noise="images",
        own=True,
        reads=("privacy.epsilon", *_IMAGE, "privacy.cell", "privacy.neighbourhood"),
        enters="means of squares of pixels, once, at the hospital",
        unit="image",
        relation="replace the pixels of one image",
        trusted="nobody",
    ),
    Arm(
        name="brightness-shift",
        plan="image",
        noise="images",
        protects=False,
        reads=("privacy.epsilon", *_IMAGE),
        enters="the images' brightness, once: no DP claim",
        unit="none",
        trusted="everyone",
        unclaimed="no DP claim",
    ),
    Arm(
        name="feature-laplace",
        plan="features",
        noise="features",
        own=True,
        reads=("privacy.epsilon", "privacy.clipping-norm"),
        ignores=_STEPS,
        enters="a short vector and the label of each patient, once, at the hospital",
        unit="patient",
        relation="replace one patient's data",
        trusted="nobody",
    ),
    Arm(
        name="dp-sgd",
        plan="gradient",
        noise="gradients",
        own=True,
        stacks=True,
        reads=(
            *("privacy.epsilon", *_TRAINING, "privacy.image-mechanism", "train.views"),
            *("privacy.unit", "privacy.engine", "privacy.clipping", "privacy.physical-batch-size"),
        ),
        enters="clipped gradients, every step, in the hospital",
        unit="patient (or image)",
        relation="add or remove one patient; add, remove or replace one image",
        trusted="the hospital",
    ),
    Arm(
        name="distributed-dp-sgd",
        plan="summed",
        noise="shares",
        stacks=True,
        reads=(
            *("privacy.epsilon", *_TRAINING, "privacy.image-mechanism", *_CLIPPED),
            *("train.sampling-rate", "privacy.threshold", "privacy.colluding"),
        ),
        ignores=_LOCAL,
        enters="clipped gradients, every step, a share at each hospital",
        unit="patient (or image)",
        relation="add or remove one patient; add, remove or replace one image",
        trusted="the hospital, most others",
    ),
    Arm(
        name="central-dp-sgd",
        plan="summed",
        noise="sum",
        stacks=True,
        reads=(
            *("privacy.epsilon", *_TRAINING, "privacy.image-mechanism", *_CLIPPED),
            "train.sampling-rate",
        ),
        ignores=_LOCAL,
        enters="the sum of clipped gradients, every step, at the server",
        unit="patient (or image)",
        relation="add or remove one patient; add, remove or replace one image",
        trusted="the hospital, the server",
    ),
    Arm(
        name="clipped-sgd",
        plan="unnoised",
        noise="nowhere",
        protects=False,
        reads=(
            *("train.views", "privacy.clipping-norm", "privacy.clipping", "privacy.engine"),
            *("privacy.unit", "privacy.physical-batch-size"),
        ),
        enters="nowhere: gradients are clipped as under `dp-sgd`, without noise",
        unit="none",
        trusted="everyone",
        unclaimed="no differential privacy",
    ),
    Arm(
        name="sampled-sgd",
        plan="unnoised",
        noise="nowhere",
        protects=False,
        reads=("train.views", "privacy.unit", "privacy.physical-batch-size"),
        enters="nowhere: batches are drawn as under `dp-sgd`, without clipping and noise",
        unit="none",
        trusted="everyone",
        unclaimed="no differential privacy",
    ),
    Arm(
        name="local-update",
        plan="update",
        noise="updates",
        own=True,
        stacks=True,
        reads=("privacy.epsilon", *_TRAINING, "privacy.image-mechanism"),
        enters="the clipped update, at the hospital",
        unit="hospital",
        relation="replace one hospital's data",
        trusted="nobody",
    ),
    Arm(
        name="central-fixed",
        plan="update",
        noise="sum",
        stacks=True,
        ignores=("train.trim",),
        reads=("privacy.epsilon", *_TRAINING, "privacy.image-mechanism"),
        enters="the sum of clipped updates, at the server",
        unit="hospital",
        relation="zero out one hospital's update",
        trusted="the server",
    ),
    Arm(
        name="central-adaptive",
        plan="update",
        noise="sum",
        stacks=True,
        ignores=("train.trim",),
        reads=(
            *("privacy.epsilon", *_TRAINING, "privacy.image-mechanism"),
            *("privacy.clip-quantile", "privacy.clip-rate", "privacy.clip-share"),
        ),
        enters="the same, with a clipping norm that adapts",
        unit="hospital",
        relation="zero out one hospital's update",
        trusted="the server",
    ),
)

ARMS: dict[str, Arm] = {arm.name: arm for arm in _ROWS}
"""Every arm by its name, in the order in which tables show them."""

READ_BY: dict[str, tuple[str, ...]] = {
    key: tuple(arm.name for arm in _ROWS if key in arm.reads)
    for key in dict.fromkeys(key for arm in _ROWS for key in arm.reads)
} | {
    key: tuple(arm.name for arm in _ROWS if key not in arm.ignores)
    for key in dict.fromkeys(key for arm in _ROWS for key in arm.ignores)
}
"""Which arms (or image mechanisms) read a key; keys that are absent are read by all."""

if TYPE_CHECKING:
    ArmName = str
    ImageNoise = str
else:
    ArmName = Literal[tuple(ARMS)]
    ImageNoise = Literal["none", *(arm.name for arm in _ROWS if arm.plan == "image")]
