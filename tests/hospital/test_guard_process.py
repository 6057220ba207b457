"""A guard as a process of its own: ready in time, and closed to the app's user."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from support import goes_red
from support.guard import CONFIG, POLICY, SITE, write_site

from clients import app as client_app
from fedmed import models
from fedmed.config import from_flat
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.privacy.ledger.ledger import Ledger

REPOSITORY = Path(__file__).resolve().parents[2]
STRANGER = 65_534  # nobody: owns nothing here
root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0,
    reason="needs root, to run guard and app as users of their own",
)


@contextmanager
def guarding(site: Path) -> Iterator[float]:
    """A guard process; how many seconds of a processor it took to be ready."""
    env = {k: v for k, v in os.environ.items() if k != "FEDMED_HOME"}
    env |= {"PYTHONPATH": str(REPOSITORY), "HOME": str(site.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fedmed.cli", "guard", str(site)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
        cwd=site.parent,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready: st-mary on "), line
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        yield sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stdout.close()


BECOMING = """
import os, sys
for user in map(int, sys.argv.pop(1).split(",")):
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    break
else:
    sys.exit()
"""


def as_users(imports: str, code: str, users: list[int], *arguments: str) -> list[str]:
    """The line that Python code prints as each user, who may not reach Python's own files."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            imports + BECOMING + code,
            ",".join(map(str, users)),
            *arguments,
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(users), done.stderr
    return lines


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user reaches, as pytest's own is not."""
    folder = Path("/tmp") / f"fedmed-guard-{os.getpid()}-{tmp_path.name[-8:]}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


MODEL = {"model.name": "resnet9"}


def context(site: Path, config: dict[str, object], grid: InlineGrid) -> Context:
    node = {"guard": str(site.parent / "run" / "guard.sock")}
    return Context(
        run_id=5,
        node_id=2,
        node_config=node,  # type: ignore[arg-type]  # Flower's own, wider type
        state=RecordDict(),
        run_config=config,  # type: ignore[arg-type]  # Flower's own, wider type
    )


def test_the_app_relays_and_nothing_but_the_noised_update_comes_back(tmp_path: Path) -> None:
    site = write_site(tmp_path)
    config = CONFIG | MODEL
    settings = from_flat(dict(config) | {"data.source": "phantom"})
    built = models.build(settings.model, 16, seed=0)
    parameters = messages.parameters_of(built)
    frozen = messages.encode_arrays(messages.frozen_of(built))
    grid = InlineGrid(client_app.app, 1, {})
    with guarding(site) as seconds:
        assert seconds < 20  # 7 where it was measured; the clock's would be the machine's load
        here = context(site, config, grid)

        def ask(content: RecordDict, kind: str) -> Message:
            return client_app.app(Message(content, 2, kind), here)

        joining = messages.read_join(ask(messages.query_content("run-1"), MessageType.QUERY))
        assert isinstance(joining, messages.Joining)
        assert (joining.hospital, joining.accepts, joining.public_size) == ("st-mary", True, 40)
        content = messages.train_content(parameters, frozen, 1, "run-1")
        answers = [ask(content, MessageType.TRAIN) for _ in range(2)]
        assert sorted(answers[0].content) == ["reply", "update"]
        first, again = (messages.read_reply(a, "st-mary", parameters) for a in answers)
        assert first.error is None
        assert first.update is not None
        assert again.update is not None
        assert all(torch.equal(first.update[n], again.update[n]) for n in parameters)
        here.run_config["privacy.arm"] = "none"
        refused = messages.read_reply(ask(content, MessageType.TRAIN), "st-mary", parameters)
        assert refused.error == "policy"
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    assert ledger.steps("run-1") == 7
    assert ledger.verify() > 0
    assert not (tmp_path / "run" / "guard.sock").exists()
    gone = ConfigRecord({"run": "run-1"})
    answer = client_app.app(Message(RecordDict({"request": gone}), 2, MessageType.QUERY), here)
    assert messages.read_join(answer) == "guard"


WHAT_IS_THERE = """
import sys
def found(*names):
    print([m for m in sys.modules if m.startswith(names)])
"""
RELAYING = """
data = ("fedmed.data", "fedmed.privacy.ledger", "fedmed.hospital.hospital", "fedmed.hospital.guard")
import clients.app, fedmed.hospital.relay
found(*data)
import fedmed.hospital.simulated
found(*data)
"""
GUARDING = """
import fedmed.hospital.guard.process
found("flwr", "grpc")
import flwr.app
found("flwr", "grpc")
"""


@pytest.mark.parametrize("code", [RELAYING, GUARDING], ids=["no data code", "no Flower"])
def test_app_and_guard_import_nothing_of_each_other(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHAT_IS_THERE + code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
    )

    def check(line: str) -> None:
        assert line == "[]"

    ours, sabotaged = done.stdout.splitlines()
    check(ours)
    goes_red(check, sabotaged)


# What an app that came from outside may try once it runs, as its own user.
HOSTILE = """
site = Path(sys.argv[1])
got = []
for pattern in ("state", "state/*", "state/**/*", "state/ledger.sqlite", "cohort/*"):
    for name in glob.glob(str(site / pattern), recursive=True) or [str(site / pattern)]:
        try:
            got.append(open(name, "rb").read(16).hex()) if not os.path.isdir(name) else \
                got.extend(os.listdir(name))
        except OSError:
            pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"guard" in open(f"/proc/{pid}/cmdline", "rb").read():
            got.append(open(f"/proc/{pid}/environ", "rb").read(10).hex())
            got.append(open(f"/proc/{pid}/mem", "rb").read(1).hex())
    except OSError:
        pass
for name, mode in (("state/ledger.sqlite", "ab"), ("policy.toml", "ab"), ("run/evil", "wb")):
    try:
        open(site / name, mode).close()
        got.append(name)
    except OSError:
        pass
try:
    os.unlink(site / "run/guard.sock")
    got.append("socket")
except OSError:
    pass
print(json.dumps(got))
"""
ASKING = """
try:
    print(asking.status(sys.argv[1], seconds=30)["hospital"])
except asking.GuardRefusal as refusal:
    print("refused", refusal.code)
"""


@root
def test_an_app_of_another_user_reads_neither_shard_nor_ledger(open_path: Path) -> None:
    """The guard's files against an app as user 65534 (and, sabotaged, as the guard's own)."""
    text = SITE.replace("[data]", f"peers = [{STRANGER}]\n[data]")
    site = write_site(open_path, POLICY, text)
    (open_path / "cohort").mkdir(mode=0o700)
    (open_path / "cohort" / "shard.csv").write_text("patient_id\np1\n")

    users = [STRANGER, STRANGER - 2, os.getuid()]
    with guarding(site):
        heard = as_users(
            "from fedmed.site import asking", ASKING, users, str(open_path / "run" / "guard.sock")
        )
        got = as_users(
            "import glob, json\nfrom pathlib import Path", HOSTILE, users, str(open_path)
        )

    def check(line: str) -> None:
        assert json.loads(line) == []

    assert heard == [
        "st-mary",
        "refused guard",
        "st-mary",
    ]  # of its own user it takes health checks
    check(got[0])
    check(got[1])
    goes_red(check, got[2])
