"""Whatever lies on the disk: it is refused with its name and a reason, or read as what it is.

All that remdm reads (shards, label files, manifests, states, weights and torch files of
checkpoints, experts) is damaged and lied in, by `tests.faults.mutations`, in a process whose memory
is bounded. No reader may do anything but raise the error it documents, or return what was written.
JSON has no sum: of a state or a manifest another number may be read, and then everything that is
done with it must work. The same holds for lies whose sums are right.

A few hundred mutations are made with every run of the suite. Ten thousand, which take minutes:

    REMDM_LONG_FAULTS=1 python -m pytest tests/faults -k ten_thousand -s
"""

import collections
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.campaign import CHANGED, REFUSED, Original, Wrong, mutators_of, outcome_of
from tests.faults.mutations import Payload
from tests.faults.targets import TARGETS, Never, Target, make_originals, nothing_more

ROOT = Path(__file__).parents[2]
LONG = "REMDM_LONG_FAULTS"


def campaign(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Outcomes of `count` mutations, by kind of file, mutation and outcome."""
    command = [sys.executable, "-m", "tests.faults.campaign", str(folder), str(count), str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    current = folder / "current"
    reached = current.read_text() if current.exists() else "the start"
    assert done.returncode == 0, f"died of {reached} ({done.returncode}):\n{done.stderr[-3000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == [], "\n\n".join(result["wrong"][:5])
    counts: dict[str, int] = result["counts"]
    assert sum(counts.values()) == count
    for name in (target.name for target in TARGETS if target.refusal is not Never):
        assert any(key.startswith(f"{name} |") and key.endswith(REFUSED) for key in counts), name
    # Only what has no sum, or a right one, may be read as something else.
    summed = [target for target in TARGETS if target.summed]
    lies = {(t.name, name) for t in summed for name, _, lied in mutators_of(t, folder) if lied}
    for key in (key for key in counts if key.endswith(CHANGED)):
        name, mutation, _ = key.split(" | ")
        assert name not in {t.name for t in summed} or (name, mutation) in lies, key
    return counts


def test_hundreds_of_mutated_files_are_refused_or_read_as_what_they_are(tmp_path: Path) -> None:
    campaign(tmp_path, 400, seed=0)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get(LONG) != "1", reason=f"only with {LONG}=1")
def test_ten_thousand_mutated_files_are_refused_or_read_as_what_they_are(tmp_path: Path) -> None:
    counts = campaign(tmp_path, 10_000, seed=1)
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for key, count in counts.items():
        name, _, outcome = key.split(" | ")
        table[name][outcome] += count
    for name, outcomes in table.items():
        print(f"{name}: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()))


LARGE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from remdm.data.labels import Labels, write_labels
from remdm.data.tensor_file import DamagedFileError, TensorFile, write_tensor_file
from remdm.training.checkpoint import CheckpointError, load_plain, load_weights
from remdm.training.checkpoint import save_plain, save_weights

root, size = Path(sys.argv[1]), 1 << 25
tokens, names = np.zeros((size // 64, 64), np.int8), ["a", "b"]
weights = np.ones(len(tokens), np.float32)
write_labels(root / "labels", tokens, weights, "o", 1, names, shard_checksum="")
write_tensor_file(root / "arrays", {"x": [np.ones(size, np.bool_)]}, {}, "a file")
save_weights(root / "weights", {"x": torch.ones(size // 4)})
save_plain(root / "plain", {"x": torch.ones(size // 4)})
verified = {"verify_data": True}
readers = {
    "labels": lambda path: len(Labels.open(path, **verified).plans),
    "arrays": lambda path: len(TensorFile.open(path, **verified).tensors["x"]),
    "weights": lambda path: len(load_weights(path)["x"]),
    "plain": lambda path: len(load_plain(path)["x"]),
}
del tokens, weights
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 3 * size
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, read in readers.items():
    path = root / name
    assert read(path)
    with path.open("r+b") as file:
        file.seek(-size // 2, 2)
        file.write(b"\\xff")
    try:
        read(path)
    except (DamagedFileError, CheckpointError) as error:
        assert "CRC-32" in str(error), error
    else:
        raise SystemExit(f"{name}: the damage was not found")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_large_files_are_verified_in_the_memory_of_little_more_than_themselves(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


# The harness itself: readers that do what they must not are caught


def careless(read: Callable[[Path], Any]) -> Target:
    """A target whose reader is `read`."""
    return Target("careless", "file", ValueError, read, nothing_more, (), (), summed=True)


def believing(path: Path) -> int:
    raw = path.read_bytes()
    return len(bytearray(1 << 60)) if raw == b"bad" else len(raw)


def hiding(path: Path) -> int:
    try:
        return believing(path)
    except MemoryError as error:
        raise ValueError(f"{path} is damaged: it is too large") from error


def silent(path: Path) -> bytes:
    if path.read_bytes() == b"bad":
        raise ValueError("no")
    return b""


def wordy(path: Path) -> bytes:
    if path.read_bytes() == b"bad":
        raise ValueError(f"{path} is damaged: {'x' * 5_000}")
    return b""


def unprintable(path: Path) -> bytes:
    if path.read_bytes() == b"bad":
        raise ValueError(f"{path} is damaged: \x1b[2J begins it")
    return b""


@pytest.mark.parametrize(
    ("reader", "caught", "words"),
    [
        (lambda path: path.read_bytes(), Wrong, "read as something else"),
        (lambda path: {b"good": 1}[path.read_bytes()], KeyError, "bad"),
        (believing, MemoryError, None),
        (hiding, Wrong, "asked for memory"),
        (silent, Wrong, "does not name the file"),
        (wordy, Wrong, "characters"),
        (unprintable, Wrong, "cannot be printed"),
    ],
    ids=["believes", "any error", "memory", "hidden", "nameless", "wordy", "unprintable"],
)
def test_a_reader_that_does_what_it_must_not_is_caught(
    reader: Callable[[Path], Any], caught: type[Exception], words: str | None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"good")
    original = Original.of(careless(reader), tmp_path)
    with pytest.raises(caught, match=words):
        outcome_of(original, b"bad", lied=False)
    assert (tmp_path / "file").read_bytes() == b"good"


def test_the_code_that_is_put_into_files_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "sentinel")))
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_every_mutator_changes_the_file_and_repeats_itself(target: Target, tmp_path: Path) -> None:
    make_originals(tmp_path)
    raw = (tmp_path / target.place).read_bytes()
    for name, mutate, _ in mutators_of(target, tmp_path / "sentinel"):
        made = [mutate(raw, np.random.default_rng([0, seed])) for seed in range(8)]
        assert any(changed != raw for changed in made), name
        again = [mutate(raw, np.random.default_rng([0, seed])) for seed in range(8)]
        assert made == again, name
