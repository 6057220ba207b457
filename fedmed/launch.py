"""Starting one run: in this process, or by ``flwr run`` on Ray."""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fedmed import __version__
from fedmed.base import files
from fedmed.base.errors import RunError
from fedmed.config import Scalar, Settings
from fedmed.experiment.directory import RunDirectory
from fedmed.federation.surroundings import check_cluster, ray_folder, without_proxy

OnRound = Callable[[int, int, float | None], None]
_ON_THE_WAY = re.compile(r": (round \d+/\d+|waiting for) ")  # lines that tell no reason
_RAISED = re.compile(r"(\w+\.)*\w*(Error|Exception): \S")  # the last line of a traceback
_START_TIMEOUT = 90.0  # seconds for a SuperLink to answer


def run_inline(settings: Settings, folder: Path, name: str, on_round: OnRound) -> dict[str, Any]:
    """Run one arm in this process, hospital after hospital; returns its result."""
    from fedmed.coordinator.coordinator import coordinate
    from fedmed.federation.inline import InlineGrid
    from fedmed.hospital.app import app

    # Flower sets its own logger up when it is imported; here the progress bars speak.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    here = settings.replaced({"run.out": str(folder.resolve())})
    if here.run.threads:
        torch.set_num_threads(here.run.threads)
    grid = InlineGrid(app, here.nodes, here.to_flat())
    return coordinate(grid, here, folder, name=name, on_round=on_round)


class RaySimulation:
    """Runs arms by ``flwr run`` on a SuperLink of its own, which is stopped when it is left.

    ``environment`` makes any ``flwr`` command talk to that SuperLink.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.environment: dict[str, str] = {}

    def __enter__(self) -> "RaySimulation":
        """Start a SuperLink on free loopback ports, in a Flower home of its own.

        Raises :class:`UserError` where a variable of the environment stands in Ray's way.
        """
        check_cluster(os.environ)
        with contextlib.ExitStack() as stack:  # what was begun is ended where the rest fails
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: contextlib.ExitStack) -> None:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedmed-flwr-")))
        http, control = free_ports(2)
        self.environment = {
            **os.environ,
            **without_proxy(os.environ),
            **stack.enter_context(ray_folder(os.environ)),
            "FLWR_HOME": str(home),
            "FEDMED_HOME": str(files.home()),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
            "FLWR_LOCAL_CONTROL_API_PORT": str(control),
            # The packages are installed already; Flower would install torch again for each run.
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        stack.enter_context(self._superlink(home, http, control))

    def __exit__(self, *error: object) -> None:
        """Stop the SuperLink and remove its home."""
        self._stack.close()

    def run(self, settings: Settings, folder: Path, name: str, on_round: OnRound) -> dict[str, Any]:
        """Run one arm on Ray; returns its result."""
        result = folder / "result.json"
        here = settings.replaced({"run.out": str(folder.resolve())})
        if result.is_file():
            # The server app would only check the settings and end.
            RunDirectory(folder).open(here, name)
        else:
            self._flwr_run(here, folder, on_round)
        told: dict[str, Any] = files.read_json(result)
        return told

    def _flwr_run(self, settings: Settings, folder: Path, on_round: OnRound) -> None:
        with tempfile.TemporaryDirectory(prefix="fedmed-app-") as temporary:
            stage_app(Path(temporary), settings.to_flat())
            log_path = Path(temporary) / "flwr.log"
            command = [
                "flwr",
                "run",
                temporary,
                "--stream",
                "--federation-config",
                resources(settings),
            ]
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
                )
                try:
                    _follow(process, folder / "history.jsonl", settings.train.rounds, on_round)
                finally:
                    _stop(process)
            if not (folder / "result.json").is_file():
                raise RunError(_reason(log_path.read_text(encoding="utf-8", errors="replace")))

    @contextlib.contextmanager
    def _superlink(self, home: Path, http: int, control: int) -> Iterator[None]:
        command = [
            "flower-superlink",
            "--insecure",
            "--simulation",
            "--isolation",
            "subprocess",
            "--control-api-address",
            f"127.0.0.1:{control}",
            "--host",
            "127.0.0.1",
            "--port",
            str(http),
        ]
        with (home / "superlink.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                _wait_until_healthy(process, http, home / "superlink.log")
                yield
            finally:
                _stop(process)


def resources(settings: Settings) -> str:
    """Flower's federation config: one node per hospital, all CPUs in turn, a share of a GPU."""
    gpus = 0.0
    if settings.run.device != "cpu" and torch.cuda.is_available():
        gpus = 1.0 / settings.run.hospitals_per_gpu
    cpus = settings.run.threads or min(2, os.cpu_count() or 1)
    return (
        f"num-supernodes={settings.nodes} client-resources-num-cpus={cpus} "
        f"client-resources-num-gpus={gpus:g}"
    )


def stage_app(folder: Path, run_config: dict[str, Scalar]) -> None:
    """A Flower app folder: the packages' Python files and a pyproject with this run config."""
    package = Path(__file__).resolve().parent
    for source in package.rglob("*.py"):
        target = folder / source.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    lines = [
        "[project]",
        'name = "fedmed"',
        f'version = "{__version__}"',
        'description = "one run"',
        'license = "Apache-2.0"',
        "dependencies = []",
        "[tool.flwr.app]",
        'publisher = "fedmed"',
        "[tool.flwr.app.components]",
        'serverapp = "fedmed.coordinator.app:app"',
        'clientapp = "fedmed.hospital.app:app"',
        "[tool.flwr.app.config]",
        *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in run_config.items()),
    ]
    files.write_text(folder / "pyproject.toml", "\n".join(lines) + "\n")


def free_ports(count: int) -> list[int]:
    """Free loopback ports, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _follow(process: subprocess.Popen[bytes], history: Path, rounds: int, tell: OnRound) -> None:
    """Pass on the rounds of a history file while the process that fills it lives."""
    told = 0
    while True:
        ended = process.poll() is not None
        lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
        for line in lines[told:]:
            entry = json.loads(line)
            tell(entry["round"], rounds, entry["auroc"])
        told = len(lines)
        if ended:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # whatever http_proxy says
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            direct.open(f"http://127.0.0.1:{port}/health", timeout=2),
        ):
            return
        time.sleep(0.3)
    raise RunError(f"Flower's SuperLink did not start: {_reason(log.read_text(errors='replace'))}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(log: str) -> str:
    """The line of a log that says what went wrong.

    The last of fedmed's own, else the first exception, of which the others follow, else the last
    line that is more than an address.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [x for x in lines if "fedmed.server: " in x and not _ON_THE_WAY.search(x)]
    raised = [x for x in lines if _RAISED.match(x)]
    said = [x for x in lines if not x.startswith("For more information, visit")]
    return (own[-1:] or raised[:1] or said[-1:] or ["flwr run failed without a word"])[0]
