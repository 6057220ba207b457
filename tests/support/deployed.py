"""A deployed federation of processes on loopback: SuperLink, guards, SuperNodes, TLS and keys."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from PIL import Image

from fedmed.config import Scalar
from fedmed.launch import free_ports, stage_app
from fedmed.site.certs import make_certificates, write_secret
from fedmed.site.connection import new_key

SITES = ("a-clinic", "b-clinic", "c-clinic")
POLICY = """public-size = 24
allow-reproducible-noise = true
maximum-epsilon = 500.0
delta = 1e-3
arms = ["dp-sgd", "pixel-laplace"]
"""
_PATIENCE = 120.0  # seconds for a process to be ready

Settings = dict[str, Scalar]


def write_tables(folder: Path, patients: int = 40, size: int = 16) -> Path:
    """``all.csv`` with a column ``site`` and each site's own table, over a folder of small PNGs."""
    draw = np.random.default_rng(7)
    images = folder / "images"
    images.mkdir(parents=True)
    rows = []
    for site in SITES:
        for number in range(patients):
            name = f"{site}-{number}.png"
            label = number % 2
            pixels = draw.integers(0, 160, (size, size)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(images / name)
            split = "train" if number < 24 else ("val" if number < 30 else "test")
            row = {"image": name, "label": label, "patient_id": f"{site}-p{number}"}
            rows.append({**row, "site": site, "split": split, "sex": "FM"[number // 2 % 2]})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "all.csv", index=False)
    for site, own in table.groupby("site"):
        (folder / str(site)).mkdir()
        own.drop(columns="site").to_csv(folder / str(site) / "cohort.csv", index=False)
    return folder


def environment(home: Path) -> dict[str, str]:
    """Of a process that shares neither Flower's nor fedmed's home with another."""
    return {
        **os.environ,
        "FLWR_HOME": str(home / "flwr"),
        "FEDMED_HOME": str(home / "fedmed"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@dataclass
class Processes:
    """What a test started, each with a log of its own, all of it ended by process id."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str], home: Path) -> None:
        """Start ``command``; its output goes to ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                env=environment(home),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, words: str, times: int = 1) -> None:
        """Until the log of ``name`` holds ``words``; fails with its end where that never comes."""
        deadline = time.monotonic() + _PATIENCE
        while self.log(name).count(words) < times:
            alive = self.running[name].poll() is None
            assert alive, f"{name} ended: {self.log(name)[-3000:]}"
            assert time.monotonic() < deadline, f"{name} waits: {self.log(name)[-3000:]}"
            time.sleep(0.2)

    def wait_for_end(self, name: str) -> int:
        """Exit status of a process that cannot go on; fails where it does."""
        try:
            return self.running[name].wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} goes on: {self.log(name)[-3000:]}") from None
        finally:
            self.stop(name)

    def stop(self, *names: str) -> None:
        """End processes and what they started: each is a session of its own."""
        ending = [self.running.pop(name) for name in names]
        for signal in (15, 9):
            for process in ending:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal)
            for process in ending:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=15)
            ending = [process for process in ending if process.poll() is None]

    def stop_all(self) -> None:
        self.stop(*self.running)


@dataclass
class Deployment:
    """A running federation; ``flwr`` commands talk to its SuperLink as ``deployed``."""

    folder: Path
    processes: Processes
    fleet: str
    home: Path
    numbers: dict[str, int] = field(default_factory=dict)  # of the nodes that were registered

    def flwr(self, *words: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """A command of Flower's as the coordinator's researcher gives it."""
        return subprocess.run(
            ["flwr", *words],
            env=environment(self.home),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.home,
        )

    def prepare(self, site: str, settings: str = "", policy: str = POLICY) -> Path:
        """A site's files and key beside its table; returns its folder."""
        home = self.folder / site
        private, public = new_key()
        write_secret(home / "node.key", private)
        (home / "node.pub").write_bytes(public + b"\n")
        (home / "policy.toml").write_text(policy)
        (home / "connection.toml").write_text(
            f'server = "{self.fleet}"\nca = "../ca.crt"\nkey = "node.key"\n'
        )
        (home / "site.toml").write_text(
            f'name = "{site}"\npolicy = "policy.toml"\nledger = "state/ledger.sqlite"\n'
            # A socket's path may not be long, and pytest's folders are.
            f'socket = "{self.socket(site)}"\n[data]\nsource = "table"\n'
            f'path = "cohort.csv"\nimages = "../images"\n[settings]\n"run.device" = "cpu"\n'
            f'"run.threads" = 1\n{settings}\n'
        )
        return home

    def register(self, site: str) -> int:
        """What the coordinator does with the public key that a site sends; the node's number."""
        key = str(self.folder / site / "node.pub")
        done = self.flwr("supernode", "register", key, "deployed", "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        self.numbers[site] = int(json.loads(done.stdout)["node-id"])
        return self.numbers[site]

    def start_guards(self, *names: str) -> None:
        """Start the guards of these sites, and wait until all listen."""
        code = (
            "import sys, pathlib; from fedmed.hospital.guard.process import run; "
            "run(pathlib.Path(sys.argv[1]), lambda site: print('ready', flush=True))"
        )
        for name in names:
            home = self.folder / name
            command = [sys.executable, "-c", code, str(home / "site.toml")]
            self.processes.start(f"guard-{name}", command, home)
        for name in names:
            self.processes.wait_for(f"guard-{name}", "ready")

    def start_node(self, site: str, **changed: str) -> None:
        """Start a site's SuperNode as ``fedmed site join`` does, with its guard's socket."""
        (port,) = free_ports(1)
        options = {"guard": self.socket(site), "port": str(port), **changed}
        home = self.folder / site
        self.processes.start(
            f"node-{site}",
            [
                *[sys.executable, "-m", "fedmed.cli", "site", "join"],
                str(home / "connection.toml"),
                *(word for name, value in options.items() for word in (f"--{name}", value)),
            ],
            home,
        )

    def nodes(self) -> dict[int, str]:
        """The status of each node, by its number, as ``flwr supernode list`` asks for it."""
        authority = (self.folder / "ca.crt").read_bytes()
        with ControlHttpClient.from_server_address(self.fleet, False, authority, []) as client:
            found = client.ListNodes(ListNodesRequest()).nodes_info
        return {node.node_id: node.status for node in found}

    def run(self, settings: Settings, out: Path, timeout: float = 300.0) -> dict[str, Any]:
        """``flwr run`` against this federation; the result of the run."""
        app = self.folder / f"app-{out.name}"
        stage_app(app, settings | {"run.out": str(out)})
        done = self.flwr("run", str(app), "deployed", "--stream", timeout=timeout)
        told = done.stdout + done.stderr
        assert (out / "result.json").is_file(), told[-4000:] + self.logs()
        found: dict[str, Any] = json.loads((out / "result.json").read_text())
        return found

    def logs(self) -> str:
        """The end of every running process's log."""
        logs = self.processes.running
        return "".join(f"\n--- {name}\n{self.processes.log(name)[-1500:]}" for name in logs)

    def socket(self, site: str) -> str:
        """Where the guard of a site listens: a short path."""
        return f"{self.home}/{SITES.index(site)}/g.sock"


@contextlib.contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A SuperLink with TLS and node authentication, and nobody joined yet; all ends with it."""
    make_certificates(folder, ["127.0.0.1", "localhost"])
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="fm-") as short:
        home = Path(short)
        for number in range(len(SITES)):
            (home / str(number)).mkdir(mode=0o700)
        (home / "flwr").mkdir()
        (home / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "deployed"\n[superlink.deployed]\n'
            f'address = "127.0.0.1:{port}"\nroot-certificates = "{folder / "ca.crt"}"\n'
        )
        processes = Processes(folder)
        try:
            processes.start(
                "superlink",
                [
                    *[
                        sys.executable,
                        "-m",
                        "fedmed.coordinator.superlink",
                        "--enable-supernode-auth",
                    ],
                    *["--isolation", "subprocess"],
                    *["--ssl-ca-certfile", str(folder / "ca.crt")],
                    *["--ssl-certfile", str(folder / "server.crt")],
                    *["--ssl-keyfile", str(folder / "server.key")],
                    *["--host", "127.0.0.1", "--port", str(port)],
                ],
                home,
            )
            time.sleep(1)
            found = Deployment(folder, processes, f"127.0.0.1:{port}", home)
            deadline = time.monotonic() + _PATIENCE
            while (done := found.flwr("supernode", "list", "deployed")).returncode != 0:
                assert time.monotonic() < deadline, done.stdout + processes.log("superlink")[-3000:]
                time.sleep(0.5)
            yield found
        finally:
            processes.stop_all()
