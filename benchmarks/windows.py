"""Random training windows per second from a dataset on disk, hot (in the page cache).

One window is the observation of one random step (the named arrays of a 21x79 MiniHack map), the
plan of 16 tokens wanted there and its weight, copied into a batch that the learner owns. The
reference reads what a replay folder with one npz file per episode has to read for a window: the
file of a random episode, of which it keeps one step. Both get the same steps and the same keys.
In stretches, rows of 16 steps walk through episodes or are drawn at random; steps that only fill a
row are copied and not counted.
"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import measure, options, report
from remdm.data.batch import Window
from remdm.data.disk import DiskTrajDataset
from remdm.data.labels import Labels
from remdm.data.records import Segment, StepArrays
from remdm.data.shards import Shard, shard_name, write_shard
from remdm.maps import ACTION_NAMES, Terrain, map_observation_spec
from remdm.nets.egocentric import FEATURE_KEYS
from remdm.tokens import end_token

BATCH = 128
PLAN_HORIZON = 16
EPISODE_STEPS = 100
EPISODES_PER_SHARD = 10
ENVS = ("env-a", "env-b", "env-c", "env-d")
TARGETS = ("plans", "weights")
STRETCH_STEPS = 16


class _FixedPlans:
    """Labels every step with the same plan, so that the table is about reading alone."""

    name = "fixed"
    version = 1

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(observations["step"])
        plans = np.full((count, plan_horizon), end_token(len(ACTION_NAMES)), np.int8)
        plans[:, : plan_horizon // 2] = 1
        return plans, np.ones(count, np.float32)


def _episode(rng: np.random.Generator) -> StepArrays:
    """Random maps with the spread of values that real ones have."""
    count = EPISODE_STEPS
    observations = {
        name: rng.integers(0, len(Terrain), (count, *spec.shape)).astype(spec.dtype)
        for name, spec in map_observation_spec(21, 79).items()
    }
    ends = np.arange(count) == count - 1
    actions = rng.integers(0, len(ACTION_NAMES), count).astype(np.int8)
    rewards = np.zeros(count, np.float32)
    return StepArrays(observations, actions, rewards, ends, np.zeros(count, np.bool_))


def _write(root: Path, shards: int) -> tuple[DiskTrajDataset, list[Path], list[Path]]:
    """The same episodes as a dataset, as npz files and as compressed npz files."""
    dataset = DiskTrajDataset(root, "dataset")
    dataset.configure(PLAN_HORIZON, oracle=_FixedPlans())
    rng = np.random.default_rng(0)
    plain, packed = [], []
    for number in range(shards):
        episodes = [_episode(rng) for _ in range(EPISODES_PER_SHARD)]
        segments = [
            Segment(ENVS[i % len(ENVS)], i, 0, EPISODE_STEPS, True, True, 0, "bench")
            for i in range(len(episodes))
        ]
        name = shard_name(0, "bench", number, EPISODES_PER_SHARD * EPISODE_STEPS)
        write_shard(dataset.save_new_trajs_to / name, segments, episodes, ACTION_NAMES)
        for i, episode in enumerate(episodes):
            plans, weights = _FixedPlans().label(episode.observations, PLAN_HORIZON)
            arrays = {**episode.observations, "plans": plans, "weights": weights}
            plain.append(root / f"{number:04d}-{i:04d}.npz")
            np.savez(plain[-1], **arrays)
            if number < 2:
                packed.append(root / f"{number:04d}-{i:04d}-packed.npz")
                np.savez_compressed(packed[-1], **arrays)
    dataset.label_new(_FixedPlans(), PLAN_HORIZON)
    return dataset, plain, packed


def _npz_reader(
    files: list[Path], keys: tuple[str, ...], count: int
) -> Callable[[], dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)

    def read() -> dict[str, np.ndarray]:
        rows: dict[str, list[np.ndarray]] = {key: [] for key in (*keys, *TARGETS)}
        for number in rng.integers(0, len(files), count):
            step = rng.integers(0, EPISODE_STEPS)
            with np.load(files[number]) as episode:
                for key, values in rows.items():
                    values.append(episode[key][step])
        return {key: np.stack(values) for key, values in rows.items()}

    return read


def _one_by_one(dataset: DiskTrajDataset, keys: tuple[str, ...]) -> Callable[[], object]:
    """The same mapped files, read window by window in NumPy."""
    shards = [Shard.open(path).steps.observations for path in dataset.folder.shard_paths()]
    labels = [Labels.open(path) for path in sorted(dataset.folder.labels.iterdir())]
    rng = np.random.default_rng(2)

    def read() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        files = rng.integers(0, len(shards), BATCH)
        steps = rng.integers(0, EPISODES_PER_SHARD * EPISODE_STEPS, BATCH)
        places = list(zip(files.tolist(), steps.tolist(), strict=True))
        return (
            {key: np.stack([shards[f][key][t] for f, t in places]) for key in keys},
            np.stack([labels[f].plans[t] for f, t in places]),
            np.array([labels[f].weights[t] for f, t in places]),
        )

    return read


def _stretches(root: Path, keys: tuple[str, ...], order: str) -> tuple[Callable[[], object], float]:
    """Reads the next batch of stretches; and how many real steps one has on average."""
    dataset = DiskTrajDataset(root, "dataset", stretch_steps=STRETCH_STEPS, stretches=order)
    dataset.configure(PLAN_HORIZON, oracle=_FixedPlans(), observation_keys=keys)
    dataset.refresh()
    dataset.begin_walk(0, BATCH, 0)
    numbers, rng = itertools.count(), np.random.default_rng(3)

    def read() -> Window:
        if dataset.walks:
            return dataset.walked(next(numbers), slice(0, BATCH))
        return dataset.sample(BATCH, rng)

    seen = [read().stretch for _ in range(200)]
    real = [float(stretch.real.sum()) for stretch in seen if stretch is not None]
    return read, float(np.mean(real))


def main() -> None:
    args = options(__doc__)
    all_keys = tuple(map_observation_spec(21, 79))
    shards, min_time_s = (6, 0.1) if args.quick else (48, 0.5)
    rows, speeds = [], {}

    def add(what: str, bytes_per_window: int, windows: float, fn: Callable[[], object]) -> float:
        timing = measure(fn, repeats=7, min_time_s=min_time_s)
        speed = windows / timing.median
        speeds[what] = speed
        rows.append(
            {
                "one window from": what,
                "bytes": bytes_per_window,
                "windows/s": speed,
                "MB/s": speed * bytes_per_window / 1e6,
                "us/window": 1e6 / speed,
                "IQR %": 100 * (timing.upper - timing.lower) / timing.median,
            }
        )
        return speed

    with tempfile.TemporaryDirectory() as folder:
        dataset, plain, packed = _write(Path(folder), shards)
        kinds = {
            "dataset, keys of the default net": tuple(FEATURE_KEYS),
            "dataset, all keys": all_keys,
            "dataset, no maps (position, step)": ("position", "step"),
        }
        rng, sizes = np.random.default_rng(0), []
        for what, keys in kinds.items():
            dataset.configure(PLAN_HORIZON, oracle=_FixedPlans(), observation_keys=keys)
            dataset.refresh()
            sizes.append(dataset.index.row_nbytes if dataset.index else 0)
            add(what, sizes[-1], BATCH, lambda: dataset.sample(BATCH, rng))
        default, size = tuple(FEATURE_KEYS), sizes[0]
        for order in ("walk", "random"):
            read, real = _stretches(Path(folder), default, order)
            add(f"dataset, stretches ({order}), default keys", size, real, read)
        add("the same files, one by one in NumPy", size, BATCH, _one_by_one(dataset, default))
        add("npz per episode", size, 16, _npz_reader(plain, default, 16))
        add("npz per episode, compressed", size, 4, _npz_reader(packed, default, 4))
        steps = sum(e.steps for e in dataset.manifest.shards)
    ours, reference = speeds["dataset, keys of the default net"], speeds["npz per episode"]
    line = {
        "name": "windows",
        "value": ours,
        "unit": "windows/s",
        "reference": "npz file per episode, uncompressed, same keys",
        "reference_value": reference,
        "ratio": ours / reference,
        "bytes_per_window": size,
        "all_keys_value": speeds["dataset, all keys"],
        **{
            f"{order}_ratio_to_single": speeds[f"dataset, stretches ({order}), default keys"] / ours
            for order in ("walk", "random")
        },
        "batch_size": BATCH,
        "dataset_steps": steps,
    }
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
