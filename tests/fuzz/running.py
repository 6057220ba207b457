"""Runs one case in a process of its own, with limits of time and memory, and sees what it left.

Importing torch takes seconds, so most cases are run in a fork of a process that has everything
imported; :func:`spawned` starts a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzz.cases import Case

if TYPE_CHECKING:
    from fedmed.report import vega

SECONDS = 20.0
BYTES = 2 << 30
_POLL = 0.01


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: ``code`` is negative for a signal, None for one that was stopped."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak: int  # bytes
    stopped: str = ""  # why: time or memory
    left: dict[str, str] = field(default_factory=dict)  # new or changed files below the folder


def forked(case: Case, folder: Path) -> Outcome:
    """Run a case in a fork of this process."""

    def start() -> int:
        child = os.fork()
        if not child:
            _child(case, folder)
        return child

    return _watched(case, folder, start)


def spawned(case: Case, folder: Path) -> Outcome:
    """Run a case as a user would."""

    def start() -> int:
        with _logs(folder, "wb") as (out, err):
            process = subprocess.Popen(
                [sys.executable, "-m", "fedmed.cli", *map(os.fsencode, case.arguments)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder / "work",
                env=os.environ | _environment(folder), start_new_session=True,
            )  # fmt: skip
        process.returncode = 0  # waited for by its id, below
        return process.pid

    return _watched(case, folder, start, new=True)


def preload() -> None:
    """Import what the commands import, before anything is forked."""
    import importlib

    for name in (
        "fedmed.cli", "fedmed.experiment.run", "fedmed.launch", "fedmed.report",
        "fedmed.cli.evaluate", "fedmed.site.doctor", "fedmed.site.init",
        "fedmed.experiment.forecast", "fedmed.data.inspect", "fedmed.privacy.ledger.report",
        "fedmed.cli.progress", "fedmed.trackers", "fedmed.hospital.guard.process",
        "fedmed.coordinator.coordinator", "pyarrow.parquet",
        "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "pydicom.pixels.decoders",
    ):  # fmt: skip
        importlib.import_module(name)
    from fedmed.evaluation.comparison import compare
    from fedmed.report import vega

    # What takes seconds and reads nothing is left out or made short.
    vega.render = _undrawn
    compare.write.__kwdefaults__["resamples"] = 100
    gc.collect()
    gc.freeze()  # so that a fork does not copy what it only looks at


def _undrawn(specifications: list[Any], replaced: dict[str, str]) -> tuple[str, list[vega.Drawing]]:
    """What drawing needs, without the seconds that it takes; a new process draws."""
    from fedmed.report import vega

    json.dumps([specifications, replaced], ensure_ascii=False).encode()
    empty = '<svg width="1" height="1"></svg>'
    return "void 0;", [vega.Drawing(empty, empty, b"") for _ in specifications]


def _environment(folder: Path) -> dict[str, str]:
    names = ("home", "tmp", "work")
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    return {
        "FEDMED_HOME": str(folder / "home"),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "FLWR_HOME": str(folder / "home" / "flwr"),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": "200",
    }


@contextlib.contextmanager
def _logs(folder: Path, mode: str):  # type: ignore[no-untyped-def]  # two open files
    with (folder / "out").open(mode) as out, (folder / "err").open(mode) as err:
        yield out, err


def _child(case: Case, folder: Path) -> None:
    """Be the command; never returns."""
    code = 1
    try:
        os.setsid()
        os.environ.update(_environment(folder))
        import tempfile

        tempfile.tempdir = None
        os.chdir(folder / "work")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with _logs(folder, "wb") as (out, err):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
        # Whoever runs this may have put something else in their place.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        from fedmed.cli import commands as cli

        sys.argv = ["fedmed", *case.arguments]
        cli.main(case.arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watched(  # type: ignore[no-untyped-def]  # start() -> pid
    case: Case, folder: Path, start, new: bool = False
) -> Outcome:
    _environment(folder)
    before = listing(folder)
    begin = time.monotonic()
    # A fork shows all that this process holds, and has taken none of it.
    most = BYTES + (0 if new else _resident(os.getpid(), "VmRSS"))
    child = start()
    stopped, peak, asked = "", 0, False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        peak = max(peak, _resident(child))
        seconds = time.monotonic() - begin
        if case.ends and not asked and case.ends in _read(folder / "out") + _read(folder / "err"):
            asked = True
            os.kill(child, signal.SIGTERM)
        late = seconds > SECONDS and _is_late(child, seconds)
        if late or peak > most:
            stopped = "time" if late else "memory"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)  # it may not lead a group yet
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(_POLL)
    seconds = time.monotonic() - begin
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started
    if not new:  # a new program's ru_maxrss begins with the most that this process ever held
        peak = max(peak, usage.ru_maxrss * 1024)
    if not stopped and peak > most:
        stopped = "memory"
    after = listing(folder)
    return Outcome(
        code=None if stopped else 0 if asked else os.waitstatus_to_exitcode(status),
        out=_read(folder / "out"),
        err=_read(folder / "err"),
        seconds=seconds,
        peak=peak,
        stopped=stopped,
        left={name: state for name, state in after.items() if before.get(name) != state},
    )


def listing(folder: Path) -> dict[str, str]:
    """What lies below a folder: regular files by their content, all else by its kind."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place) / name
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"link {os.readlink(path)}"
            elif path.is_dir():
                found[key] = "folder"
            elif not path.is_file():
                found[key] = "other"
            elif (size := path.stat().st_size) > 1 << 26:
                found[key] = f"{size} bytes"
            else:
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _resident(process: int, what: str = "VmHWM") -> int:
    """Memory, bytes, that a process has held at most, or holds (VmRSS); 0 once it is gone."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8", errors="replace") as source:
            return next(int(line.split()[1]) for line in source if line.startswith(what)) * 1024
    except (OSError, StopIteration, ValueError):
        return 0


def _is_late(child: int, seconds: float) -> bool:
    """Whether a process waits, or has computed, for the whole time: not one that others held up."""
    try:
        with open(f"/proc/{child}/stat", "rb") as source:
            fields = source.read().rpartition(b")")[2].split()
    except OSError:
        return True
    computed = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return fields[0] == b"S" or computed > SECONDS or seconds > 6 * SECONDS


def _read(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as source:
        return source.read(1 << 22).decode("utf-8", errors="surrogateescape")
    return ""
