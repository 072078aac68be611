import errno
import logging
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from remdm.data.atomic_file import TEMPORARY_PREFIX, temporary_name
from remdm.distributed import publication
from remdm.distributed.publication import LATEST_FILE, PublicationError, Publisher, Subscriber

FORK = multiprocessing.get_context("fork")
FACTS = {"action_names": ["north", "south"], "epoch": 3}
SKIPPED = 77
# What is forked here uses one thread and no lock of another.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def numbered(number: int, size: int = 64) -> dict[str, dict[str, torch.Tensor]]:
    """Weights that all hold one number, so that a mixture of two versions shows."""
    values = torch.full((size,), number, dtype=torch.int32)
    return {"planner": {"first": values, "last": values}, "baseline": {"only": values}}


def publish(publisher: Publisher, number: int, size: int = 64) -> int:
    return publisher.publish(numbered(number, size), {**FACTS, "number": number})


def number_in(published: publication.Published | None) -> int:
    """The number of a publication; fails if it is not everywhere in it."""
    assert published is not None
    number = published.facts["number"]
    for tensors in published.weights.values():
        for values in tensors.values():
            assert torch.equal(values, torch.full_like(values, number))
    return number


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_a_fork(target: Callable[..., None], *args: object) -> None:
    process = FORK.Process(target=target, args=args, daemon=True)
    process.start()
    process.join(60)
    if process.exitcode == SKIPPED:
        pytest.skip("this machine does not let us become another user")
    assert process.exitcode == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "with space" / "latest"


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: there fsync is free, and a clock's tick holds many versions."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name) / "latest"


# What is published is what is read


