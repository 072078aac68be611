"""Which stretch of which episode each row of each batch shows, where rows walk through episodes.

A row shows one episode stretch after stretch, then takes the next one of a shuffled order. A pass
through all episodes has a new order each time, and rows that find none left begin with the next
pass at once. No two rows walk through the same episode at a time, unless there are fewer episodes
than rows: one whose turn comes while it is still walked through waits until it is free.
"""

import threading
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np


class Walk:
    """An endless walk of some rows through some episodes.

    It is a function of its arguments: the same in every process, and whatever is asked first.
    """

    def __init__(
        self, stretches: np.ndarray, rows: int, chance: Callable[[int], np.random.Generator]
    ) -> None:
        """Args:
        stretches: int64 [E]: stretches of each episode, at least 1; at least one episode.
        rows: Rows of a batch, over all processes.
        chance: The generator that shuffles pass number n, from 0.
        """
        self._stretches = stretches.tolist()
        self._rows, self._chance = rows, chance
        # Of each row, the batches at which it takes episodes, and which ones.
        self._begins = [array("q") for _ in range(rows)]
        self._taken = [array("q") for _ in range(rows)]
        # When rows come to an end; all begin with batch 0.
        self._ends = [(0, row) for row in range(rows)]
        self._queue: deque[int] = deque()
        self._queued = np.zeros(len(stretches), np.bool_)
        self._walked = np.zeros(len(stretches), np.bool_)
        self._passes = 0
        self._lock = threading.Lock()

    def at(self, batch: int, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """What rows show in a batch. Threads may ask side by side.

        Args:
            batch: Number of the batch since the walk began, at least 0.
            rows: Which rows.

        Returns:
            Two int64 [len(rows)]: the episode, and the number of the stretch in it.
        """
        found = np.empty((2, len(rows)), np.int64)
        with self._lock:
            self._walk_to(batch)
            for place, row in enumerate(rows):
                number = bisect_right(self._begins[row], batch) - 1
                found[0, place] = self._taken[row][number]
                found[1, place] = batch - self._begins[row][number]
        return found[0], found[1]

    def _walk_to(self, batch: int) -> None:
        """Go on until all rows know what they show in `batch`."""
        while (now := self._ends[0][0]) <= batch:
            free = []
            while self._ends and self._ends[0][0] == now:
                _, row = heappop(self._ends)
                free.append(row)
                if self._taken[row]:
                    self._walked[self._taken[row][-1]] = False
            for row in free:
                episode = self._take()
                self._walked[episode] = True
                self._begins[row].append(now)
                self._taken[row].append(episode)
                heappush(self._ends, (now + self._stretches[episode], row))

    def _take(self) -> int:
        """The next episode that may be walked through."""
        crowded = len(self._stretches) < self._rows
        while True:
            for place, episode in enumerate(self._queue):
                if crowded or not self._walked[episode]:
                    del self._queue[place]
                    self._queued[episode] = False
                    return episode
            # One that still waits for its turn of the pass before does not wait twice.
            order = self._chance(self._passes).permutation(len(self._stretches))
            order = order[~self._queued[order]]
            self._queue.extend(order.tolist())
            self._queued[order] = True
            self._passes += 1
