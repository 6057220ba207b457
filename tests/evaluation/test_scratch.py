"""Memory that is used again holds what was written, for one name and one thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from fedmed.evaluation.measuring.scratch import gathered, scratch


def test_a_name_keeps_its_memory_and_grows_with_what_is_asked_for() -> None:
    first = scratch("test-a", 3, 4)
    first[:] = 7.0
    other = scratch("test-b", 3, 4)
    other[:] = 1.0
    assert np.shares_memory(first, scratch("test-a", 2, 2))
    assert (scratch("test-a", 2, 5) == 7.0).all()
    assert scratch("test-a", 30, 40).shape == (30, 40)


def test_threads_do_not_share_it() -> None:
    together = Barrier(2, timeout=20)

    def work(number: float) -> bool:
        mine = scratch("test-c", 50)
        together.wait()
        mine[:] = number
        together.wait()
        return bool((mine == number).all())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [1.0, 2.0])) == [True, True]


def test_gathered_rows_are_the_tables() -> None:
    table = np.arange(12.0).reshape(4, 3)
    rows = np.array([3, 0, 0])
    assert np.array_equal(gathered("test-d", table, rows), table[rows])
    assert gathered("test-d", table, rows[:0]).shape == (0, 3)
