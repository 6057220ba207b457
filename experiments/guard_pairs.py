"""Two guards whose sites differ by one patient, and requests of a server that means harm.

What is asked goes through the guard's own :meth:`Guard.answer`, with ledger, policy, log and
decoded images as a site has them; only the network is smaller (305 numbers, 16 pixels).
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fedmed.models
from fedmed import __version__
from fedmed.config import Scalar
from fedmed.data import network, remembering
from fedmed.federation import exchange
from fedmed.hospital import hospital
from fedmed.hospital.guard import answering
from fedmed.hospital.guard.answering import Guard
from fedmed.site.arrays import read_arrays
from fedmed.site.file import read_site
from fedmed.site.requests import Request

SIZE: Final = 16
PATIENTS: Final = 24  # of whom 16 are trained on, one film each
TARGETS: Final = ("p0", "p16")  # trained on, and tested on
ARMS: Final = (
    "dp-sgd", "central-dp-sgd", "local-update", "central-fixed", "central-adaptive",
    "pixel-laplace", "dp-pix",
)  # fmt: skip
Variant = Literal["whole", "absent", "ill", "film", "test-absent", "test-film"]
VARIANTS: Final[tuple[Variant, ...]] = ("absent", "ill", "film", "test-absent", "test-film")
POLICY: Final = f"""maximum-epsilon = 1e9
delta = 1e-2
public-size = {PATIENTS - 8}
arms = {list(ARMS)!r}
requests-per-run = 1000000
requests-per-day = 1000000
""".replace("'", '"')
SITE: Final = """name = "st-mary"
policy = "policy.toml"
ledger = "state/ledger.sqlite"
socket = "run/guard.sock"
[data]
source = "table"
path = "table.csv"
images = "films"
split = "given"
[settings]
"run.device" = "cpu"
"run.threads" = 1
"""
CONFIG: Final[dict[str, Scalar]] = {
    "data.sites": "st-mary,st-john",
    "data.hospitals": 2,
    "data.image-size": SIZE,
    "train.rounds": 2,
    "train.batch-size": 8,
    "train.local-epochs": 1.0,
    "train.learning-rate": 0.1,
    "train.momentum": 0.0,
    "evaluation.where": "hospitals",
    "evaluation.epsilon": 1.0,
    "evaluation.delta": 1e-3,
    "privacy.arm": "dp-sgd",
    "privacy.epsilon": 1.0,
    "privacy.delta": 1e-3,
}


def films(variant: Variant) -> dict[str, tuple[NDArray[np.uint8], int, str]]:
    """Each film by its patient: pixels, label, split.

    The targets' are chequered, in full contrast, and theirs alone have label 0: without one of them
    a split has one class.
    """
    rng = np.random.default_rng(7)
    chequered = np.where(np.indices((SIZE, SIZE)).sum(0) % 2, 255, 0).astype(np.uint8)
    by_patient: dict[str, tuple[NDArray[np.uint8], int, str]] = {}
    for number in range(PATIENTS):
        pixels = rng.integers(96, 160, (SIZE, SIZE), dtype=np.uint8)
        split = "train" if number < 16 else "test" if number < 20 else "val"
        by_patient[f"p{number}"] = (pixels, 1, split)
    for target in TARGETS:
        by_patient[target] = (chequered, 0, by_patient[target][2])
    target = TARGETS[variant.startswith("test-")]
    pixels, label, split = by_patient[target]
    if variant.endswith("absent"):
        del by_patient[target]
    elif variant.endswith("film"):
        by_patient[target] = (np.full_like(pixels, 128), label, split)
    elif variant == "ill":
        by_patient[target] = (pixels, 1 - label, split)
    return by_patient


def write_site(folder: Path, variant: Variant = "whole") -> Path:
    """The files of a site; returns its ``site.toml``."""
    (folder / "films").mkdir(parents=True)
    rows = ["image,label,patient_id,split"]
    for patient, (pixels, label, split) in films(variant).items():
        Image.fromarray(pixels).save(folder / "films" / f"{patient}.png")
        rows.append(f"{patient}.png,{label},{patient},{split}")
    (folder / "table.csv").write_text("\n".join([*rows, ""]))
    (folder / "policy.toml").write_text(POLICY)
    (folder / "site.toml").write_text(SITE)
    return folder / "site.toml"


def small_network(seed: int = 0) -> nn.Module:
    """The layers of the real network, few and narrow."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * (SIZE // 2) ** 2, 1),
        )


