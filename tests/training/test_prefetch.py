import threading
import time

import pytest

from remdm.training.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order_whichever_is_ready_first(workers):
    def make(index):
        time.sleep(0.002 * (index % 3 == 0))
        return index * index

    assert list(prefetch(make, range(5, 25), workers)) == [i * i for i in range(5, 25)]
    assert list(prefetch(make, range(0), workers)) == []


def test_without_workers_nothing_is_made_before_it_is_asked_for():
    made = []
    items = prefetch(made.append, range(10), 0)
    next(items)
    assert made == [0]


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_work_a_little_ahead_and_no_further(workers):
    made, threads = [], set()

    def make(index):
        made.append(index)
        threads.add(threading.current_thread())
        return index

    items = prefetch(make, range(100), workers)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    deadline = time.monotonic() + 10
    while len(made) < 3 + 2 * workers and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 3 + 2 * workers
    assert threading.main_thread() not in threads
    items.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_the_item_would_have_come(workers):
    def make(index):
        if index == 3:
            raise OSError("no such shard")
        return index

    items = prefetch(make, range(10), workers)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no such shard"):
        next(items)


def test_stopping_early_leaves_no_threads_and_no_work():
    made = []
    before = threading.active_count()
    items = prefetch(made.append, range(1000), 2)
    next(items)
    items.close()
    assert threading.active_count() == before
    count = len(made)
    time.sleep(0.02)
    assert len(made) == count < 20
