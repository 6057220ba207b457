"""Run the federation of ``compose.yaml`` in real containers and train on it, start to end.

Reads the compose file itself, so that Docker or Podman alone is enough, without their compose
plugin. Everything is removed afterwards. Prints how long each site took to be ready, as JSON.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from trial import HOSPITALS, write_trial

from fedmed.federation.node_keys import fingerprint

ROOT = Path(__file__).resolve().parent.parent
NAME = f"fedmed-e2e-{os.getpid()}"
PORT = 8000
CONFIG = {
    "data.sites": ",".join(HOSPITALS),
    "data.hospitals": len(HOSPITALS),
    "data.image-size": 16,
    "evaluation.where": "hospitals",
    "train.rounds": 2,
    "train.local-epochs": 1,
    "train.batch-size": 8,
    "privacy.arm": "dp-sgd",
    "privacy.epsilon": 8.0,
    "run.out": "/state/run",
    "run.device": "cpu",
}


def main() -> None:
    """Start, register, train, check, stop."""
    engine = os.environ.get("ENGINE", "docker")
    if not shutil.which(engine) or os.geteuid() != 0:
        sys.exit(f"containers/e2e.py: needs root, and ENGINE={engine} to be installed")
    # Whoever ends this ends its containers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fedmed-e2e-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_trial(folder / "trial", f"127.0.0.1:{PORT}")
        try:
            federation(engine, folder, started)
        finally:
            for container in started:
                subprocess.run([engine, "rm", "--force", container], capture_output=True)


def federation(engine: str, folder: Path, started: list[str]) -> None:
    """The services of the compose file, a run on them, and what it left behind."""
    services = substituted((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    begun = time.monotonic()
    start(engine, folder, services, "server", started)
    until("server", lambda: "Uvicorn running" in logs(engine, "server"), engine)
    times = {"server": time.monotonic() - begun}
    healthy(engine, "server", dockerfile_check("server"))
    for number, hospital in enumerate(HOSPITALS):
        register(engine, folder, services, hospital)
        begun = time.monotonic()
        start(engine, folder, services, f"{hospital}-guard", started)
        socket = folder / "trial" / hospital / "run" / "guard.sock"
        until(f"{hospital}-guard", socket.is_socket, engine)
        healthy(
            engine, f"{hospital}-guard", services[f"{hospital}-guard"]["healthcheck"]["test"][1:]
        )
        # All share one loopback here; in a network of their own they may all have the same port.
        port = ["--port", str(9094 + number)]
        start(engine, folder, services, hospital, started, port)
        until(hospital, lambda n=number: logs(engine, "server").count("Activated node") > n, engine)
        times[hospital] = time.monotonic() - begun
        if not number:  # the image's check is at the first one's port
            healthy(engine, hospital, dockerfile_check("clients"))
    print(json.dumps({f"{k} ready, s": round(v, 1) for k, v in times.items()}))
    train(engine, folder, services)
    check(engine, folder)


def substituted(text: str) -> dict[str, Any]:
    """The services, with ``${NAME:-default}`` filled in from the environment."""
    filled = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m.group(1)) or m.group(2), text
    )
    services: dict[str, Any] = yaml.safe_load(filled)["services"]
    return services


def start(
    engine: str,
    folder: Path,
    services: dict[str, Any],
    name: str,
    started: list[str],
    more: list[str] | None = None,
) -> None:
    """Start one service in the background."""
    started.append(f"{NAME}-{name}")
    done = run(engine, folder, services[name], ["--detach", f"--name={NAME}-{name}"], more or [])
    if done.returncode:
        sys.exit(f"{name} did not start: {done.stderr[-1000:]}")


def run(
    engine: str, folder: Path, service: dict[str, Any], options: list[str], more: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run one service as its part of the compose file says, on the host's network if any."""
    network = "none" if service.get("network_mode") == "none" else "host"
    command = [engine, "run", *options, f"--user={service['user']}", f"--network={network}"]
    command += ["--read-only"] if service["read_only"] else []
    command += [f"--cap-drop={capability}" for capability in service["cap_drop"]]
    command += [f"--security-opt={option.partition(':')[0]}" for option in service["security_opt"]]
    command += [f"--tmpfs={place}" for place in service["tmpfs"]]
    command += [f"--memory={service['mem_limit']}"]
    command += [f"--pids-limit={service['pids_limit']}"] if "pids_limit" in service else []
    command += [f"--env={key}={value}" for key, value in service.get("environment", {}).items()]
    command += [f"--entrypoint={part}" for part in service.get("entrypoint", [])]
    for volume in service["volumes"]:
        where, _, rest = volume.partition(":")
        command.append(f"--volume={ROOT if where == '.' else folder / where}:{rest}")
    return subprocess.run(
        [*command, service["image"], *service.get("command", []), *more],
        capture_output=True,
        text=True,
    )


