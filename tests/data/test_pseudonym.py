"""Pseudonyms: keyed, stable on one machine, and another name for another kind."""

import hashlib
import multiprocessing
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from support import goes_red

from fedmed.base import files
from fedmed.data import pseudonym
from fedmed.data.pseudonym import pseudonyms

NAMES = pd.Series(["p1", "p2", "p1", None], dtype="string")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    return tmp_path


def test_the_same_name_gets_the_same_pseudonym_and_unknown_stays_unknown() -> None:
    found = pseudonyms(NAMES, "patient")
    assert found[0] == found[2] != found[1]
    assert found.isna().tolist() == [False, False, False, True]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in found.dropna())
    assert pseudonyms(NAMES, "patient").equals(found)
    assert str(found.dtype) == "string"


def test_images_and_patients_of_one_name_differ() -> None:
    assert pseudonyms(NAMES, "patient")[0] != pseudonyms(NAMES, "image")[0]


def check_key_matters(first: str, second: str) -> None:
    assert first != second


def test_a_guessed_name_cannot_be_tested_without_the_key(home: Path) -> None:
    here = pseudonyms(NAMES, "patient")[0]
    (home / "pseudonym.key").unlink()
    check_key_matters(here, pseudonyms(NAMES, "patient")[0])
    unkeyed = hashlib.sha256(b"patient|p1").hexdigest()[:16]
    goes_red(check_key_matters, unkeyed, hashlib.sha256(b"patient|p1").hexdigest()[:16])
    check_key_matters(here, unkeyed)


def test_the_key_is_long_and_for_its_owner_alone(home: Path) -> None:
    pseudonyms(NAMES, "patient")
    key = home / "pseudonym.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in home.iterdir()] == ["pseudonym.key"]


def test_two_processes_at_once_agree_on_the_key() -> None:
    make = partial(pseudonyms, NAMES)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(make, ["patient", "patient"], chunksize=1)
    assert first.equals(second)
    assert first.equals(pseudonyms(NAMES, "patient"))


def test_a_full_disk_leaves_no_half_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(files.UserError, match="disk is full"):
        pseudonym._key()
    assert list(home.iterdir()) == []