@contextmanager
def small_models() -> Iterator[None]:
    """Let guards build :func:`small_network`, on one thread, and read a table once, not again."""

    def forget() -> None:
        hospital._model.cache_clear()
        remembering.forget()

    def forget_shards() -> None:
        hospital.hospital_for.cache_clear()
        network.training_shard.cache_clear()
        network.evaluation_shard.cache_clear()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    build = mock.patch.object(
        fedmed.models, "build", lambda model, image_size, seed, **_: small_network(seed)
    )
    forget()
    try:
        with build, mock.patch.object(answering, "forget", forget_shards):
            yield
    finally:
        forget()
        torch.set_num_threads(threads)


@dataclass
class Site:
    """A site's folder and its guard, with a home of caches of its own."""

    folder: Path
    variant: Variant
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        path = write_site(self.folder, self.variant)
        with self.home():
            self.guard = Guard.open(read_site(path))

    @contextmanager
    def home(self) -> Iterator[None]:
        """Caches and noised images of this site, not the other's."""
        with mock.patch.dict(os.environ, {"FEDMED_HOME": str(self.folder / "home")}):
            yield

    def draw_again(self) -> None:
        """Remove the noised images: the next are another release, and paid for as one."""
        for folder in ("released", "cache/released"):
            shutil.rmtree(self.folder / "home" / folder, ignore_errors=True)
        hospital.hospital_for.cache_clear()

    def answer(
        self, header: dict[str, Any], body: bytes
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the guard sends back: header and arrays."""
        with self.home():
            reply, data = self.guard.answer(header, body, os.getuid())
        return reply, arrays_of(reply, data)


def arrays_of(header: dict[str, Any], body: bytes) -> dict[str, Tensor]:
    """The arrays of an answer."""
    about = header.get("arrays")
    if about is None:
        return {}
    return read_arrays(body, about["names"], (torch.float32, torch.float64, torch.int32))


def form(header: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    """All of an answer but the numbers under its noise."""
    shapes = {n: (str(v.dtype), tuple(v.shape)) for n, v in arrays.items()}
    finite = all(bool(torch.isfinite(v).all()) for v in arrays.values())
    return {**header, "shapes": shapes, "finite": finite}


def model(seed: int = 0) -> dict[str, Tensor]:
    """What an honest server begins with."""
    return exchange.parameters_of(small_network(seed))


def request(
    kind: str, run: str, config: dict[str, Scalar] | None = None, **changes: Any
) -> Request:
    """A request of an honest form."""
    whole = Request(
        kind=kind, version=__version__, config=CONFIG | (config or {}), run=run, run_id=7
    )
    if kind in ("train", "evaluate"):
        whole = replace(whole, model=model())
    if kind == "train":
        whole = replace(whole, round_number=1)
    if kind == "evaluate":
        whole = replace(whole, edges=(0.25, 0.5, 0.75))
    return replace(whole, **changes)


CHOICES: Final[dict[str, tuple[Scalar, ...]]] = {
    "privacy.epsilon": (0.1, 1.0, 8.0, 50.0, 1e4, 1e-4, 1e9),
    "privacy.noise-multiplier": (0.0, 0.01, 1.0, 100.0, 1e-9, 1e4),
    "privacy.delta": (1e-3, 1e-5, 1e-12, 0.02, 1 / 16, 1 / 15.5, 1 / 15, 0.1, 0.5),
    "privacy.clipping-norm": (1.0, 1e-3, 1e3, 4.4e-45, 1e-30, 1e30, 3e38),
    "privacy.unit": ("patient", "image"),
    "privacy.images-per-patient": (0, 1, 2),
    "privacy.engine": ("fedmed", "loop"),
    "privacy.clipping": ("flat", "automatic"),
    "privacy.physical-batch-size": (1, 2, 16),
    "privacy.image-mechanism": ("none", "pixel-laplace", "dp-pix", "brightness-shift"),
    "privacy.laplace-scale": (0.0, 1e-3, 1.0, 256.0, 1e30),
    "privacy.maximum-noise-to-signal": (0.0, 1.0, 1e3),
    "privacy.reproducible-noise": (False, True),
    "privacy.cell": (1, 4, 5),
    "train.learning-rate": (0.1, 1e-300, 1e-30, 10.0, 1e10, 1e30, 3e38),
    "train.momentum": (0.0, 0.9, 0.999999),
    "train.optimizer": ("sgd", "adam", "adamw", "nadam"),
    "train.batch-size": (1, 2, 8, 15, 16, 17, 1000),
    "train.local-epochs": (0.1, 1.0, 2.0),
    "train.rounds": (1, 2, 3, 1000),
    "train.augment": ("none", "flip", "flip-shift"),
    "train.views": (1, 2),
    "train.precision": ("float32", "bfloat16"),
    "train.ema": (0.0, 0.9, 0.9999999),
    "train.proximal": (0.0, 1.0, 1e30),
    "train.weight-decay": (0.0, 1.0, 1e30),
    "train.scheme": ("federated", "local-only", "pooled"),
    "data.image-size": (SIZE, 8, 32, 0, -1, 4096),
    "data.slices": (0, 3),
    "data.dimensions": (2, 3),
    "data.target": ("", "label", "Hernia", "A|B"),
    "data.uncertain": ("positive", "negative", "smooth"),
    "data.path": ("/etc/passwd",),
    "evaluation.epsilon": (0.0, 0.1, 1.0, 1e4),
    "evaluation.delta": (0.0, 1e-3, 0.1, 1 / 16, 1 / 8, 1 / 7.5, 1 / 7, 0.25, 0.3),
    "evaluation.images-per-patient": (0, 1, 2),
    "evaluation.attributes": ("sex,age", "", "view", "sex,sex"),
    "model.name": ("resnet18", "resnet9", "squeezenet1_1"),
    "model.channels": (1, 3),
    "run.seed": (0, 1, 2**31 - 1),
    "run.wire": ("float32", "bfloat16"),
}  # fmt: skip


def hostile_model(rng: random.Random) -> dict[str, Tensor]:
    """Weights of a server that looks for what overflows, underflows or mixes."""
    arrays = model(rng.randrange(3))
    for _ in range(rng.randrange(4)):
        name = rng.choice(list(arrays))
        value = arrays[name]
        arrays[name] = {
            "scale": lambda v: v * 10.0 ** rng.uniform(-45, 20),
            "constant": lambda v: torch.full_like(v, rng.choice((0.0, 1.0, -1e18, 1e10, 1e-42))),
            "entry": lambda v: _with_entry(v, rng),
            "bad": lambda v: torch.full_like(v, rng.choice((float("nan"), float("inf"), 3e38))),
            "shape": lambda v: v.flatten(),
        }[rng.choices(("scale", "constant", "entry", "bad", "shape"), (8, 4, 4, 1, 0.3))[0]](value)
    if rng.random() < 0.02:
        arrays.pop(rng.choice(list(arrays)))
    return arrays


def _with_entry(value: Tensor, rng: random.Random) -> Tensor:
    changed = value.clone()
    changed.view(-1)[rng.randrange(changed.numel())] = rng.choice((1e18, -1e18, 1e-40, 1e5))
    return changed


def hostile_request(rng: random.Random) -> Request:
    """One request: most of an honest form, with one to three settings or values that are not."""
    config: dict[str, Scalar] = {"privacy.arm": rng.choice((*ARMS, "dp-sgd", "local-update"))}
    if rng.random() < 0.03:
        config["privacy.arm"] = rng.choice(("none", "brightness-shift"))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        key = rng.choice(list(CHOICES))
        config[key] = rng.choice(CHOICES[key])
    kind = rng.choices(("train", "evaluate", "query"), (6, 2, 2))[0]
    run = f"run-{rng.randrange(12)}"
    if kind == "query":
        return request(kind, run, config)
    changes: dict[str, Any] = {"model": hostile_model(rng)}
    if kind == "train":
        changes["round_number"] = rng.choice((1, 1, 1, 2, 2, 3, 0, 999_999))
    else:
        edges = sorted(rng.uniform(-0.2, 1.2) for _ in range(rng.randrange(40)))
        changes["edges"] = tuple(rng.sample(edges, len(edges)) if rng.random() < 0.1 else edges)
    return request(kind, run, config, **changes)
