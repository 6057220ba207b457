"""Processes that begin with everything heavy imported already, and end without a trace."""

import contextlib
import gc
import importlib
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOT = Path(__file__).resolve().parents[2]
_WAITING = 4
# All that the tests import and that no mutant changes: seconds, which a fork does not pay again.
_HEAVY = """torch torchvision torchvision.transforms.v2 opacus pandas pyarrow.parquet scipy.stats
scipy.optimize scipy.special dp_accounting.pld dp_accounting.rdp riskcal.analysis flwr.app
flwr.clientapp flwr.serverapp flwr.serverapp.strategy flwr.simulation pydantic pydicom nibabel
safetensors.torch hypothesis PIL.Image httpx starlette.applications rich.table typer sqlite3
cryptography.x509 cryptography.hazmat.primitives.ciphers.algorithms randomgen jinja2 jsonschema"""


def preload() -> None:
    """Import the heavy libraries; one that is absent costs its tests time alone."""
    for name in _HEAVY.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def forked(work: Callable[[Path], int], limit: float) -> tuple[int | None, str]:
    """What ``work`` returns in a child (None: it took over ``limit`` seconds), and what it left.

    The seconds are those of the processor: beside other work a child takes longer and does no more.
    One that waits and computes nothing is ended after four times as many by the clock.

    ``work`` gets a folder that is removed afterwards; what it writes to ``answer`` in there is the
    second value. A child that died of signal n answers -n.
    """
    folder = Path(tempfile.mkdtemp(prefix="fedmed-mutant-"))
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 3  # pytest's own number for an error that is not a test's
        try:
            os.setsid()
            _allow(math.ceil(limit))
            log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = work(folder)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + _WAITING * limit
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < end:
        time.sleep(0.02)
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # it, or what it has started and left behind
    if not ended:
        os.waitpid(child, 0)
    answered = os.waitstatus_to_exitcode(status) if ended else None
    if answered in (-signal.SIGXCPU, -signal.SIGKILL):
        answered = None
    if answered == 3:
        print((folder / "log").read_text()[-2000:])
    answer = folder / "answer"
    text = answer.read_text() if answer.exists() else ""
    shutil.rmtree(folder, ignore_errors=True)
    return answered, text


def _allow(seconds: int) -> None:
    """No more processor time than ``seconds``, or what a child of a child was left by its own."""
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if most == resource.RLIM_INFINITY or seconds < most:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def run_tests(files: Sequence[str], folder: Path, plugin: object, *more: str) -> int:
    """pytest's exit code for ``files`` (relative to the project), in this process."""
    os.chdir(ROOT)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow"]
    options += ["--hypothesis-seed=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += [f"--basetemp={folder / 'tests'}", *more]
    return int(pytest.main([*options, *files], plugins=[plugin]))


def change_module(path: str, source: bytes) -> None:
    """Let the module of the file at ``path`` be ``source`` when it is imported; no file changes."""
    name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            return compile(source, self.path, "exec", dont_inherit=True)

    class Finder:
        @staticmethod
        def find_spec(fullname: str, *_: object) -> ModuleSpec | None:
            file = str(ROOT / path)
            found = fullname == name
            return spec_from_file_location(name, file, loader=Loader(name, file)) if found else None

    sys.meta_path.insert(0, Finder)


Functions = dict[tuple[str, str, int], list[FunctionType]]


def functions_here() -> Functions:
    """Every function that exists, by its file, qualified name and first line."""
    found: Functions = {}
    for value in gc.get_objects():
        if type(value) is FunctionType:  # isinstance asks the value, which may warn
            code = value.__code__
            place = (code.co_filename, code.co_qualname, code.co_firstlineno)
            found.setdefault(place, []).append(value)
    return found


def change_function(path: str, outer: str, source: bytes, here: Functions) -> bool:
    """Give the function ``outer`` its code in ``source``; whether it was there to be changed."""
    file = str(ROOT / path)
    changed = False
    for code in _codes(compile(source, file, "exec", dont_inherit=True)):
        if code.co_qualname == outer:
            for function in here.get((file, outer, code.co_firstlineno), []):
                function.__code__ = code
                changed = True
    return changed


def _codes(code: CodeType) -> Iterator[CodeType]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value
            yield from _codes(value)
