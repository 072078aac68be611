"""The published Craftax planner's presets, as our recipes state them, come to its numbers."""

from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("craftax")

import remdm
from remdm import config
from remdm.training.beta import ExponentialBeta, decay_between

pytestmark = pytest.mark.craftax

CLASSIC, FULL = "Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"
RECIPES = Path(__file__).parents[2] / "gin_configs"


class Preset(NamedTuple):
    """What is published of a preset: settings, and what they come to.

    Attributes:
        game: Environment.
        actors: num_envs.
        steps: num_steps.
        parts: num_minibatches.
        passes: update_epochs.
        updates: Its outer updates, our epochs.
        warmup: Of those, epochs of warm-up.
        interval: Of those, epochs between validations.
        decay: Factor of beta per update.
        windows: The replay buffer holds.
        rate: Learning rate.
        width: d_model.
        denoise: Net calls per plan in collecting and in validation.
        replan: Env steps per plan in validation.
        seed: Of the run.
    """

    game: str
    actors: int
    steps: int
    parts: int
    passes: int
    updates: int
    warmup: int
    interval: int
    decay: float
    windows: int
    rate: float = 3e-4
    width: int = 256
    denoise: tuple[int, int] = (15, 50)
    replan: int = 4
    seed: int = 42


BIG = {"width": 384}
TUNED = {"rate": 5e-4, "width": 384, "denoise": (25, 25), "replan": 2}
PRESETS = {
    "craftax_seed_defaults": Preset(CLASSIC, 1024, 64, 8, 4, 1000, 0, 50, 0.95, 100_000),
    "craftax_classic_exp_a": Preset(CLASSIC, 4096, 128, 16, 8, 1500, 2, 30, 0.9993, 10**6),
    "craftax_classic_exp_b": Preset(CLASSIC, 4096, 128, 8, 8, 1500, 3, 30, 0.9993, 10**6, **BIG),
    "craftax_classic_exp_c": Preset(CLASSIC, 448, 128, 8, 8, 1743, 28, 17, 0.9993, 10**6, **TUNED),
    "craftax_exp_a": Preset(FULL, 2048, 128, 8, 8, 2000, 6, 3, 0.9993, 200_000),
    "craftax_exp_b": Preset(FULL, 2048, 128, 8, 8, 2000, 6, 3, 0.9993, 200_000, **BIG),
    "craftax_exp_c": Preset(FULL, 448, 128, 8, 8, 1743, 28, 17, 0.9993, 200_000, **TUNED),
    "craftax_final_classic_ucl": Preset(
        CLASSIC, 512, 128, 8, 8, 1525, 25, 15, 0.9993005, 125_000, **BIG
    ),
    "craftax_final_classic_qmul": Preset(
        CLASSIC, 96, 128, 8, 8, 8138, 133, 81, 0.9998689, 23_438, **BIG, seed=43
    ),
    "craftax_final_full_ucl": Preset(
        FULL, 448, 128, 8, 8, 1743, 28, 17, 0.9994525, 43_750, **TUNED
    ),
    "craftax_final_full_qmul": Preset(
        FULL, 64, 128, 8, 8, 12_207, 200, 122, 0.9999218, 6_250, **TUNED, seed=43
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_comes_to_the_published_numbers(name: str) -> None:
    preset = PRESETS[name]
    config.load_config([RECIPES / f"{name}.gin"])
    run = remdm.Experiment("preset")
    budget = run.budget_of(run.parallel_actors)
    windows = preset.steps - config.bound_value("DiffusionPlannerAgent.plan_horizon") + 1
    assert run.train_envs == (preset.game,)
    assert (run.parallel_actors, run.seed) == (preset.actors, preset.seed)
    assert run.batch_size * preset.parts == preset.actors * windows
    assert run.train_batches_per_epoch == preset.passes * preset.parts
    assert budget.frames.per_epoch == preset.actors * preset.steps
    assert (budget.epochs, budget.val_interval) == (preset.updates, preset.interval)
    assert budget.lr_warmup_steps == preset.warmup * run.train_batches_per_epoch
    assert budget.total_updates == preset.updates * run.train_batches_per_epoch
    assert run.learning_rate == preset.rate
    assert run.val_replan_every == preset.replan

    beta = ExponentialBeta()
    assert beta(0.0) == 1.0
    decay = decay_between(1.0, beta(1.0), preset.updates)
    assert decay == pytest.approx(preset.decay, abs=2e-6)
    # Each step of the data begins a window but for the last ones of an epoch.
    kept = config.bound_value("DiskTrajDataset.dset_max_cycles") * preset.actors * windows
    assert kept == pytest.approx(preset.windows, rel=2e-3)

    assert config.bound_value("SequenceDenoiser.width") == preset.width
    options = [
        config.bound_value(f"DiffusionPlannerAgent.sampler{which}_options")
        for which in ("_collect", "")
    ]
    assert tuple(o["num_denoise_steps"] for o in options) == preset.denoise


def test_offline_recipe_is_the_expert_alone_on_fresh_data() -> None:
    config.load_config([RECIPES / "craftax_classic_offline.gin"])
    run = remdm.Experiment("preset")
    assert [ExponentialBeta()(progress) for progress in (0.0, 0.5, 1.0)] == [1.0] * 3
    assert run.budget_of(run.parallel_actors).epochs == 1525
    assert config.bound_value("DiskTrajDataset.target") == "executed"
    assert config.bound_value("DiskTrajDataset.return_weight_cap") == 5.0


def test_smoke_recipe_comes_to_six_epochs() -> None:
    config.load_config([RECIPES / "craftax_seed_smoke.gin"])
    run = remdm.Experiment("preset")
    budget = run.budget_of(run.parallel_actors)
    assert (budget.epochs, budget.total_updates, budget.val_interval) == (6, 12, 3)
