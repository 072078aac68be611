"""Preparing batches ahead of the training step."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], indices: range, workers: int) -> Iterator[T]:
    """Yield `make(i)` for each index in order, made by threads a little ahead.

    Args:
        make: Makes one item; must depend on its index only, and spend its time outside the GIL.
        indices: What to make.
        workers: Threads; 0 makes each item when it is asked for.
    """
    if workers == 0:
        yield from map(make, indices)
        return
    with ThreadPoolExecutor(workers, "batches") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(make, index))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
