"""Damages files by the thousand in a process of its own, and tells what became of each.

`python -m tests.faults.campaign FOLDER COUNT SEED` ends with one line of JSON. The address space of
the process is bounded, so that a reader that believes a lie about sizes runs out of memory; and
should it die, the file `current` in FOLDER says of which mutation.
"""

import collections
import json
import logging
import resource
import shutil
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.faults.mutations import Mutator, with_code
from tests.faults.targets import TARGETS, Target, make_originals

REFUSED, EQUAL, CHANGED = "refused", "equal", "changed"
# What a reader may use beyond what it has used for a good file.
BYTES_PER_BYTE, CONSTANT_BYTES = 10, 48 << 20
LONGEST_MESSAGE = 2_000


@dataclass(frozen=True)
class Original:
    """A good file, and what is read from it."""

    target: Target
    path: Path
    raw: bytes
    contents: Any

    @classmethod
    def of(cls, target: Target, root: Path) -> "Original":
        path = root / target.place
        target.use(path)
        return cls(target, path, path.read_bytes(), target.read(path))


class Wrong(Exception):
    """A reader did what it must not do."""


def outcome_of(original: Original, raw: bytes, *, lied: bool) -> str:
    """Put `raw` in place of a good file and read it.

    Args:
        original: The good file; it is put back.
        raw: What lies there meanwhile.
        lied: Whether something else may be read, if it is sound.

    Raises:
        Wrong: If it is neither refused as documented nor read as what it is.
    """
    target, path = original.target, original.path
    path.write_bytes(raw)
    try:
        contents = target.read(path)
        if contents == original.contents:
            return EQUAL
        if target.summed and not lied:
            raise Wrong("it was read as something else")
        target.use(path)
        return CHANGED
    except target.refusal as error:
        _check_refusal(error, path)
        return REFUSED
    finally:
        path.write_bytes(original.raw)


def _check_refusal(error: Exception, path: Path) -> None:
    message, cause = str(error), error.__cause__
    if str(path) not in message and str(path.parent) not in message:
        raise Wrong(f"the refusal does not name the file: {message[:200]}") from error
    if len(message) > len(str(path)) + LONGEST_MESSAGE:
        raise Wrong(f"the refusal has {len(message)} characters: {message[:200]}") from error
    if not message.isprintable():
        raise Wrong(f"the refusal cannot be printed: {message[:200]!r}") from error
    if len(message.replace(str(path), "")) < 12:
        raise Wrong(f"the refusal has no reason: {message[:200]}") from error
    if isinstance(cause, MemoryError) or "memory" in str(cause):
        raise Wrong(f"it asked for memory that is not there: {message[:200]}") from error


def mutators_of(target: Target, sentinel: Path) -> list[tuple[str, Mutator, bool]]:
    """By name all that is done to such a file, and whether it is a lie."""
    damages = [(m.__name__, m, False) for m in target.damages]
    lies = [(m.__name__, m, True) for m in target.lies]
    return [*damages, *lies, ("code", with_code(sentinel), True)]


def bound_memory(largest_file: int) -> None:
    """From now on the process may have only so much more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES_PER_BYTE * largest_file + CONSTANT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(root: Path, count: int, seed: int) -> dict[str, Any]:
    """Make `count` mutations of all kinds of files in turn."""
    torch.set_num_threads(1)
    logging.disable()
    make_originals(root / "files")
    originals = [Original.of(target, root / "files") for target in TARGETS]
    sentinel, current = root / "sentinel", root / "current"
    mutators = [mutators_of(target, sentinel) for target in TARGETS]
    if Path("/proc/self/statm").exists():
        bound_memory(max(len(o.raw) for o in originals))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for number in range(count):
        place, turn = number % len(TARGETS), number // len(TARGETS)
        name, mutate, lied = mutators[place][turn % len(mutators[place])]
        which = f"{TARGETS[place].name} | {name}"
        current.write_text(f"mutation {number} of seed {seed}: {which}")
        raw = mutate(originals[place].raw, np.random.default_rng([seed, number]))
        try:
            outcome = outcome_of(originals[place], raw, lied=lied)
        except (Exception, SystemExit, KeyboardInterrupt):
            outcome = "WRONG"
            wrong.append(f"{number} | {which}: {traceback.format_exc(limit=-4)[-1200:]}")
        except BaseException:  # what Rust raises when it panics is no Exception
            outcome = "WRONG"
            wrong.append(f"{number} | {which}: panic {traceback.format_exc(limit=-4)[-1200:]}")
        if sentinel.exists():
            wrong.append(f"{number} | {which}: code in the file was run")
            sentinel.unlink()
        counts[f"{which} | {outcome}"] += 1
    escaped = [str(p) for p in root.rglob("*escaped*") if p.parent.name != "data"]
    wrong += [f"a file was written outside: {path}" for path in escaped]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    shutil.rmtree(root / "files")
    return {"counts": dict(sorted(counts.items())), "wrong": wrong, "grown_kib": grown}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
