"""Where noise comes from: independent, fresh, keyed by its context, and by more than 32 bits."""

import secrets
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import kstest, norm
from support import goes_red
from torch import Tensor

from fedmed.privacy.mechanisms.noise import NoiseSource
from fedmed.privacy.mechanisms.normals import Normals

DRAWS = 50_000


def gaussian(source: NoiseSource, *context: str | int) -> Tensor:
    return torch.from_numpy(source.normals(*context).draw(DRAWS))


def uniform(source: NoiseSource, *context: str | int) -> Tensor:
    return torch.from_numpy(source.numpy(*context).random(DRAWS))


class OneSeedEverywhere(NoiseSource):
    """Pitfall 6: the same seed at every site, round and model."""

    def _key(self, context: tuple[str | int, ...]) -> int:
        return 12345


class KeyedByRound(NoiseSource):
    """Pitfall 29: the noise of a round, whatever the model."""

    def _key(self, context: tuple[str | int, ...]) -> int:
        return super()._key(context[:-1])


def check_independent(first: Tensor, second: Tensor) -> None:
    """Five standard errors of a correlation: a false alarm once in a million pairs."""
    correlation = float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert abs(correlation) < 5 / DRAWS**0.5
    assert not torch.equal(first, second)


@pytest.mark.parametrize("draw", [gaussian, uniform])
@pytest.mark.parametrize("seed", [None, 7])
def test_noise_of_two_hospitals_is_independent(
    draw: Callable[..., Tensor], seed: int | None
) -> None:
    def check(source: NoiseSource) -> None:
        first = draw(source, "gradient", "hospital-1", 1, "model")
        check_independent(first, draw(source, "gradient", "hospital-2", 1, "model"))

    check(NoiseSource(seed))
    goes_red(check, OneSeedEverywhere(seed))


@pytest.mark.parametrize("draw", [gaussian, uniform])
def test_reproducible_noise_is_not_reused_on_another_model(draw: Callable[..., Tensor]) -> None:
    def check(source: NoiseSource) -> None:
        first = draw(source, "update", "hospital-1", 1, "model-a")
        check_independent(first, draw(source, "update", "hospital-1", 1, "model-b"))

    check(NoiseSource(7))
    goes_red(check, KeyedByRound(7))


@pytest.mark.parametrize("draw", [gaussian, uniform])
def test_fresh_noise_is_fresh_even_for_the_same_request(draw: Callable[..., Tensor]) -> None:
    def check(source: NoiseSource) -> None:
        check_independent(draw(source, "same"), draw(source, "same"))

    check(NoiseSource())
    goes_red(check, NoiseSource(7))


def test_reproducible_noise_repeats_for_the_same_context_and_seed() -> None:
    for draw in (gaussian, uniform):
        assert torch.equal(draw(NoiseSource(7), "a", 1), draw(NoiseSource(7), "a", 1))
        assert not torch.equal(draw(NoiseSource(7), "a", 1), draw(NoiseSource(8), "a", 1))


def seeded_by_manual_seed(key: int) -> Tensor:
    generator = torch.Generator()
    generator.manual_seed(key % 2**63)
    return torch.empty(DRAWS).normal_(generator=generator)


def check_key_is_wide(draw_with: Callable[[int], Tensor]) -> None:
    """Keys that differ in one high bit give independent noise: all 128 bits count."""
    for bit in (32, 62, 63, 64, 127):
        check_independent(draw_with(5), draw_with(5 + 2**bit))


@pytest.mark.parametrize("draw", [gaussian, uniform])
def test_noise_cannot_be_found_by_trying_four_billion_seeds(
    draw: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's CPU generator keeps 32 bits of a seed: whoever tries them all removes the noise."""

    def draw_with(key: int) -> Tensor:
        monkeypatch.setattr(secrets, "randbits", lambda bits: key)
        return draw(NoiseSource(), "same")

    check_key_is_wide(draw_with)
    goes_red(check_key_is_wide, seeded_by_manual_seed)


KEY = 0x0F0E0D0C0B0A09080706050403020100


def check_words_are_aes(words: bytes) -> None:
    """Word for word what the cipher makes of 0, 1, 2, ... under the whole key."""
    cipher = Cipher(algorithms.AES(KEY.to_bytes(16, "little")), modes.ECB()).encryptor()
    counters = b"".join(number.to_bytes(16, "little") for number in range(len(words) // 16))
    assert words == cipher.update(counters)


def test_the_generators_are_aes_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the processor's AES instructions and, where it has none, in software."""
    monkeypatch.setattr(secrets, "randbits", lambda bits: KEY)

    def words(generator: np.random.Generator) -> bytes:
        raw: np.ndarray = generator.bit_generator.random_raw(1000)  # type: ignore[attr-defined]
        return raw.astype("<u8").tobytes()

    for instructions in (True, False):
        generator = NoiseSource().numpy("a")
        if not instructions:
            generator.bit_generator.use_aesni = False  # type: ignore[attr-defined]  # of randomgen
        check_words_are_aes(words(generator))
    goes_red(check_words_are_aes, words(np.random.Generator(np.random.Philox(key=KEY))))


def test_the_words_of_normal_numbers_are_aes_in_counter_mode() -> None:
    """The keystream of GCM (NIST SP 800-38D): 96 bits of the counter name the piece, from 2 on."""
    stream = Normals(KEY)
    drawn = stream.draw(8)
    # One piece, the first, has said when the first tail comes.
    counters = b"".join(bytes(11) + b"\2" + number.to_bytes(4, "big") for number in range(2, 6))
    cipher = Cipher(algorithms.AES(KEY.to_bytes(16, "big")), modes.ECB()).encryptor()

    def check(found: np.ndarray) -> None:
        words = np.frombuffer(cipher.update(counters), dtype="<i8")
        expected = norm.ppf(0.5 + words * 2.0**-64 * (1 - 2**-20))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    check(drawn)
    goes_red(check, stream.draw(8))
    assert len({stream._nonce() for _ in range(1000)}) == 1000, "no piece of it comes twice"


def test_entropy_is_asked_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or len(asked))
    NoiseSource().normals("a")
    NoiseSource().numpy("a")
    assert asked == [128, 128]


@pytest.mark.parametrize("seed", range(3))
def test_the_distribution_is_gaussian(seed: int) -> None:
    """Kolmogorov-Smirnov, false alarm below 1e-6 (and the keys here are fixed)."""
    draws = gaussian(NoiseSource(seed), "distribution").double().numpy()
    assert kstest(draws, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / DRAWS**0.5


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    gaussian(NoiseSource(), "a")
    uniform(NoiseSource(7), "a")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_description_says_who_can_remove_the_noise() -> None:
    assert "no epsilon holds" in NoiseSource(0).description
    assert "operating-system entropy" in NoiseSource().description
