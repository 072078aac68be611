"""What every test starts from: an empty configuration and one torch thread."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from remdm import config

# XLA compiles a step of Craftax for six to ten seconds; tests of several processes share one.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))


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
