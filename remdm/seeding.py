"""All randomness of a run, derived from one seed.

Streams are named by integers and strings (role, rank, actor, episode); the same names give the
same stream whatever else was drawn before, so nothing depends on the order of calls. Level seeds
of training, validation and test never meet.
"""

import zlib

import numpy as np
import torch

# Half-open ranges of level seeds.
TEST_SEEDS = range(0, 100_000)
VALIDATION_SEEDS = range(100_000, 1_000_000)
TRAINING_SEEDS = range(1_000_000, 2**31 - 1)


def _words(parts: tuple[int | str, ...]) -> list[int]:
    return [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in parts]


def numpy_generator(seed: int, *stream: int | str) -> np.random.Generator:
    """A NumPy generator for one named stream of a run."""
    return np.random.default_rng(np.random.SeedSequence([seed, *_words(stream)]))


def torch_generator(seed: int, *stream: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator for one named stream of a run."""
    state = np.random.SeedSequence([seed, *_words(stream)]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def training_level_seed(seed: int, actor: int, episode: int) -> int:
    """Level seed of an actor's episode: a counter-based draw from `TRAINING_SEEDS`."""
    draw = numpy_generator(seed, "level", actor, episode)
    return int(draw.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop))
