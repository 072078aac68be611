"""What every test starts from: an empty configuration and one torch thread."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded, and for all processes that tests start: where two of them with two
# threads each share two cores, both stand still for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from remdm import config

# XLA compiles a step of Craftax for six to ten seconds; all processes share what one compiled.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """The suite shares few cores; sums then also add up in one order."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def empty_config() -> Iterator[None]:
    """No test sees another one's bindings."""
    config.clear_config()
    yield
    config.clear_config()


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps device and precision for the process; the next test may want others."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
