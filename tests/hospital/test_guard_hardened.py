"""What a guard outlives, what it will not start with, and how much it answers."""

import itertools
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import goes_red, refuses
from support import use_tiny_models as use
from support.guard import POLICY, SITE, ask, code, guard, model, request, write_site
from support.socket import Book, listening, raw

from fedmed.base import files
from fedmed.data.remembering import forget
from fedmed.hospital import hospital, rounds
from fedmed.hospital.guard import caches, process
from fedmed.hospital.guard import listening as desk
from fedmed.hospital.guard.answering import Guard
from fedmed.hospital.guard.counting import DAY, Requests
from fedmed.hospital.guard.trusting import check_path, check_site
from fedmed.privacy.ledger.policy import Policy
from fedmed.privacy.plans import making as planned
from fedmed.site import asking, health
from fedmed.site.file import read_site
from fedmed.site.wire import check_header, exchange
from fedmed.training.local import LocalResult

US = os.getuid()
APP = 65_534  # the app's user: owns what the tests give it
root = pytest.mark.skipif(US != 0, reason="needs root, to give files to another user")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    use(monkeypatch)
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    hospital._model.cache_clear()
    forget()
    umask = os.umask(0o022)
    yield
    os.umask(umask)
    hospital._model.cache_clear()
    forget()


# Its one worker.


class Breaking(Book):
    """A guard whose answers are no JSON, or none at all."""

    def answer(
        self, header: dict[str, Any], body: bytes, peer: int
    ) -> tuple[dict[str, Any], bytes]:
        if header["kind"] == "query":
            return {"loss": float("inf")}, b""
        if header["kind"] == "train":
            raise RuntimeError("patient 17")
        return super().answer(header, body, peer)


def asks_after(path: Path, kinds: tuple[str, ...]) -> None:
    """Whatever came before, the worker still answers, and ``status`` says so truly."""
    with listening(path, (US,), reading=5, book=Breaking()):
        for kind in kinds:
            assert exchange(str(path), {"kind": kind}, seconds=5)[0] == {"error": "internal"}
        assert exchange(str(path), {"kind": "app"}, seconds=5)[0]["hospital"] == "st-mary"
        assert asking.status(str(path))["hospital"] == "st-mary"


def test_the_worker_outlives_a_number_that_is_no_json_and_any_exception(tmp_path: Path) -> None:
    asks_after(tmp_path / "g.sock", ("query", "train", "query"))


def test_a_guard_whose_worker_is_gone_says_so_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the worker dies of its first request. The health check must not stay green."""
    monkeypatch.setattr(desk._Desk, "_work", lambda self: self._waiting.get()[0].close())
    path, ended = tmp_path / "g.sock", []
    with desk.bound(path, (US,)) as listener:
        book = Book()

        def serve() -> None:
            try:
                desk.serve(listener, (US,), book.answer, book.refuse, lambda: True, reading=2)
            except Exception as error:
                ended.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(path))
            asked.sendall(b"FMG1\0\0\0\x0e\0\0\0\0\0\0\0\0" + b'{"kind":"app"}')
            thread.join(20)
    assert ended == ["the guard answers nothing any more; start it again"]


def test_a_loss_that_is_infinite_is_none_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = POLICY.replace('"local-update"', '"none"')
    plain = rounds.train_plain

    def endless(*given: Any) -> LocalResult:
        return LocalResult(plain(*given).steps, float("inf"))

    monkeypatch.setattr(rounds, "train_plain", endless)
    header, update = ask(guard(tmp_path, policy), request(config={"privacy.arm": "none"}))
    assert header["loss"] is None
    assert update
    check_header(header)
    with pytest.raises(ValueError, match="JSON"):
        check_header(header | {"loss": float("nan")})


def test_status_is_told_in_two_seconds_while_others_drip_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70 connections that say nothing, more than are heard at once; four cost 100 s before."""
    path = tmp_path / "g.sock"

    def check() -> None:
        with listening(path, (US,), reading=20):
            silent = [socket.socket(socket.AF_UNIX) for _ in range(70)]
            try:
                for one in silent:
                    one.connect(str(path))
                    one.send(b"F")
                start = time.monotonic()
                assert asking.status(str(path), seconds=30)["hospital"] == "st-mary"
                assert time.monotonic() - start < 2
            finally:
                for one in silent:
                    one.close()

    check()
    hear = desk._Desk._hear

    def one_after_the_other(self: desk._Desk, connection: socket.socket) -> None:
        hear(self, connection, US)

    monkeypatch.setattr(desk, "_HEADER", 0.1)
    monkeypatch.setattr(desk._Desk, "hear", one_after_the_other)
    goes_red(check)


def test_forty_bad_frames_cost_nobody_else_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with listening(path, (US,)) as book:
        threads = [threading.Thread(target=raw, args=(path, b"x" * 16)) for _ in range(40)]
        for thread in threads:
            thread.start()
        assert asking.status(str(path), seconds=20)["hospital"] == "st-mary"
        for thread in threads:
            thread.join(20)
    assert book.refused == ["frame"] * 40


