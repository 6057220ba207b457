"""Where randomness that must stay secret comes from.

By default every draw is keyed by fresh entropy of the operating system, so that no seed exists that
could remove it. A simulation may ask for reproducible noise: keys then come from the run's seed,
the hospital, the round and the model, and whoever knows the seed can remove the noise.

The generator is AES-128 in counter mode, whose output nobody tells from randomness without the key:
by ``randomgen`` behind numpy's distributions (with AES instructions or, more slowly, without), and
by ``cryptography`` for the many normal numbers.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
from randomgen import AESCounter

from fedmed.privacy.mechanisms.normals import Normals

GENERATORS: Final = (
    "cryptographic: AES-128 in counter mode, for sampling, views of images and all noise. Sums are "
    "noised in float64 and rounded once; that noise is a grid of finite numbers and not a "
    "continuum (Mironov 2012) is not covered"
)


@dataclass(frozen=True)
class NoiseSource:
    """Hands out generators: fresh ones, or (``seed`` given) the same ones for the same context.

    >>> NoiseSource().normals().draw(1) == NoiseSource().normals().draw(1)
    array([False])
    >>> NoiseSource(seed=1).numpy("a").random() == NoiseSource(seed=1).numpy("a").random()
    True
    """

    seed: int | None = None

    @property
    def reproducible(self) -> bool:
        """Whether the same context gives the same noise again."""
        return self.seed is not None

    @property
    def description(self) -> str:
        """One sentence for the statement."""
        if self.reproducible:
            return (
                "reproducible from the experiment's seed: simulation only, no epsilon holds "
                "against anyone who knows the seed"
            )
        return "operating-system entropy, drawn anew by each hospital for each release"

    def _key(self, context: tuple[str | int, ...]) -> int:
        if self.seed is None:
            return secrets.randbits(128)
        text = "|".join(str(part) for part in ("fedmed-noise", self.seed, *context))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def key(self, *context: str | int) -> bytes:
        """32 bytes for noise of whole numbers."""
        if self.seed is None:
            return secrets.token_bytes(32)
        text = "|".join(str(part) for part in ("fedmed-noise", self.seed, *context))
        return hashlib.sha256(text.encode()).digest()

    def numpy(self, *context: str | int) -> np.random.Generator:
        """Generator for sampling, views of images and Laplace noise."""
        return np.random.Generator(AESCounter(key=self._key(context)))

    def normals(self, *context: str | int) -> Normals:
        """Stream of Gaussian noise."""
        return Normals(self._key(context))
