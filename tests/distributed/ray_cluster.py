"""A real Ray cluster for tests: one process of each of its services, on this machine alone."""

import contextlib
import os
from collections.abc import Iterator

import pytest

MEMORY = 100 << 20  # bytes of each object store; the least that Ray takes is 75 MiB


@contextlib.contextmanager
def cluster(num_cpus: int) -> Iterator[str]:
    """Start a cluster; its address."""
    pytest.importorskip("ray", reason="needs the ray extra")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # which would write a key to the home folder
    from ray.cluster_utils import Cluster

    head = {"num_cpus": num_cpus, "object_store_memory": MEMORY, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield started.address
    finally:
        started.shutdown()
