"""``fedmed doctor`` and ``fedmed site join`` on each bad input: which it is, in one line."""

import datetime
import http.client
import json
import os
import re
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from support import goes_red, refuses
from support.site import a_site, superlink

import fedmed.site.registered
from fedmed.base.errors import UserError
from fedmed.cli import commands as cli
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.site import doctor, join
from fedmed.site.certs import make_certificates
from fedmed.site.connection import Connection, read_connection
from fedmed.site.doctor import examine
from fedmed.site.reach import Check, knock


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is registered: the real question needs a real server; see tests/e2e."""
    monkeypatch.setattr(fedmed.site.registered, "registered", lambda connection: 7)


def away(connection: object) -> list[Check]:
    """No network at all: for what has nothing to do with it."""
    return []


def wrong(checks: list[Check]) -> dict[str, str]:
    assert all("\n" not in check.text for check in checks)
    return {check.name: check.text for check in checks if not check.ok and not check.skipped}


def skipped(checks: list[Check]) -> dict[str, str]:
    """What was not looked at, and what it rests on."""
    return {check.name: check.text for check in checks if check.skipped}


def told(checks: list[Check], name: str, *words: str) -> None:
    """Exactly ``name`` is wrong, and its line holds ``words``."""
    found = wrong(checks)
    assert list(found) == [name], found
    for word in words:
        assert word in found[name], found


def test_a_good_site_is_all_ok(tmp_path: Path) -> None:
    with superlink(tmp_path / "pki") as address:
        checks = examine(a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt"))
    assert wrong(checks) == {}
    assert [check.name for check in checks if not check.note] == [
        "site file", "policy", "connection", "node key", "reachable", "certificate", "clock",
        "version", "registered", "data", "patients", "cohort", "device", "disk", "ledger",
    ]  # fmt: skip
    assert skipped(checks) == {}
    assert doctor.summary(checks) == "all 15 checks ok"
    texts = {check.name: check.text for check in checks}
    assert texts["patients"].startswith("12, each in one split")
    assert "24 images" in texts["data"]


def test_wrong_ca(tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", ["127.0.0.1"])
    with superlink(tmp_path / "pki") as address:
        site = a_site(tmp_path / "s", address, tmp_path / "other" / "ca.crt")
        told(examine(site), "certificate", "was not signed by", "ca.crt")
        connection = read_connection(site.parent / "connection.toml")
        refuses(lambda: join.await_server(connection, print), "certificate", "not signed")
        goes_red(told, knock(connection), "clock")
        connection.ca.write_text("no certificate")
        told(examine(site), "certificate", "put the server's CA there")


@pytest.mark.parametrize(
    ("days", "words"), [(-60, ("expired", "clock")), (60, ("does not hold yet", "clock"))]
)
def test_expired_certificate_or_a_clock_far_off(
    days: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    start = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    with superlink(tmp_path / "pki", start=start) as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "certificate", *words)
        connection = read_connection(site.parent / "connection.toml")
        refuses(lambda: join.await_server(connection, print), "certificate", *words)


def test_certificate_of_another_host(tmp_path: Path) -> None:
    with superlink(tmp_path / "pki", host="fl.example.org") as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "certificate", "not for 127.0.0.1")


def test_a_server_without_tls_is_never_talked_to(tmp_path: Path) -> None:
    with superlink(tmp_path / "pki", tls=False) as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "certificate", "does not speak TLS")


@pytest.mark.parametrize(("skew", "word"), [(20, "behind"), (-20, "ahead of")])
def test_clock_skew(skew: float, word: str, tmp_path: Path) -> None:
    with superlink(tmp_path / "pki", skew=skew) as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "clock", word, "NTP")


def test_version_mismatch(tmp_path: Path) -> None:
    with superlink(tmp_path / "pki", flower="1.40.0") as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "version", f"{version('flwr')} here, 1.40.0 at the server")
        connection = read_connection(site.parent / "connection.toml")
        refuses(lambda: join.await_server(connection, print), "version", "1.40.0")


def test_key_with_open_permissions(tmp_path: Path) -> None:
    with superlink(tmp_path / "pki") as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        key = site.parent / "keys" / "node"
        key.chmod(0o640)
        told(examine(site), "node key", "others may read", "0640", "chmod 600")
        key.chmod(0o600)
        key.write_text("-----BEGIN")
        told(examine(site), "node key", "no OpenSSH private key")


def test_a_key_that_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmed.site.registered, "registered", lambda connection: None)
    with superlink(tmp_path / "pki") as address:
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "registered", "node.pub", "flwr supernode register")


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        make_certificates(tmp_path / "pki", ["127.0.0.1"])
        site = a_site(tmp_path / "s", address, tmp_path / "pki" / "ca.crt")
        told(examine(site), "reachable", address, "refused", "firewall")
        said: list[str] = []
        waited: list[float] = []
        connection = read_connection(site.parent / "connection.toml")
        refuses(
            lambda: join.await_server(connection, said.append, tries=4, sleep=waited.append),
            "reachable",
            address,
        )
    assert waited == [2, 5, 10]
    assert "trying again in 2 s" in said[0]
    looks = iter([[Check("reachable", False, "x", later=True)], [Check("reachable", True, "y")]])
    join.await_server(connection, said.append, look=lambda c: next(looks), sleep=waited.append)
    assert waited == [2, 5, 10, 2]


def test_no_secret_is_on_the_supernode_s_command_line(tmp_path: Path) -> None:
    make_certificates(tmp_path / "pki", ["127.0.0.1"])
    site = a_site(tmp_path / "s", "127.0.0.1:1", tmp_path / "pki" / "ca.crt")
    connection = read_connection(site.parent / "connection.toml")
    at = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as guard, socket.socket() as free:
        guard.bind(str(at))
        free.bind(("127.0.0.1", 0))
        taken = free.getsockname()[1]
        free.listen()
        refuses(lambda: join.supernode(connection, at, taken), f"--port {taken}", "taken")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = join.supernode(connection, at, port)
    secret = connection.key.read_text().splitlines()[1]
    assert not any(secret in part for part in command)
    assert "--insecure" not in command
    assert f"--auth-supernode-private-key={connection.key}" in command
    assert f"--root-certificates={connection.ca}" in command
    assert command[:4] == [sys.executable, "-P", "-m", "fedmed.hospital.node"], (
        "which checks app bundles"
    )
    assert f'--node-config=guard="{at}"' in command
    refuses(lambda: join.supernode(connection, tmp_path / "none"), "--guard", "fedmed guard")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "pki", ["127.0.0.1"])
    return a_site(tmp_path / "s", "127.0.0.1:1", tmp_path / "pki" / "ca.crt")


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_policy_with_unknown_keys(site: Path) -> None:
    policy = site.parent / "policy.toml"
    edited(policy, "minimum-cohort", "minimal-cohort")
    told(examine(site, away), "policy", "unknown key 'minimal-cohort'", "minimum-cohort")
    policy.write_text("maximum-epsilon = 1.0\n")
    told(examine(site, away), "policy", "public-size is missing")
    policy.write_text("public-size = 10\n")
    told(examine(site, away), "policy", "anything may be asked")


def test_data_path_missing_or_unreadable(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = site.parent.parent / "s-data" / "cohort.csv"
    with monkeypatch.context() as patch:
        # Root reads everything: what the kernel would say to another user.
        real = os.access
        patch.setattr(os, "access", lambda p, mode: real(p, mode) and Path(p) != table)
        told(examine(site, away), "data", "data.path", "may not read")
    (table.parent / "3.png").unlink()
    told(examine(site, away), "data", "3.png")
    table.unlink()
    told(examine(site, away), "data", "data.path", "no such file")


def test_a_patient_in_two_splits(site: Path) -> None:
    table = site.parent.parent / "s-data" / "cohort.csv"
    rows = table.read_text().splitlines()
    splits = ["split", *(("train", "train", "val", "test")[n // 2 % 4] for n in range(24))]
    splits[2] = "test"  # the first patient's second image
    table.write_text("\n".join(f"{r},{s}" for r, s in zip(rows, splits, strict=True)) + "\n")
    edited(site, 'split = "patient"', 'split = "given"')
    assert "split" in wrong(examine(site, away))["data"]


def test_a_cohort_below_the_policy_s(site: Path) -> None:
    edited(site.parent / "policy.toml", "minimum-cohort = 4", "minimum-cohort = 100")
    told(examine(site, away), "cohort", "minimum-cohort is 100", "not start")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ["none", "dp-sgd"]}, "arms none: updates leave without noise"),
        ({"arms": ["central-fixed"]}, "arms central-fixed: updates leave without noise"),
        ({"public_size": 1000, "delta": 0.001}, "delta 0.001 is no less than 1 / public-size"),
        ({"public_size": 10}, "apps is empty: the node runs whatever app the server sends"),
        ({"public_size": 1000}, "public-size is 1000, and 6 patients are in training"),
    ],
)
def test_what_a_policy_allows_is_told_before_a_board_asks(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """A remark stops nothing: the site is all ok."""
    make_certificates(tmp_path / "pki", ["127.0.0.1"])
    ca = tmp_path / "pki" / "ca.crt"
    checks = examine(a_site(tmp_path / "s", "127.0.0.1:9", ca, **changes), away)
    assert wrong(checks) == {}
    assert any(words in check.text for check in checks if check.note), checks


def test_a_policy_with_nothing_to_remark(tmp_path: Path) -> None:
    make_certificates(tmp_path / "pki", ["127.0.0.1"])
    ca = tmp_path / "pki" / "ca.crt"
    site = a_site(tmp_path / "s", "127.0.0.1:9", ca, public_size=12, app="a" * 64)
    assert [check.text for check in examine(site, away) if check.note] == []


def test_a_gpu_that_is_not_there(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    site.write_text(site.read_text() + '"run.device" = "cuda"\n')
    told(examine(site, away), "device", "run.device is cuda")


def test_a_full_disk(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SPACE", 2**62)
    told(examine(site, away), "disk", "GiB free")


def test_ledger_on_a_read_only_volume(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(dir: Path) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)
    told(examine(site, away), "ledger", "Read-only file system", "mount it writable", "trained")


def test_a_ledger_that_was_edited(site: Path) -> None:
    state = site.parent / "state"
    ledger = Ledger(state / "ledger.sqlite", state / "ledger.audit.jsonl")
    ledger.note("guard started")
    assert wrong(examine(site, away)) == {}
    edited(state / "ledger.audit.jsonl", "guard started", "guard stopped")
    told(examine(site, away), "ledger", "ledger.audit.jsonl", "edited")


def test_no_connection_file(site: Path) -> None:
    (site.parent / "connection.toml").write_text('sever = "a:1"\n')
    told(examine(site), "connection", "unknown key 'sever'", "did you mean 'server'")


def test_the_command_exits_with_two_and_prints_json(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", str(site), "--json"])
    assert caught.value.code == 2  # the server is away
    found = json.loads(capsys.readouterr().out)
    assert {"name", "ok", "text"} == set(found[0])
    assert [check["name"] for check in found if check["ok"] is False] == ["reachable"]
    unseen = [check["name"] for check in found if check["ok"] is None]
    assert unseen == ["certificate", "clock", "version", "registered"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", str(site.parent / "none.toml")])
    assert caught.value.code == 2
    assert capsys.readouterr().out.startswith("NOT OK  site file: ")


def printed(site: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", str(site)])
    assert caught.value.code == 2
    return capsys.readouterr().out.splitlines()


def test_what_was_skipped_and_why_and_a_last_line_that_counts(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(site, capsys)  # the server is away
    names = "certificate, clock, version, registered"
    assert f"skipped {names}: it rests on 'reachable', which is not ok" in lines
    assert lines[-1] == "1 of 15 checks not ok, 4 skipped"
    (site.parent / "policy.toml").write_text("wrong = 1\n")
    edited(site, "cohort.csv", "none.csv")
    lines = printed(site, capsys)
    assert "skipped patients, cohort: it rests on 'data', which is not ok" in lines
    assert lines[-1] == "3 of 15 checks not ok, 6 skipped"
    (site.parent / "connection.toml").write_text('sever = "a:1"\n')
    lines = printed(site, capsys)
    names = "node key, reachable, certificate, clock, version, registered"
    assert f"skipped {names}: it rests on 'connection', which is not ok" in lines
    assert lines[-1] == "3 of 15 checks not ok, 8 skipped"
    site.unlink()
    lines = printed(site, capsys)
    assert len(lines) == 3
    assert lines[-1] == "1 of 15 checks not ok, 14 skipped"


def test_the_guide_lists_every_check() -> None:
    """The names of the first column of docs/deploy.md, in the order in which they are printed."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    table = text.split("## What the doctor checks")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`([a-z ]+)`", row)]
    assert told == [check.name for check in examine(Path("none.toml"))]


def test_a_server_that_hangs_up_was_not_reached(site: Path) -> None:
    """Sabotage: two lines of one name, one ok and one not, and a count of 16."""

    def hangs_up(connection: Connection) -> list[Check]:
        given = {"request.side_effect": TimeoutError("timed out"), "sock": None}
        link = mock.Mock(host=connection.host, **given)
        with mock.patch.object(http.client, "HTTPSConnection", return_value=link):
            return knock(connection)

    checks = examine(site, hangs_up)
    told(checks, "reachable", "timed out", "firewall")
    assert list(skipped(checks)) == ["clock", "version", "registered"]
    assert doctor.summary(checks) == "1 of 15 checks not ok, 3 skipped"


def test_join_says_which_key_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "connection.toml"
    for text, words in (
        ('server = "a:1"\nca = "c"\n', ("key is missing",)),
        ('server = "https://a:1"\nca = "c"\nkey = "k"\n', ("server", "HOST:PORT")),
    ):
        path.write_text(text)
        refuses(lambda: read_connection(path), *words, error=UserError)