def test_status_is_refused_where_policy_or_ledger_cannot_be_read(tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert one.status()[0]["hospital"] == "st-mary"
    assert code(one, request("query")) == ""
    (tmp_path / "policy.toml").write_text("broken = [")
    assert one.status() == ({"error": "ledger"}, b"")
    (tmp_path / "policy.toml").write_text(POLICY)
    assert "error" not in one.status()[0]
    log = one.ledger.log.path
    log.write_bytes(log.read_bytes().replace(b"query", b"quary"))
    assert one.status() == ({"error": "ledger"}, b"")


def test_a_health_check_asks_the_guard_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.sock"

    def asked(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["health", *words])
        return health.main(), capsys.readouterr().out

    assert asked(str(path)) == (
        1,
        f"no guard answers on {path}: [Errno 2] No such file or directory\n",
    )
    with listening(path, (US,)):
        assert asked(str(path)) == (0, "ready: st-mary, fedmed 1\n")
    with desk.bound(path, (US,)):  # listens, and never accepts
        monkeypatch.setattr(health, "SECONDS", 0.2)
        assert asked(str(path))[0] == 1
    assert asked()[0] == 2


# What it will not start with.


def test_what_others_may_write_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    file = inner / "policy.toml"
    file.write_text("")
    check_path(file, (US,))
    for place, mode in ((file, 0o664), (file, 0o602), (inner, 0o775), (inner.parent, 0o707)):
        before = stat.S_IMODE(place.stat().st_mode)
        place.chmod(mode)
        refuses(lambda: check_path(file, (US,)), f"{place}: other users", "chmod go-w")
        place.chmod(before)
    check_path(file, (US,))
    inner.chmod(0o1777)  # as /tmp: what is there stays whose it is, what is not may be anybody's
    check_path(file, (US,))
    refuses(lambda: check_path(inner / "ledger.sqlite", (US,)), "everybody may make it")


def test_a_link_is_followed_to_what_decides(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "policy.toml").write_text("")
    link = tmp_path / "policy.toml"
    link.symlink_to("loose/../loose/policy.toml")
    check_path(link, (US,))
    loose.chmod(0o777)
    refuses(lambda: check_path(link, (US,)), f"{loose}: other users", "could replace")
    loose.chmod(0o755)
    folder = tmp_path / "folder"
    folder.symlink_to(loose)
    check_path(folder / "policy.toml", (US,))
    round_about = tmp_path / "round"
    round_about.symlink_to(round_about)
    refuses(lambda: check_path(round_about, (US,)), "circle")


@root
@pytest.mark.parametrize("place", ["site.toml", "policy.toml", "state", "run", "."])
def test_a_site_that_the_apps_user_owns_a_part_of_is_no_guards(place: str, tmp_path: Path) -> None:
    site = write_site(tmp_path, site=SITE.replace("[data]", f"peers = [{APP}]\n[data]", 1))
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir(mode=0o700)

    def check() -> None:
        refuses(lambda: process.run(site, _ready), f"belongs to user {APP}", "chown")

    os.chown(tmp_path / place, APP, APP)
    check()
    os.chown(tmp_path / place, APP - 7, APP)  # somebody who may not connect: the site's choice
    check_site(read_site(site), (APP,))


def _ready(_: object) -> None:
    raise AssertionError("the guard started")


@root
def test_a_link_of_the_apps_user_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    link = tmp_path / "policy.toml"
    link.symlink_to("real.toml")
    check_path(link, (APP,))
    os.chown(link, APP, APP, follow_symlinks=False)
    refuses(lambda: check_path(link, (APP,)), f"{link}: it belongs to user {APP}")


# How much it answers.


def test_a_run_and_a_day_have_so_many_requests(tmp_path: Path) -> None:
    few = POLICY + "requests-per-run = 3\nrequests-per-day = 5\n"
    one = guard(tmp_path, few)
    assert [code(one, request("query")) for _ in range(4)] == ["", "", "", "requests"]
    again = guard(tmp_path, few)  # as after a restart: the log remembers
    assert code(again, request("query")) == "requests"
    found = [code(again, request("query", run=f"run-{n}")) for n in range(2, 6)]
    assert found == ["", "", "requests", "requests"]
    assert code(again, request("app", app="a" * 64)) == "", "a bundle is checked all the same"
    lines = [line for line in again.ledger.log.entries() if line.get("code") == "requests"]
    assert len(lines) == 2, "one of each guard: no log grows by what is not answered"


def test_a_day_that_is_over_does_not_count() -> None:
    now = [1000.0]
    counted = Requests(Policy(requests_per_day=2, data_refusals_per_day=1), lambda: now[0])
    for run in ("a", "b"):
        assert counted.room(run)
        counted.asked(run)
    counted.refused()
    assert not counted.room("c")
    assert not counted.touches_data
    now[0] += DAY + 1
    assert counted.room("c")
    assert counted.touches_data


def test_requests_that_the_data_refuse_come_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that no row has tells something of the data each time: twice here, then no more."""
    one = guard(tmp_path, POLICY + "data-refusals-per-day = 2\n")
    read: list[str] = []

    def fails(settings: Any, name: str) -> None:
        read.append(name)
        raise hospital.UserError("no row has it")

    monkeypatch.setattr(hospital, "member_shard", fails)
    codes = [code(one, request(run=f"run-{n}")) for n in range(4)]
    assert codes == ["data", "data", "requests", "requests"]
    assert len(read) == 2
    assert code(one, request("query")) == ""  # which touches none


def _counts_patients(settings: Any, name: str, shard: Any) -> None:
    """Sabotage: the true number of patients decides about a request."""
    if len(shard.patients()) < 61:
        raise hospital.UserError("fewer than minimum-cohort")


def test_minimum_cohort_counts_no_patient_for_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal below it tells whether a patient is there: asked with other targets, of whom."""
    policy = POLICY.replace("public-size = 40", "public-size = 61\nminimum-cohort = 61")

    def check() -> None:
        forget()
        one = guard(tmp_path, policy)
        assert code(one, request(run=f"run-{next(numbers)}")) == ""

    numbers = itertools.count()
    check()
    monkeypatch.setattr(hospital, "_warn_of_delta", _counts_patients)
    goes_red(check)


def test_a_guard_with_fewer_patients_than_minimum_cohort_does_not_start(tmp_path: Path) -> None:
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir(mode=0o700)
    site = write_site(tmp_path, POLICY + "minimum-cohort = 45\n")
    refuses(lambda: process.run(site, _ready), "minimum-cohort = 45", "44 patients", "lower it")
    site = write_site(tmp_path, POLICY + "minimum-cohort = 44\n")
    with pytest.raises(AssertionError, match="the guard started"):
        process.run(site, _ready)


def shards() -> list[str]:
    folder = files.home() / "cache" / "shards"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


REFUSED = [
    {"privacy.arm": "none"},
    {"privacy.epsilon": 9999.0, "privacy.noise-multiplier": 0.3},
    {"privacy.delta": 0.5},
    {"train.rounds": 50, "privacy.epsilon": 500.0},
]


@pytest.mark.parametrize("change", REFUSED, ids=str)
@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_nothing_is_decoded_for_a_request_that_is_refused(
    kind: str, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image size of a refused request filled the disk with another copy of all images."""

    def check(one: Guard) -> None:
        for size in (16, 17):  # only the first fits the tiny network
            wanted = request(kind, run=f"run-{size}", config=change | {"data.image-size": size})
            if kind == "evaluate" and "privacy.arm" not in change:
                wanted = request(
                    kind, run="r", config={"evaluation.epsilon": 500.0, "data.image-size": size}
                )
            code(one, wanted)
        assert shards() == []

    check(guard(tmp_path, POLICY.replace("120.0", "5.0")))
    if kind == "train":
        monkeypatch.setattr(planned, "_check_delta", lambda *_: None)
        goes_red(
            check, guard(tmp_path, POLICY.replace("120.0", "1e9").replace('"dp', '"none", "dp'))
        )


def test_a_round_without_room_in_the_ledger_decodes_nothing(tmp_path: Path) -> None:
    one = guard(tmp_path)
    assert code(one, request()) == ""
    kept = shards()
    assert len(kept) == 1
    # Stored bytes are no reason to decode the images at another size.
    assert code(one, request(config={"data.image-size": 17})) == ""
    assert shards() == kept
    assert code(one, request(model=model(3))) == "plan"  # another model for round 1
    shutil.rmtree(files.home() / "cache")
    forget()
    assert (
        code(one, request(round_number=2, model=model(4), config={"train.rounds": 3})) == "ledger"
    )
    assert shards() == []


def test_the_cache_of_a_guard_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files.home() / "cache" / "shards"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"{number:02}").mkdir()
        os.utime(folder / f"{number:02}", (number, number))
    (folder / ".making").mkdir()

    def check() -> None:
        caches.prune(shards=True)
        assert len(shards()) <= caches.MOST_SHARDS
        assert {".making", "29", "28"} <= set(shards())

    monkeypatch.setattr(caches, "_keep", lambda *_: None)
    goes_red(check)
    monkeypatch.undo()
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path / "home"))
    check()


def test_pools_of_noised_images_are_kept_and_so_many_at_most(tmp_path: Path) -> None:
    folder = files.home() / "released"
    folder.mkdir(parents=True)
    for number in range(caches.MOST_POOLS):
        (folder / f"laplace-scale-{number}.0-16px.sqlite").touch()
    assert caches.room_for_pool("laplace-scale-3.0")
    assert not caches.room_for_pool("laplace-scale-99.0")
    named = POLICY.replace('"dp-sgd"', '"pixel-laplace"')
    asked = {"privacy.arm": "pixel-laplace", "privacy.laplace-scale": 99.0}
    one = guard(tmp_path, named)
    assert code(one, request(config=asked)) == "requests"
    (folder / "laplace-scale-3.0-16px.sqlite").unlink()
    assert code(one, request(config=asked)) == ""


def test_a_status_is_not_counted_and_not_written_down(tmp_path: Path) -> None:
    one = guard(tmp_path)
    for _ in range(3):
        assert one.answer({"kind": "status"}, b"", US)[0]["hospital"] == "st-mary"
    assert not one.ledger.log.path.exists()
