"""Whole folders that bad ones are made from: a cohort, a comparison, ledgers, a site."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from fuzz import formats


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="fuzz-bases-")).resolve()
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not in a fork
            shutil.rmtree(root, ignore_errors=True)

    atexit.register(remove)
    return root


def cohort(rng: Random, folder: Path, *, settings: str = "", suffix: str = ".png") -> Path:
    """A table of PNGs and its experiment, written to a folder; returns the experiment's file."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for row in formats.cohort_rows():
        (images / str(row["image"])).write_bytes(formats.picture(rng))
    (folder / "table.csv").write_bytes(formats.csv(formats.cohort_rows()))
    path = folder / "mine.toml"
    path.write_text(formats.EXPERIMENT + settings)
    return path


def phantom(folder: Path, more: str = "") -> Path:
    """An experiment on the phantom; returns its file."""
    path = folder / "mine.toml"
    path.write_text(formats.PHANTOM + more)
    return path


@cache
def _comparison() -> Path:
    from fedmed.evaluation.comparison import compare

    path = Path(__file__).parents[1] / "report" / "make_runs.py"
    spec = importlib.util.spec_from_file_location("fuzz_make_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_make_runs"] = module
    spec.loader.exec_module(module)
    found: Path = module.comparison(_root() / "comparison", seeds=(0,), arms=3)
    compare.write(found)
    return found


def comparison(folder: Path, name: str = "runs") -> Path:
    """A finished comparison of three arms."""
    return Path(shutil.copytree(_comparison(), folder / name))


@cache
def _ledgers() -> Path:
    from support.ledger import filled

    (_root() / "ledgers").mkdir()
    filled(_root() / "ledgers" / "hospital-1.sqlite")
    return _root() / "ledgers"


def ledgers(folder: Path) -> Path:
    """A folder with one ledger of 8 rows."""
    return Path(shutil.copytree(_ledgers(), folder / "ledgers"))


def site(rng: Random, folder: Path) -> Path:
    """A site's folder, without a server; returns its ``site.toml``."""
    from fedmed.site.certs import make_certificates
    from fedmed.site.init import Wish, make_site

    trial = _root() / "trial"
    if not trial.exists():
        make_certificates(trial, ["127.0.0.1"])
    cohort(rng, folder / "data")
    wish = Wish(
        name="st-mary", server="127.0.0.1:9", data=folder / "data" / "table.csv",
        images=folder / "data" / "images", ca=trial / "ca.crt", minimum_cohort=2, public_size=8,
    )  # fmt: skip
    make_site(folder / "site", wish)
    return folder / "site" / "site.toml"


def certificate() -> bytes:
    """A CA's certificate."""
    from fedmed.site.certs import make_certificates

    trial = _root() / "trial"
    if not trial.exists():
        make_certificates(trial, ["127.0.0.1"])
    return (trial / "ca.crt").read_bytes()


def prepare() -> None:
    """Make what is copied for the inputs, so that processes forked later find it."""
    _comparison()
    _ledgers()
    certificate()
