"""Two commands in one folder: the second is told who is there, and a crash locks nobody out."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import goes_red, make, refuses
from support.runs import tiny_text

import fedmed.base.holding
from fedmed.base.holding import NAME, held
from fedmed.coordinator import coordinator
from fedmed.experiment import run
from fedmed.experiment.file import load_experiment

HOLD = (
    "import sys, pathlib; from fedmed.base.holding import held\n"
    "with held(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
)


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``folder`` until it is ended."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    def check(folder: Path) -> None:
        with holder(folder) as process:

            def second() -> None:
                with held(folder):
                    pass

            words = (f"process {process.pid} on ", " since 20", "import sys", "choose another")
            refuses(second, str(folder), *words)

    check(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", lambda handle, how: None)
        goes_red(check, tmp_path / "run")


def test_a_crash_leaves_no_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / NAME).exists(), "the file stays, and locks nobody"
        with held(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_a_folder_that_was_made_for_nothing_goes_away(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b"), held(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with held(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"3", b"\xff", b'{"pid": 1}', b"[" * 4096])
def test_a_note_that_is_no_note_names_another_process(note: bytes) -> None:
    assert fedmed.base.holding._holder(note) == "another process"


def test_a_note_cannot_write_to_the_terminal() -> None:
    note = {"pid": 1, "host": "h\x1b[2J", "since": "now", "command": "a\nb"}
    told = fedmed.base.holding._holder(json.dumps(note).encode())
    assert told == "process 1 on h?[2J since now (a?b)"


def test_two_runs_of_one_comparison_do_not_mix(tmp_path: Path) -> None:
    """Both commands as a user gives them: the second ends with 2, the first as if alone."""
    file, out = tmp_path / "tiny.toml", tmp_path / "out"
    file.write_text(tiny_text(["none"], rounds=3))
    command = [sys.executable, "-m", "fedmed.cli", "run", str(file), "--quiet", "--out", str(out)]
    env = {**os.environ, "FEDMED_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not (out / NAME).exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # or it would be done before the second has started
        for words in (command, [*command[:3], "report", str(out)]):
            second = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
            assert second.returncode == 2, second.stderr
            [line] = second.stderr.splitlines()
            assert line.startswith(f"error: {out} is in use by process {first.pid} on ")
        first.send_signal(signal.SIGCONT)
        told = first.communicate(timeout=300)
        assert first.returncode == 0, told
    finally:
        first.kill()
        first.communicate()
    rounds = (out / "none/seed-0/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in rounds] == [0, 1, 2, 3]


def test_a_servers_run_and_a_comparison_hold_their_folders(tmp_path: Path) -> None:
    """As Ray and a deployed server start it: no command of fedmed's holds anything there."""
    settings = make()
    with holder(tmp_path):
        refuses(
            lambda: coordinator.coordinate(None, settings, tmp_path),  # type: ignore[arg-type]  # not reached
            "is in use by process",
        )
        file = tmp_path.with_suffix(".toml")
        file.write_text(tiny_text(["none"]))
        loaded = load_experiment(file)
        refuses(
            lambda: run.run_experiment(loaded, tmp_path, None, None),  # type: ignore[arg-type]  # not reached
            "is in use by process",
        )