def logs(engine: str, name: str) -> str:
    """What a service printed so far."""
    done = subprocess.run([engine, "logs", f"{NAME}-{name}"], capture_output=True, text=True)
    return done.stdout + done.stderr


def until(name: str, ready: Any, engine: str, seconds: float = 180.0) -> None:
    """Wait; ends with the service's last lines where it takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            sys.exit(f"{name} is not ready after {seconds:.0f} s:\n{logs(engine, name)[-3000:]}")
        time.sleep(0.2)


def dockerfile_check(folder: str) -> list[str]:
    """The health check's command of an image."""
    text = (ROOT / folder / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^HEALTHCHECK [^\[]*CMD (\[.*\])$", text, re.MULTILINE)
    if found is None:
        sys.exit(f"{folder}/Dockerfile has no health check")
    command: list[str] = json.loads(found[1])
    return command


def healthy(engine: str, name: str, command: list[str]) -> None:
    """Run a health check's command as the engine would, which may need systemd for it."""
    done = subprocess.run(
        [engine, "exec", f"{NAME}-{name}", *command], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{name} is not healthy: {done.stdout}{done.stderr}")


def register(engine: str, folder: Path, services: dict[str, Any], hospital: str) -> None:
    """What the coordinator does with a hospital's public key."""
    key = f"/trial/{hospital}/keys/node.pub"
    order = ["supernode", "register", key, "trial"]
    done = run(engine, folder, services["coordinator"], ["--rm"], order)
    if done.returncode:
        sys.exit(f"{hospital} could not be registered: {done.stdout}{done.stderr}")


def train(engine: str, folder: Path, services: dict[str, Any]) -> None:
    """A run under DP-SGD on the three hospitals' own images."""
    public = {h: folder / "trial" / h / "keys" / "node.pub" for h in HOSPITALS}
    keys = {h: fingerprint(path.read_bytes()) for h, path in public.items()}
    config = {**CONFIG, "data.site-keys": ",".join(f"{h}={key}" for h, key in keys.items())}
    settings = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
    begun = time.monotonic()
    order = ["run", "/app", "trial", "--stream", "--run-config", settings]
    done = run(engine, folder, services["coordinator"], ["--rm"], order)
    result = folder / "trial" / "state" / "run" / "result.json"
    if not result.is_file():
        last = ("server", "north-guard", "north")
        ends = "\n".join(f"{name}: {logs(engine, name)[-1500:]}" for name in last)
        sys.exit(f"the run left no result:\n{(done.stdout + done.stderr)[-3000:]}\n{ends}")
    print(json.dumps({"run, s": round(time.monotonic() - begun, 1)}))


def check(engine: str, folder: Path) -> None:
    """Each hospital paid into its own ledger, and no node can see data or ledger."""
    for hospital in HOSPITALS:
        state = folder / "trial" / hospital / "state"
        if not (state / "ledger.sqlite").is_file() or not (state / "ledger.audit.jsonl").is_file():
            sys.exit(f"{hospital}: no ledger or no audit log in {state}")
        for path in ("/site/state", "/site/data", "/site/policy.toml"):
            seen = subprocess.run(
                [engine, "exec", f"{NAME}-{hospital}", "test", "-e", path], capture_output=True
            )
            if seen.returncode == 0:
                sys.exit(f"{hospital}: the SuperNode's container has {path}")
        network = subprocess.run(
            [engine, "exec", f"{NAME}-{hospital}-guard", "cat", "/proc/net/dev"],
            capture_output=True,
            text=True,
        )
        if network.returncode or len(network.stdout.splitlines()) != 3:
            sys.exit(f"{hospital}: the guard has a network: {network.stdout}{network.stderr}")
    print("three ledgers, no node sees data, no guard has a network: all right")


if __name__ == "__main__":
    main()
