"""What both ways to connect a collector with its run promise: a shared folder, and Ray."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from remdm.data.folder import DatasetFolder
from remdm.data.shards import Shard
from remdm.distributed import parcels
from remdm.distributed.lease import LeaseHeld, LeaseLost
from remdm.distributed.ownership import Ownership, role_folder
from remdm.distributed.publication import Publisher, Subscriber
from remdm.distributed.transport import FileTransport, Transport
from remdm.training.run_folder import RunFolder
from tests.data.recorded import piece, put_shard
from tests.distributed.processes import HANGS_S
from tests.distributed.test_publication import number_in, numbered, publish

Connect = Callable[..., Transport]
# A third of it is how long one must watch somebody alive; all of it, somebody silent.
TTL_S = 1.5


class Place:
    """A run folder, and how collectors reach it."""

    def __init__(self, root: Path) -> None:
        self.run, self.dataset = RunFolder(root / "run"), DatasetFolder(root / "run")
        self.made: list[Transport] = []

    def connect(self, name: str = "one") -> Transport:
        """A connection of a process that calls itself so, not enlisted."""
        self.made.append(FileTransport(self.run, self.dataset))
        return self.made[-1]

    def collector(self, index: int | None = 0, name: str = "one") -> Transport:
        """The same, enlisted."""
        transport = self.connect(name)
        transport.enlist(index)
        return transport

    def shards(self) -> list[str]:
        return sorted(path.name for path in self.dataset.shards.glob("*"))


class RayPlace(Place):
    """Collectors do not see the folder."""

    def __init__(self, root: Path) -> None:
        import ray

        from remdm.distributed.ray_transport import make_hub

        super().__init__(root)
        self._scratch = root / "elsewhere"
        node = ray.get_runtime_context().get_node_id()
        self.hub = make_hub(self.run.root, self.dataset.root, node, TTL_S)

    def connect(self, name: str = "one") -> Transport:
        from remdm.distributed.ray_transport import RayTransport

        scratch = self._scratch / f"{name}-{len(self.made)}"
        self.made.append(RayTransport(self.hub, scratch, name, ttl_seconds=TTL_S))
        return self.made[-1]


@pytest.fixture(scope="module")
def _connected(ray_address) -> Iterator[None]:
    import ray

    ray.init(address=ray_address)
    yield
    ray.shutdown()


@pytest.fixture
def ray_place(tmp_path, _connected) -> Iterator[RayPlace]:
    import ray

    place = RayPlace(tmp_path)
    yield place
    for transport in place.made:
        transport.close()
    ray.kill(place.hub)


@pytest.fixture(params=["files", pytest.param("ray", marks=pytest.mark.slow)])
def place(request, tmp_path) -> Iterator[Place]:
    if request.param == "ray":
        yield request.getfixturevalue("ray_place")
        return
    place = Place(tmp_path)
    yield place
    for transport in place.made:
        transport.close()


def put(transport: Transport, number: int = 0, sequence: int = 0, length: int = 5) -> Path:
    """A shard in the outbox of collector `number`."""
    pieces = [piece("env", 7, sequence, length, collector=f"c{number}")]
    return put_shard(transport.outbox, pieces, sequence=sequence, collector=f"c{number}")


# ------------------------------------------------------------------------------- the contract


def test_collectors_get_the_lowest_free_numbers(place):
    assert [place.connect(name).enlist(None) for name in "abc"] == [0, 1, 2]
    place.made[1].close()
    assert place.connect("d").enlist(None) == 1


def test_a_number_has_one_living_process(place):
    place.collector(4, "one")
    with pytest.raises(LeaseHeld):
        place.collector(4, "two")
    place.made[0].close()
    place.made[0].close()
    assert place.connect("two").enlist(4) == 4


def test_a_delivered_shard_lies_whole_in_the_dataset(place):
    transport = place.collector(3)
    shard = put(transport, 3)
    name, raw = shard.name, shard.read_bytes()
    transport.deliver(shard)
    assert place.shards() == [name]
    assert (place.dataset.shards / name).read_bytes() == raw


def test_a_collector_goes_on_from_its_newest_shard(place):
    transport = place.collector(3)
    assert transport.newest_shard() is None
    for sequence in (0, 1):
        transport.deliver(put(transport, 3, sequence))
    other = place.collector(5, "other")
    other.deliver(put(other, 5, 2))
    transport.close()
    found = place.collector(3, "next").newest_shard()
    assert isinstance(found, Shard)
    assert found.path.name == place.shards()[1]
    assert found.steps.observations["trace"][0].tolist() == [7, 1]


def test_weights_arrive_whole_and_newest_first(place):
    transport = place.collector()
    transport.fetch_weights()
    subscriber = Subscriber(transport.weights_folder)
    assert subscriber.version() is None
    publisher = Publisher(place.run.latest)
    for number in (1, 2, 3, 4):
        publish(publisher, number, size=3_000_000)  # more than a piece
        transport.fetch_weights()
        transport.fetch_weights()
        assert subscriber.version() == number
        assert number_in(subscriber.read(numbered(0, 3_000_000))) == number


def test_the_standing_tells_how_far_the_run_is(place):
    transport = place.collector()
    standing = transport.standing()
    assert (standing.collected, standing.epoch, standing.version) == (0, 0, None)
    assert (standing.finished, standing.learner_alive) == (False, False)
    transport.deliver(put(transport, 0, length=6))
    publish(Publisher(place.run.latest), 1)  # epoch 3, as its facts say
    place.run.done.touch()
    with Ownership([role_folder(place.run.root, "learn")], "learner"):
        wait_until(lambda: transport.standing().learner_alive)
    standing = transport.standing()
    assert (standing.collected, standing.epoch, standing.version) == (6, 3, 1)
    assert standing.finished


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < end, "this never became true"
        time.sleep(0.05)


# ------------------------------------------------------------------------------- Ray alone


@pytest.mark.slow
def test_what_was_delivered_twice_is_there_once(ray_place):
    transport = ray_place.collector()
    shard = put(transport)
    copy = shard.with_name("copy")
    shutil.copy(shard, copy)
    transport.deliver(shard)
    assert not shard.exists()
    shutil.copy(copy, shard)
    transport.deliver(shard)
    assert ray_place.shards() == [shard.name]
    with pytest.raises(ValueError, match="exists, and is another shard"):
        transport.deliver(
            put_shard(transport.outbox, [piece("env", 8, 0, 5, collector="c0")], collector="c0")
        )


@pytest.mark.slow
def test_what_is_no_shard_of_its_collector_is_refused(ray_place, monkeypatch):
    transport = ray_place.collector()
    with pytest.raises(ValueError, match="collector 0 must not deliver"):
        transport.deliver(put(transport, 1))
    shard = put(transport)
    with pytest.raises(ValueError, match="a shard's name must be like"):
        transport.deliver(shard.rename(shard.with_name("..safetensors")))
    shard = put(transport, 0, 1)
    raw = np.fromfile(shard, np.uint8)
    raw[-1] ^= 1
    raw.tofile(shard)
    with pytest.raises(ValueError, match="must not be taken in"):
        transport.deliver(shard)
    shard = put(transport, 0, 2)
    lie = replace(parcels.packed(shard), sha256="0" * 64)
    monkeypatch.setattr("remdm.distributed.ray_transport.packed", lambda path: lie)
    with pytest.raises(ValueError, match="did not arrive as it was sent"):
        transport.deliver(shard)
    assert ray_place.shards() == []


@pytest.mark.slow
def test_the_next_start_of_a_collector_takes_its_place_at_once(ray_place):
    stale = ray_place.collector(2, "one")
    stale.deliver(put(stale, 2, 0))
    fresh = ray_place.collector(2, "one")
    shard = put(stale, 2, 1)
    with pytest.raises(LeaseLost, match="collector 2 is another process now"):
        stale.deliver(shard)
    with pytest.raises(LeaseLost):
        stale.check()
    stale.close()
    fresh.check()
    # The names that were used are not used again.
    assert [path.name for path in fresh.outbox.iterdir()] == ray_place.shards()


@pytest.mark.slow
def test_a_silent_collector_is_replaced_after_a_while(ray_place):
    silent = ray_place.collector(2, "one")
    silent._left.set()  # its heart stops
    assert ray_place.connect("two").enlist(2) == 2


@pytest.mark.slow
def test_a_hub_that_is_started_again_knows_its_collectors(ray_place):
    import ray

    transport = ray_place.collector(2)
    transport.deliver(put(transport, 2, 0))
    ray.kill(ray_place.hub, no_restart=False)
    wait_until(lambda: answers(transport))
    transport.deliver(put(transport, 2, 1))
    assert len(ray_place.shards()) == 2


def answers(transport: Transport) -> bool:
    try:
        transport.check()
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
def test_a_collector_with_the_folder_and_one_without_share_no_number(ray_place):
    with (
        Ownership([role_folder(ray_place.run.root, "collect-0")], "with the folder"),
        pytest.raises(LeaseHeld, match="with the folder"),
    ):
        ray_place.collector(0)