def test_tensors_and_facts_come_back_bit_by_bit(folder):
    strange = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45])
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    whole = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    weights = {
        "planner": {
            **{str(dtype): strange.to(dtype) for dtype in dtypes},
            **{f"{dtype}/x": torch.arange(7, dtype=dtype) for dtype in whole},
            "trained": torch.nn.Parameter(torch.randn(3, 2)),
            "column": torch.arange(12.0).reshape(3, 4)[:, 1],
            "turned": torch.randn(2, 5).T,
            "scalar": torch.tensor(3),
            "flags": torch.tensor([True, False, True]),
        },
        "empty": {"rows": torch.empty(0, 4), "columns": torch.empty(4, 0, dtype=torch.bfloat16)},
        "nothing": {},
    }
    facts = {"action_names": ("a", "\u00e4"), "epoch": 1, "won": 0.1, "more": {"x": [None, True]}}
    assert Publisher(folder).publish(weights, facts) == 1
    published = Subscriber(folder).read(weights)
    assert published.version == 1
    assert published.facts == {**facts, "action_names": ["a", "\u00e4"]}
    assert [(a, list(t)) for a, t in published.weights.items()] == [
        (a, list(t)) for a, t in weights.items()
    ]
    for agent, tensors in weights.items():
        for name, tensor in tensors.items():
            found = published.weights[agent][name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert bytes(found.reshape(-1).view(torch.uint8).tolist()) == bytes(
                tensor.detach().reshape(-1).contiguous().view(torch.uint8).tolist()
            )


def test_a_reader_needs_shapes_only_and_gets_memory_of_its_own(folder):
    weights = numbered(5)
    Publisher(folder).publish(weights, {**FACTS, "number": 5})
    like = {a: {n: t.to("meta") for n, t in own.items()} for a, own in weights.items()}
    subscriber = Subscriber(folder)
    first, second = subscriber.read(like), subscriber.read(like)
    first.weights["planner"]["first"].zero_()
    assert number_in(second) == 5


# Versions


def test_versions_grow_over_restarts_and_only_the_newest_are_kept(folder):
    for restart in range(3):
        publisher = Publisher(folder, keep=2)
        assert [publish(publisher, 0) for _ in range(2)] == [2 * restart + 1, 2 * restart + 2]
    names = ["weights-000000005.safetensors", "weights-000000006.safetensors"]
    assert names_in(folder) == [LATEST_FILE, *names]
    (folder / LATEST_FILE).unlink()
    assert publish(Publisher(folder), 0) == 7
    for path in folder.glob("weights-*"):
        path.unlink()
    assert publish(Publisher(folder), 0) == 8
    (folder / "weights-000000020.safetensors").touch()  # its writer was killed before it said so
    (folder / "weights-30.safetensors").touch()  # no name of ours
    assert Subscriber(folder).version() == 8
    assert publish(Publisher(folder, keep=1), 0) == 21
    names = ["weights-000000021.safetensors", "weights-30.safetensors"]
    assert names_in(folder) == [LATEST_FILE, *names]
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Publisher(folder, keep=0)


@pytest.mark.parametrize("text", [b"", b'{"format_version": 99}', b"[1]", b"\xff"])
def test_a_damaged_latest_is_set_aside_and_publication_goes_on(folder, caplog, text):
    publisher, subscriber = Publisher(folder), Subscriber(folder)
    publish(publisher, 1)
    (folder / LATEST_FILE).write_bytes(text)
    with pytest.raises(PublicationError, match=LATEST_FILE):
        subscriber.version()
    assert publish(publisher, 2) == 2
    (aside,) = folder.glob("damaged-*")
    assert aside.read_bytes() == text
    assert aside.name in caplog.text
    assert subscriber.version() == 2
    assert number_in(subscriber.read(numbered(0))) == 2


def test_no_version_hides_behind_a_slow_clock_or_a_used_inode(fast_folder):
    publisher, subscriber = Publisher(fast_folder), Subscriber(fast_folder)
    path = fast_folder / LATEST_FILE
    for i in range(200):
        before = path.stat().st_mtime_ns if i else 0
        version = publish(publisher, i)
        assert path.stat().st_mtime_ns > before
        assert subscriber.version() == version
    later = time.time_ns() + 3_600_000_000_000  # a clock that was set back
    os.utime(path, ns=(later, later))
    publish(publisher, 0)
    assert path.stat().st_mtime_ns == later + 1


def test_what_did_not_change_is_not_read_again(folder):
    publish(Publisher(folder), 1)
    path, subscriber = folder / LATEST_FILE, Subscriber(folder)
    assert subscriber.version() == 1
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert subscriber.version() == 1
    with pytest.raises(PublicationError):
        Subscriber(folder).version()


def test_where_nothing_is_published_there_is_no_version(tmp_path):
    (tmp_path / "file").touch()
    for nothing in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        assert Subscriber(nothing).version() is None
        assert Subscriber(nothing).read(numbered(0)) is None


# Writers that die, readers that race


def publish_without_end(folder: Path) -> None:
    publisher = Publisher(folder, keep=2)
    for i in range(1_000_000):
        publish(publisher, i, size=1 << 17)


def test_a_writer_killed_at_any_moment_leaves_no_half(folder):
    subscriber, rng, interrupted = Subscriber(folder), random.Random(0), 0
    for _ in range(20):
        before = subscriber.version() or 0
        process = FORK.Process(target=publish_without_end, args=(folder,), daemon=True)
        process.start()
        while (subscriber.version() or 0) <= before:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        published = subscriber.read(numbered(0, 1 << 17))
        number_in(published)
        assert published.version > before
        newest = folder / f"weights-{published.version + 1:09d}.safetensors"
        interrupted += newest.exists() or any(folder.glob(f"{TEMPORARY_PREFIX}*"))
    # Most of a writer's time goes by with an unfinished file: all 20 kills missing one has a
    # probability below 1e-6.
    assert interrupted
    version = publish(Publisher(folder, keep=1), 7)
    assert names_in(folder) == [LATEST_FILE, f"weights-{version:09d}.safetensors"]


def publish_a_thousand(folder: Path, go_on: object) -> None:
    publisher = Publisher(folder, keep=1)
    publish(publisher, 1)
    go_on.wait()  # type: ignore[attr-defined]
    for i in range(2, 1001):
        publish(publisher, i)


def test_a_reader_beside_a_writer_sees_whole_versions_in_order(fast_folder):
    go_on, subscriber, seen = FORK.Event(), Subscriber(fast_folder), [0]
    process = FORK.Process(target=publish_a_thousand, args=(fast_folder, go_on), daemon=True)
    process.start()
    assert subscriber.wait_for(1, 60) == 1
    while seen[-1] < 1000:
        assert process.is_alive() or subscriber.version() == 1000
        told = subscriber.version()
        published = subscriber.read(numbered(0))
        assert number_in(published) == published.version
        assert seen[-1] <= published.version
        assert told <= published.version
        seen.append(published.version)
        go_on.set()
    process.join()
    assert process.exitcode == 0
    assert len(set(seen)) > 2


def test_only_temporary_files_without_a_writer_are_swept(folder):
    dead = FORK.Process(target=int)
    dead.start()
    dead.join()
    folder.mkdir(parents=True)
    own, late = folder / temporary_name(), folder / temporary_name()
    number = f"-{os.getpid()}-"
    gone = folder / temporary_name().replace(number, f"-{dead.pid}-")
    huge = folder / temporary_name().replace(number, f"-{'9' * 30}-")
    other, old = folder / f"{TEMPORARY_PREFIX}{dead.pid}-other", folder / f"{TEMPORARY_PREFIX}old"
    for path in (own, gone, huge, other, late, old):
        path.touch()
    long_ago = time.time() - publication.ABANDONED_SECONDS - 60
    for path in (late, old):  # late, or the clock has jumped
        os.utime(path, (long_ago, long_ago))
    Publisher(folder)
    assert names_in(folder) == sorted([own.name, other.name, late.name])


# Disks that refuse


def fill_up_to_a_limit(folder: Path) -> None:
    publisher, subscriber = Publisher(folder), Subscriber(folder)
    publish(publisher, 1)
    before = names_in(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13))
    # First the weights are too large, then what is said of them.
    for size, facts in ((1 << 13, {}), (64, {"text": "x" * (1 << 13)})):
        with pytest.raises(OSError, match="version 2 of the published weights could") as caught:
            publisher.publish(numbered(2, size), {**FACTS, **facts})
        assert caught.value.errno == errno.EFBIG
        assert names_in(folder) == before
        assert subscriber.version() == 1
        assert number_in(subscriber.read(numbered(0))) == 1
    assert publish(publisher, 3) == 2


