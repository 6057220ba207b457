"""Keyed pseudonyms for images and patients: the same on this machine, meaningless elsewhere."""

import hashlib
import hmac
import os
import secrets

import pandas as pd

from fedmed.base import files

_LENGTH = 16  # hex digits, 64 bits: no collision to be expected below a hundred million images


def pseudonyms(names: pd.Series, kind: str) -> pd.Series:
    """HMAC-SHA256 of each name under this machine's secret key; <NA> stays <NA>.

    ``kind`` separates image from patient names. Arms, seeds and experiments on one machine agree,
    so that predictions can be paired; without the key nobody can test a guessed identifier.
    """
    key = _key()
    unique = {
        name: hmac.new(key, f"{kind}|{name}".encode(), hashlib.sha256).hexdigest()[:_LENGTH]
        for name in names.dropna().unique()
    }
    return names.map(unique).astype("string")


def _key() -> bytes:
    path = files.home() / "pseudonym.key"
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".pseudonym.{secrets.token_hex(8)}")
        if not path.exists():
            try:
                temporary.touch(mode=0o600)
                temporary.write_bytes(secrets.token_bytes(32))
                os.link(temporary, path)  # fails where another process was first
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)
    return path.read_bytes()
