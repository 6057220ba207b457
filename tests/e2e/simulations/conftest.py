"""What simulations need: one of them at a time, however many processes run tests."""

import fcntl
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def no_other_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A simulation of Flower's joins any Ray cluster that it finds on the machine."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # of all processes of xdist
    with (shared / "ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