def test_a_limit_of_file_size_harms_nothing(folder):
    in_a_fork(fill_up_to_a_limit, folder)


def test_a_full_disk_harms_nothing(tmp_path):
    # A file system of 256 KiB of its own, where the machine lets us mount one.
    code = """
        import errno, pathlib, sys, torch
        from remdm.distributed.publication import Publisher, Subscriber
        folder = pathlib.Path(sys.argv[1])
        publisher, subscriber = Publisher(folder, keep=1), Subscriber(folder)
        small = {"a": {"w": torch.arange(1000)}}
        facts = {"action_names": []}
        publisher.publish(small, facts)
        before = sorted(folder.iterdir())
        try:
            publisher.publish({"a": {"w": torch.ones(1 << 17)}}, facts)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            assert "version 2 of the published weights could not be" in str(error), error
            assert "free some space" in str(error), error
        else:
            raise SystemExit("the disk was not full")
        assert sorted(folder.iterdir()) == before
        assert subscriber.version() == 1
        assert torch.equal(subscriber.read(small).weights["a"]["w"], small["a"]["w"])
        assert publisher.publish(small, facts) == 2
    """
    mounted, script = tmp_path / "disk", tmp_path / "script.py"
    mounted.mkdir()
    script.write_text(textwrap.dedent(code))
    inside = 'mount -t tmpfs -o size=256k tmpfs "$0" || exit 77; "$1" "$2" "$0"'
    command = ["unshare", "-rm", "sh", "-c", inside, mounted, sys.executable, script]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if ran.returncode == SKIPPED or "unshare" in ran.stderr:
        pytest.skip("this machine does not let us mount a file system")
    assert ran.returncode == 0, ran.stderr


def use_without_rights(folder: Path) -> None:
    os.chdir(folder)  # the folders above it are closed to other users
    if os.geteuid() == 0:
        try:
            os.setuid(65534)
        except OSError:
            os._exit(SKIPPED)
    publisher = Publisher(Path())
    with pytest.raises(PermissionError, match="version 2 of the published weights could not"):
        publish(publisher, 2)
    subscriber = Subscriber(Path())
    assert subscriber.version() == 1
    assert number_in(subscriber.read(numbered(0))) == 1


def test_a_folder_that_may_only_be_read_is_read_and_not_written_to(folder):
    publish(Publisher(folder), 1)
    before = names_in(folder)
    folder.chmod(0o555)
    in_a_fork(use_without_rights, folder)
    folder.chmod(0o755)
    assert names_in(folder) == before


# Waiting


def test_waiting_ends_when_the_version_comes(folder, monkeypatch):
    monkeypatch.setattr(publication, "POLL_SECONDS", 0.001)
    publisher, subscriber = Publisher(folder), Subscriber(folder)
    # It is asked after every look: each time a version more is there.
    assert subscriber.wait_for(3, 60, lambda: publish(publisher, 0) > 99) == 3
    assert subscriber.wait_for(2, 0) == 3


def test_waiting_ends_when_it_is_told_to(folder):
    assert Subscriber(folder).wait_for(1, 60, lambda: True) is None


@pytest.mark.parametrize(("log_every", "lines"), [(0.0, 4), (3600.0, 1)])
def test_waiting_is_told_at_once_and_then_now_and_then(
    folder, monkeypatch, caplog, log_every, lines
):
    monkeypatch.setattr(publication, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(publication, "LOG_EVERY_SECONDS", log_every)
    caplog.set_level(logging.INFO)
    answers = iter([False] * 4 + [True])
    Subscriber(folder).wait_for(5, 60, lambda: next(answers))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == lines
    assert told[0] == (
        f"waiting for weights of version 5 or newer in {folder}: nothing is published there yet "
        "(0 of at most 60 s)"
    )


def test_waiting_in_vain_says_for_what_and_names_the_knob(folder):
    subscriber = Subscriber(folder)
    with pytest.raises(TimeoutError, match=r"nothing is published.*Experiment\.max_wait_seconds"):
        subscriber.wait_for(1, 0.01)
    publish(Publisher(folder), 1)
    with pytest.raises(TimeoutError, match=r"version 2 or newer.*within 0\.01 s.*is version 1;"):
        subscriber.wait_for(2, 0.01)
    (folder / LATEST_FILE).write_text("{")
    with pytest.raises(TimeoutError, match=r"LATEST\.json is damaged.*max_wait_seconds"):
        subscriber.wait_for(2, 0.01)
