"""How many threads a network call is worth."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with one torch thread on the CPU, and put the number back afterwards.

    A plan is made of operations so small that waking a second thread for each costs more than it
    brings: with sleeping waiters (see `remdm/__init__.py`) a plan alone took 15 ms on two threads
    and 4 ms on one, 64 plans 79 and 52 ms.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        threads = torch.get_num_threads()
        if threads == 1:
            return function(*args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return run
