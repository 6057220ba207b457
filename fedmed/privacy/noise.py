"""Where randomness that must stay secret comes from.

By default every draw is keyed by fresh entropy of the operating system, so that no seed exists that
could remove it. A simulation may ask for reproducible noise: keys then come from the run's seed,
the hospital, the round and the model, and whoever knows the seed can remove the noise.

The generators (Philox for samples and Laplace noise, torch's for Gaussian noise) are not
cryptographic, and their output has floating-point resolution (Mironov 2012): the statement says so.
"""

import hashlib
import secrets
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class NoiseSource:
    """Hands out generators: fresh ones, or (``seed`` given) the same ones for the same context."""

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
        return (
            "operating-system entropy, drawn anew by each hospital for each release; the "
            "generators are not cryptographic and floating-point resolution is not covered"
        )

    def _key(self, context: tuple[str | int, ...]) -> int:
        if self.seed is None:
            return secrets.randbits(128)
        text = "|".join(str(part) for part in ("fedmed-noise", self.seed, *context))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def numpy(self, *context: str | int) -> np.random.Generator:
        """Generator for sampling and Laplace noise."""
        return np.random.Generator(np.random.Philox(key=self._key(context)))

    def torch(self, *context: str | int, device: torch.device | None = None) -> torch.Generator:
        """Generator for Gaussian noise on ``device`` (CPU by default)."""
        generator = torch.Generator(device=device or torch.device("cpu"))
        key = self._key(context)
        generator.manual_seed(key % 2**63)
        if generator.device.type == "cpu":
            _fill_state(generator, key)
        return generator


def _fill_state(generator: torch.Generator, key: int) -> None:
    """Set all 624 words of torch's CPU generator (MT19937) from the 128-bit key, by SHAKE-256.

    ``manual_seed`` uses 32 bits there: few enough to try them all and remove the noise.
    """
    state = generator.get_state()
    words = np.frombuffer(hashlib.shake_256(key.to_bytes(16, "big")).digest(624 * 4), dtype="<u4")
    # The words are stored as 64-bit numbers after seed, counters and position (24 bytes).
    state[24 : 24 + 624 * 8] = torch.from_numpy(words.astype("<u8").view(np.uint8))
    generator.set_state(state)
