"""Seconds of one DAgger iteration of the published recipe: our loop against one in its way.

An iteration is 30 pairs of episodes, of the planner and of the oracle, and 100 updates at batch 256
with the published net. Ours is a run of `gin_configs/minihack_seed_dagger.gin`; the reference is
benchmarks/inputs/published_loop.py. Both begin with the same weights, which is checked, and play
the same levels by the same weights, in turns; making environments is outside the clock. Ours also
keeps its data on disk. It computes in bfloat16 unless `--precision no` says otherwise; the
published loop has no such option on CPUs. Ours keeps freed memory (remdm/allocator.py), as `remdm
train` does; the published loop is a process of its own, as a plain script is. Beside the clock on
the wall stands what the processors worked (`cpu`, over all threads), which other programs on the
machine disturb less.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.harness import options, report, summarize
from benchmarks.inputs.published_loop import (
    MASK,
    Clocks,
    LoopApart,
    PlainNet,
    clocks,
    parts_of,
    plain_weights,
)
from remdm import config
from remdm.agent import BaseAgent
from remdm.allocator import keep_allocations
from remdm.experiment import Experiment
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.training.collect_stats import CollectStats
from remdm.training.paired_collector import PairedCollector

PARTS = ("seconds", "collecting", "training", "cpu", "cpu collecting", "cpu training")
RECIPE = "gin_configs/minihack_seed_dagger.gin"


class Timed(Experiment):
    """Remembers which levels it played, and how long the parts of its epochs took."""

    played: Sequence[tuple[str, int]] = ()
    collected: Clocks

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        """See `Experiment.interact`."""
        super().interact(agent, stats, beta)
        assert isinstance(self.collector, PairedCollector)
        self.played = self.collector.levels or self.played

    def prepare_data(self) -> None:
        """See `Experiment.prepare_data`."""
        super().prepare_data()
        self.collected = clocks()

    def iteration(self) -> dict[str, float]:
        """One epoch; seconds of its parts, and env steps."""
        began, before = clocks(), self.progress.env_steps
        self.run_epoch()
        return parts_of(began, self.collected, clocks(), self.progress.env_steps - before)


@contextlib.contextmanager
def our_run(folder: str, arguments: Any, updates: int, pairs: int) -> Iterator[Timed]:
    """A run of the recipe, its warm start done."""
    changed = {
        "ckpt_base_dir": folder,
        "batch_size": arguments.batch,
        "train_batches_per_epoch": updates,
        "parallel_actors": pairs,
        "mixed_precision": arguments.precision,
        "val_interval": None,
        "ckpt_interval": None,
        "total_timesteps": None,
        "epochs": 1000,
        "heldout_envs": (),
        "verbose": False,
    }
    bindings = [f"Experiment.{name} = {value!r}" for name, value in changed.items()]
    config.load_config([RECIPE], bindings)
    run = Timed("dagger_iteration")
    run.start()
    try:
        yield run
    finally:
        run.close()
        config.clear_config()


def check_same_net(run: Timed) -> None:
    """See that both nets say the same of the same observations.

    Raises:
        AssertionError: If they do not.
    """
    ours = run.policy.denoiser
    assert isinstance(ours, DualStreamDenoiser)
    plain = PlainNet().eval()
    plain.load_state_dict(plain_weights(ours.state_dict()))
    seen = run.val_envs.reset(range(run.val_envs.num_envs))
    observations = {k: torch.from_numpy(seen[k].copy()) for k in ("glyphs", "position")}
    plan = torch.full((run.val_envs.num_envs, ours.plan_horizon), MASK)
    with torch.no_grad():
        expected = ours.denoise(ours.encode(observations), plan, 0.5)[..., :MASK]
        glyphs = observations["glyphs"].long()
        padded = torch.nn.functional.pad(glyphs, (4, 4, 4, 4), value=13)
        places = observations["position"].tolist()
        crops = torch.stack(
            [p[r : r + 9, c : c + 9] for p, (r, c) in zip(padded, places, strict=True)]
        )
        found, _ = plain(crops, glyphs, plan, torch.full((len(plan),), 50))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def compare(arguments: Any, updates: int, pairs: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table: iterations of both sides in turns."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, our_run(folder, arguments, updates, pairs) as run:
        check_same_net(run)
        caps = dict(zip(run.train_envs, run.train_step_caps or (), strict=True))
        theirs = LoopApart(caps)
        theirs.call("learn_from", plain_weights(run.policy.denoiser.state_dict()))
        theirs.call("warm_start", [(env, seed) for env in caps for seed in range(3)])
        theirs.call("update", arguments.batch)  # what is made once, is made now
        run.iteration()  # also the warm start
        for _ in range(repeats):
            theirs.call("act_by", plain_weights(run.policy.denoiser.state_dict()))
            mine = run.iteration()
            published = theirs.call("iteration", run.played, updates, arguments.batch)
            for side, found in (("ours", mine), ("published way", published)):
                rows.append(
                    {
                        "side": side,
                        **found,
                        "s/update": found["training"] / updates,
                    }
                )
        theirs.close()
    return rows


def main() -> None:
    arguments = options(__doc__, updates=100, pairs=30, batch=256, repeats=3, precision="bf16")
    warnings.filterwarnings("ignore")
    logging.getLogger("remdm").setLevel(logging.WARNING)
    keep_allocations()
    sizes = (
        (2, 6, 1) if arguments.quick else (arguments.updates, arguments.pairs, arguments.repeats)
    )
    rows = compare(arguments, *sizes)
    found = {
        (side, part): summarize([row[part] for row in rows if row["side"] == side]).median
        for side in ("ours", "published way")
        for part in PARTS
    }
    ours, theirs = found["ours", "seconds"], found["published way", "seconds"]
    line = {
        "name": "dagger_iteration",
        "value": ours,
        "unit": f"s per iteration of {sizes[1]} pairs and {sizes[0]} updates of {arguments.batch}",
        "reference": "the published way: float32, oracle in plain Python, threads",
        "reference_value": theirs,
        "ratio": theirs / ours,
        "precision": arguments.precision,
        **{
            f"ratio_{part.replace(' ', '_')}": found["published way", part] / found["ours", part]
            for part in PARTS[1:]
        },
        "rows": rows,
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
