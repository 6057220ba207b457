"""Libraries' loggers are silent within, and as they were afterwards."""

import logging
import threading

import pytest

from fedmed.data.quiet import quiet


def test_loggers_below_are_silent_too_even_those_born_within(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sabotage: ``disabled`` of the parent alone lets its children print."""
    below = logging.getLogger("noisy.below")
    with quiet("noisy"):
        logging.getLogger("noisy").error("one")
        below.error("two")
        logging.getLogger("noisy.born.within").error("three")
    assert caplog.messages == []
    assert capfd.readouterr().err == ""  # Python's handler of last resort
    below.error("heard")
    assert caplog.messages == ["heard"]


def test_another_library_of_a_like_name_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    with quiet("noisy"):
        logging.getLogger("noisyother").error("heard")
    assert caplog.messages == ["heard"]


def test_blocks_that_overlap_leave_a_logger_as_it_was() -> None:
    log = logging.getLogger("overlapping")
    inside, left = threading.Event(), threading.Event()

    def second() -> None:
        with quiet("overlapping"):
            inside.set()
            left.wait(10)

    thread = threading.Thread(target=second)
    with quiet("overlapping"):
        thread.start()
        assert inside.wait(10)
    assert log.disabled
    left.set()
    thread.join()
    assert not log.disabled
    assert log.propagate
    assert log.handlers == []
