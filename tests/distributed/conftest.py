"""What several test files here share."""

from collections.abc import Iterator

import pytest

from tests.distributed.ray_cluster import cluster


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A cluster for all tests that need one; it takes seconds to start."""
    with cluster(num_cpus=6) as address:
        yield address
