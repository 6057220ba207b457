"""Draws that depend on one patient (or image) alone: keyed hashes of its own name.

Add-or-remove means what it says only where a patient who is added or removed moves nobody else. No
permutation of a whole cohort does: one patient more, and everybody after it is dealt another place.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Purpose = Literal["split", "partition", "cap"]
_BYTES: Final = 8


def uniform(names: Iterable[object], seed: int, purpose: Purpose) -> NDArray[np.float64]:
    """A number in [0, 1) for each name: the same for the same name, seed and purpose.

    BLAKE2b of the name, keyed by ``seed`` and personalised by ``purpose``: draws for two purposes
    are independent. Nothing but the name decides its number.
    """
    hashes = [int.from_bytes(_hash(str(name), seed, purpose), "big") for name in names]
    # Of 64 bits the upper 53 are kept, which a float holds exactly: never 1.
    return (np.array(hashes, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) / 2.0**53


def kept(patients: pd.Series, images: Iterable[str], cap: int, seed: int) -> NDArray[np.bool_]:
    """Which images count: at most ``cap`` of each patient (0: all), by keyed hashes.

    ``images`` tells images apart by what they are, not by where they stand. An image more or less
    of one patient changes that patient's alone, and of those at most one for another.
    """
    if not cap:
        return np.ones(len(patients), dtype=bool)
    owned = zip(patients, images, strict=True)
    hashes = np.array([_hash(f"{patient}|{image}", seed, "cap").hex() for patient, image in owned])
    owners, _ = pd.factorize(patients)
    order = np.lexsort((hashes, owners))
    starts = np.flatnonzero(np.diff(owners[order], prepend=-2))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    within = np.zeros(len(order), dtype=bool)
    within[order] = rank < cap
    return within


def _hash(name: str, seed: int, purpose: Purpose) -> bytes:
    key, person = f"fedmed {seed}".encode(), purpose.encode()
    text = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_BYTES, key=key, person=person).digest()
