"""Masks: as many random numbers modulo 2^32 as wanted, from a key of 256 bits.

AES-256 in counter mode. A key masks once: whoever sees two vectors under one mask knows their
difference, so every key here is derived for one step, one meeting and one pair.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Vector = npt.NDArray[np.uint32]

KEY: Final = 32  # bytes
_PIECE: Final = 2**15  # numbers at a time, so that they stay in the cache
_ZEROS: Final = memoryview(bytes(4 * _PIECE))


def derived(secret: bytes, text: bytes) -> bytes:
    """A key of 32 bytes for what ``text`` says, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(hashes.SHA256(), KEY, salt=None, info=text).derive(secret)


def add(vector: Vector, keys: list[tuple[bytes, bool]]) -> None:
    """Add the mask of each key to the vector in place, or take it away where True stands beside it.

    >>> numbers = np.zeros(3, dtype=np.uint32)
    >>> add(numbers, [(bytes(32), False)]); add(numbers, [(bytes(32), True)]); numbers.tolist()
    [0, 0, 0]
    """
    streams = [
        (Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor(), away)
        for key, away in keys
    ]
    words = np.empty(4 * _PIECE + 16, dtype=np.uint8)
    for start in range(0, vector.size, _PIECE):
        piece = vector[start : start + _PIECE]
        mask = words[: 4 * piece.size].view("<u4")
        for stream, away in streams:
            stream.update_into(_ZEROS[: 4 * piece.size], words.data)
            if away:
                np.subtract(piece, mask, out=piece)
            else:
                np.add(piece, mask, out=piece)
