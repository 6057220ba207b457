"""Proxies, deep folders, clusters that are gone: kept out of Ray's way, or told in a line."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses

from fedmed import launch
from fedmed.base.errors import RunError
from fedmed.federation import surroundings
from fedmed.federation.surroundings import check_cluster, own_address, ray_folder, without_proxy


def test_this_machine_needs_no_proxy_and_what_the_user_set_stays() -> None:
    told = without_proxy({"no_proxy": "mirror.example, localhost", "NO_PROXY": "10.0.0.0/8"})
    assert told["no_proxy"] == told["NO_PROXY"]

    def check(hosts: list[str]) -> None:
        assert hosts[:3] == ["mirror.example", "localhost", "10.0.0.0/8"]
        assert {"127.0.0.1", "localhost", "::1", own_address()} <= set(hosts)
        assert len(hosts) == len(set(hosts))

    check(told["no_proxy"].split(","))
    goes_red(check, ["127.0.0.1", "localhost", "::1", own_address()])
    joined = without_proxy({"RAY_ADDRESS": "ray://head.example:10001"})
    assert "head.example" in joined["no_proxy"].split(",")


def test_without_a_route_the_address_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(surroundings, "_OUTSIDE", ("not an address", 53))
    assert own_address() == "127.0.0.1"


def test_a_short_folder_changes_nothing() -> None:
    for environment in ({}, {"TMPDIR": "/var/tmp"}, {"RAY_TMPDIR": "/r", "TMPDIR": "/" + "t" * 90}):
        with ray_folder(environment) as changes:
            assert changes == {}


def test_a_long_folder_is_replaced_by_a_short_one_of_this_user_alone() -> None:
    limit = 107 - len(surroundings._SOCKET)  # bytes, not letters: an umlaut has two
    with ray_folder({"TMPDIR": "/" + "t" * (limit - 1)}) as changes:
        assert changes == {}
    with ray_folder({"TMPDIR": "/" + "t" * (limit - 2) + "\u00e4"}) as changes:
        folder = Path(changes["RAY_TMPDIR"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
        with socket.socket(socket.AF_UNIX) as listener:  # the name that Ray needs
            path = Path(f"{folder}{surroundings._SOCKET}")
            path.parent.mkdir(parents=True)
            listener.bind(str(path))
    assert not folder.exists()


def test_a_long_folder_that_cannot_be_replaced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/scratch/" + "job/" * 30

    def enter(environment: dict[str, str]) -> None:
        with ray_folder(environment):
            pass

    refuses(lambda: enter({"RAY_TMPDIR": long}), f"RAY_TMPDIR = {long}", "shorter folder")
    monkeypatch.setattr(surroundings, "_SHORT", "/nowhere/at/all")
    refuses(lambda: enter({"TMPDIR": long}), f"TMPDIR = {long}", "too long", "set TMPDIR")
    enter({"TMPDIR": long, "RAY_ADDRESS": "head:6379"})  # a cluster has a folder of its own


def test_a_cluster_that_is_there_is_taken_and_one_that_is_gone_is_told() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        refuses(
            lambda: check_cluster({"RAY_ADDRESS": address}),
            f"RAY_ADDRESS = {address}",
            "ray start --head",
            "unset RAY_ADDRESS",
        )
        listener.listen()
        check_cluster({"RAY_ADDRESS": address})
        check_cluster({"RAY_ADDRESS": f"ray://{address}"})
    for none in ("", "auto", "local"):
        check_cluster({"RAY_ADDRESS": none})
    for wrong in ("head", "head:", ":6379", "head:port"):
        refuses(lambda wrong=wrong: check_cluster({"RAY_ADDRESS": wrong}), "give HOST:PORT")


def test_a_cluster_behind_a_wall_is_waited_for_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wall(address: tuple[str, int], timeout: float) -> None:
        assert (address, timeout) == (("10.1.2.3", 6379), 5.0)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", wall)
    refuses(lambda: check_cluster({"RAY_ADDRESS": "10.1.2.3:6379"}), "timed out")


def test_a_simulation_starts_with_it_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment that Flower's and Ray's processes get; nothing is started here."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setenv("no_proxy", "mirror.example")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    begun: list[Any] = []

    class Process:
        def __init__(self, *_: Any, **options: Any) -> None:
            begun.append(options["env"])

        def poll(self) -> int:
            return 1

    monkeypatch.setattr(launch.subprocess, "Popen", Process)
    refuses(launch.RaySimulation().__enter__, "did not start", error=RunError)
    (environment,) = begun
    assert environment["no_proxy"].startswith("mirror.example,127.0.0.1,localhost")
    assert environment["NO_PROXY"] == environment["no_proxy"]
    assert environment["TMPDIR"] == str(deep)
    assert len(environment["RAY_TMPDIR"]) < 30
    assert not Path(environment["RAY_TMPDIR"]).exists()
    assert not Path(environment["FLWR_HOME"]).exists()
    monkeypatch.setenv("RAY_ADDRESS", "nothing")
    refuses(launch.RaySimulation().__enter__, "RAY_ADDRESS = nothing")
    assert len(begun) == 1


def test_the_reason_of_a_failed_run_is_no_line_of_a_wait() -> None:
    """Who was waited for is no reason: what came after it, or Flower's own last line, is."""
    waiting = "fedmed.server: waiting for hospital-1, at most 560 s more; here: none; nodes: 2 of 2"
    last = "ERROR: an actor died"
    assert launch._reason(f"{waiting}\nfedmed.server: round 1/2 AUROC 0.5\n{last}\n") == last
    own = "fedmed.server: hospital-1 did not join"
    assert launch._reason(f"{waiting}\n{own}\n{last}\n") == own


def test_the_reason_is_the_first_exception_and_no_address() -> None:
    log = """
Traceback (most recent call last):
  File "node.py", line 423, in __init__
Exception: The current node timed out during startup.
Traceback (most recent call last):
RuntimeError: Simulation Runtime crashed.
For more information, visit: <https://flower.example/700.html>
"""
    assert launch._reason(log) == "Exception: The current node timed out during startup."
    plain = "no room on the device\nFor more information, visit: <https://flower.example/1.html>\n"
    assert launch._reason(plain) == "no room on the device"
    assert launch._reason("") == "flwr run failed without a word"
