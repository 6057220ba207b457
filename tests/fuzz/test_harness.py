"""The fuzz itself: each way in which a reader can fail is seen, and a good end is no fault."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz import kinds, running, verdict
from fuzz.cases import BAD, EITHER, HARMLESS, KINDS, Case, draw

from fedmed.base import opening
from fedmed.base.errors import UserError
from fedmed.cli import commands as cli


def result(
    monkeypatch: pytest.MonkeyPatch, folder: Path, main: Callable[[], None], **case: object
) -> list[str]:
    """The faults that are found where the command does this."""
    monkeypatch.setattr(cli, "main", lambda arguments: main())
    (folder / "work").mkdir()
    made = Case(arguments=["x"], **{"expect": BAD, **case})  # type: ignore[arg-type]  # by name
    return verdict.faults(made, running.forked(made, folder), folder)


def refuse(message: str = "error: bad.png: damaged", code: int = 2) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def unhandled() -> None:
    raise ValueError("bad value")


def waits() -> None:
    os.mkfifo("pipe")
    Path("pipe").read_text()


def grows() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 16)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves_half() -> None:
    Path(".result.json.a8f3k2zq").write_text('{"a"')
    refuse()


def leaves_output() -> None:
    Path("out.json").write_text("{}")
    refuse()


def changes_output() -> None:
    Path("out.json").write_text('{"a"')
    sys.exit(0)


def leaves_in_tmp() -> None:
    (Path(os.environ["TMPDIR"]) / "tmpabc").write_text("x")
    refuse()


def obeyed() -> None:
    refuse("error: bad.png: \x1b[31mdamaged")


def turned() -> None:
    refuse("error: bad.png: \u202edamaged")


def from_c() -> None:
    os.write(2, b"opj: Failed to decode\n")
    refuse()


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (unhandled, "traceback: ValueError: bad value"),
        (waits, "hang"),
        (grows, "memory"),
        (dies, "crash: signal 11"),
        (leaves_half, "half-written"),
        (leaves_output, "left behind"),
        (changes_output, "half-written"),
        (leaves_in_tmp, "left behind"),
        (obeyed, "terminal"),
        (turned, "terminal"),
        (from_c, "message: not one line"),
        (lambda: refuse(code=1), "exit code 1"),
        (lambda: sys.exit(0), "exit code 0"),
        (lambda: refuse("error: one file is damaged"), "message: names none of"),
        (lambda: refuse("error: bad.png\nmore"), "message: not one line"),
        (lambda: refuse("bad.png is damaged"), "message: not one line"),
        (lambda: refuse("error: bad.png " + "x" * 5000), "message: of"),
    ],
)
def test_each_way_to_fail_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, main: Callable[[], None], fault: str
) -> None:
    monkeypatch.setattr(running, "SECONDS", 5.0)
    monkeypatch.setattr(running, "BYTES", 1 << 29)  # beyond what this process holds
    expect = EITHER if main is changes_output else BAD
    found = result(monkeypatch, tmp_path, main, names=("bad.png",), expect=expect)
    assert any(one.startswith(fault) for one in found), found


def test_a_good_refusal_and_a_good_answer_are_no_faults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    assert result(monkeypatch, tmp_path / "bad", refuse, names=("bad.png",)) == []

    def good() -> None:
        Path("out.json").write_text('{"a": 1}')

    assert result(monkeypatch, tmp_path / "good", good, expect=HARMLESS, writes=("*.json",)) == []


def test_a_command_that_stands_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stands() -> None:
        print("ready: st-mary", flush=True)
        time.sleep(60)

    # Another test of this process may have left a handler, which a fork would keep.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        found = result(monkeypatch, tmp_path, stands, expect=HARMLESS, ends="ready:")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == []


def test_a_reader_that_waits_for_a_pipe_is_found_through_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The guard of all readers taken away: what the fuzz is for."""
    monkeypatch.setattr(running, "SECONDS", 5.0)
    (tmp_path / "work").mkdir()
    os.mkfifo(tmp_path / "work" / "mine.toml")
    case = Case(arguments=["plan", "mine.toml"], expect=BAD, names=("mine.toml",))
    assert verdict.faults(case, running.forked(case, tmp_path), tmp_path) == []
    monkeypatch.setattr(opening, "_handle", lambda path, *_: os.open(path, os.O_RDONLY))
    found = verdict.faults(case, running.forked(case, tmp_path), tmp_path)
    assert [one.partition(":")[0] for one in found] == ["hang"]


def test_a_reader_that_lets_an_error_pass_is_found_through_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.toml").write_bytes(b"\xff")
    case = Case(arguments=["plan", "mine.toml"], expect=BAD, names=("mine.toml",))
    assert verdict.faults(case, running.forked(case, tmp_path), tmp_path) == []
    from fedmed.config import reading

    monkeypatch.setattr(reading, "parse_toml", lambda data: data.decode("utf-8"))
    found = verdict.faults(case, running.forked(case, tmp_path), tmp_path)
    assert found[0].startswith("traceback: UnicodeDecodeError")


def test_a_new_process_is_not_charged_with_what_this_one_held(tmp_path: Path) -> None:
    held = os.urandom(1) * (1 << 30)
    del held
    (tmp_path / "work").mkdir()
    case = Case(arguments=["plan", "none.toml"], expect=BAD, names=("none.toml",))
    outcome = running.spawned(case, tmp_path)
    assert outcome.code == 2
    assert 1 << 24 < outcome.peak < 1 << 30


def test_a_fork_is_charged_with_what_it_takes_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither what this process holds nor the most it ever held is a fork's doing, nor its room."""
    monkeypatch.setattr(running, "BYTES", 1 << 28)
    once = bytearray(os.urandom(1 << 20)) * 1024
    del once  # the most that was held stays a gibibyte above what is
    held = bytearray(os.urandom(1 << 20)) * 512
    (tmp_path / "quiet").mkdir()
    assert result(monkeypatch, tmp_path / "quiet", refuse, names=("bad.png",)) == []
    (tmp_path / "grows").mkdir()
    (found,) = result(monkeypatch, tmp_path / "grows", grows, names=("bad.png",))
    now = running._resident(os.getpid(), "VmRSS")
    assert now > len(held)
    most = float(found.removeprefix("memory: ").removesuffix(" GiB"))
    assert most * 2**30 < now + 3 * running.BYTES


def test_an_input_is_drawn_again_from_its_seed(tmp_path: Path) -> None:
    def files(seed: int, number: int, name: str) -> tuple[Case, dict[str, str]]:
        (tmp_path / name).mkdir()
        case = draw(seed, number, tmp_path / name)
        return case, running.listing(tmp_path / name)

    assert kinds.__all__
    number = sorted(KINDS).index("csv: cells")
    of_number = next(n for n in range(len(KINDS)) if n * 37 % len(KINDS) == number)
    first, again, other = (
        files(1, of_number, "a"),
        files(1, of_number, "b"),
        files(2, of_number, "c"),
    )
    assert first == again
    assert first[0].kind == other[0].kind == "csv: cells"
    assert first != other


def test_every_command_that_reads_something_is_reached() -> None:
    """By the commands that stand in the makers of inputs."""
    text = "".join(p.read_text() for p in Path(kinds.__file__).parent.glob("kinds_*.py"))
    for command in ("run", "plan", "inspect", "evaluate", "report", "show", "verify", "export",
                    "init", "certs", "join", "doctor", "guard"):  # fmt: skip
        assert f'"{command}"' in text
    assert UserError.__doc__
