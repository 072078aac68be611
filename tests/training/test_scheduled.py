"""Numbers that follow schedules: that each takes effect, stops and goes on, or is refused."""

import json
from pathlib import Path
from typing import Any, ClassVar

import gin
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from remdm import config
from remdm.agent import DiffusionPlannerAgent
from remdm.base_agent import DenoiserAgent
from remdm.data.batch import Batch
from remdm.diffusion import Sampler, make_sampler
from remdm.experiment import Experiment
from remdm.outputs import Outputs
from remdm.training.checkpoint import read_state
from remdm.training.live_numbers import LIVE, SHARE, Bounds, live_numbers
from remdm.training.objectives import Objective
from remdm.training.progress import Progress
from remdm.training.scheduled import Place, ScheduledNumbers
from remdm.training.schedules import LinearRamp, PiecewiseRamp
from remdm.training.whole_state import newest_checkpoint
from tests.distributed.test_roles import play
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, data_files, metric_rows, started, tiny_bindings


@gin.configurable(module="tests")
class Shrinking(Objective):
    """An objective of one's own that says which number it reads at every batch."""

    name = "shrinking"
    live_numbers: ClassVar = {"share": SHARE}

    def __init__(self, *, share: float = 0.0, exponent: float = 2.0) -> None:
        self.share, self.exponent = share, exponent

    def __call__(
        self, batch: Batch, outputs: Outputs, agent: DenoiserAgent, step: int
    ) -> dict[str, Tensor]:
        size = torch.stack([p.abs().pow(self.exponent).mean() for p in agent.parameters()]).mean()
        return {"loss": self.share * size}


# Runs of two epochs: what is bound for all, and numbers that are bound or scheduled.
SMALL = {
    "Experiment.epochs": "2",
    "Experiment.val_interval": "None",
    "Experiment.warm_start_timesteps": "0",
    "Experiment.heldout_envs": "()",
    "Experiment.train_timesteps_per_epoch": "12",
}
SHARES = ("explore", "close", "flip", "lock", "exhaust", "obstruct")
RUNS: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "planner": (
        {
            "Experiment.beta_schedule_type": "@ConstantBeta",
            "Experiment.exploration_wrapper_type": "@EpsilonActions",
            "Experiment.curriculum_type": "@WinRateCurriculum",
            "Experiment.objectives": "(@OwnLoss, @Shrinking)",
            "LinearBeta.until": "",
            "Experiment.train_step_caps": "(6, 7)",
        },
        {
            "Experiment.oracle_noise": 0.7,
            "Experiment.batch_size": 5,
            "Experiment.learning_rate": 3e-3,
            "Experiment.lr_final_fraction": 0.5,
            "Experiment.l2_coeff": 0.5,
            "Experiment.grad_clip": 0.1,
            "Experiment.ema_decay": 0.05,
            "ConstantBeta.value": 0.4,
            "EpsilonActions.last": 0.6,
            "WinRateCurriculum.low_weight": 0.9,
            "WinRateCurriculum.middle_weight": 0.1,
            "WinRateCurriculum.high_weight": 0.9,
            "DiffusionPlannerAgent.condition_dropout": 0.5,
            "MaskedLoss.tail_weight": 0.7,
            "MaskedLoss.label_smoothing": 0.2,
            "PolicyAgent.label_smoothing": 0.3,
            "MemoryAugmentation.stitch_share": 1.0,
            **{f"MemoryAugmentation.{name}_probability": 0.6 for name in SHARES},
            "Shrinking.share": 0.9,
        },
    ),
    "aligned": (
        {
            "LinearBeta.until": "0.0",
            "Experiment.exploration_wrapper_type": "@HotPlans",
            "Experiment.baseline_agent_type": "None",
            "PolicyAgent.plan_horizon": "",
            "DiffusionPlannerAgent.inpaint_anchor": "'aligned'",
            "DiffusionPlannerAgent.corruption_type": "@BernoulliMasking",
            "DiffusionPlannerAgent.guidance_type": "@Guidance",
            "DiffusionPlannerAgent.condition_dropout": "0.2",
            "DiffusionPlannerAgent.sampler_collect": "'count'",
            "DiffusionPlannerAgent.sampler_collect_options": "{'num_denoise_steps': 4}",
            "BernoulliMasking.uniform_in": "'time'",
            "MaskedLoss.weighting": "'elbo'",
        },
        {
            "HotPlans.last": 5.0,
            "DiffusionPlannerAgent.aligned_share": 0.9,
            "BernoulliMasking.min_rate": 0.3,
            "MaskedLoss.weight_clip": 0.8,
            "Guidance.scale": 2.5,
        },
    ),
    "focal": (
        {
            "LinearBeta.until": "0.0",
            "Experiment.exploration_wrapper_type": "@EpsilonPlans",
            "Experiment.pairing_type": "@Pairing",
            "Experiment.train_step_caps": "(8, 9)",
            "Pairing.warm_start_episodes": "1",
            "Experiment.baseline_agent_type": "None",
            "PolicyAgent.plan_horizon": "",
            "DiffusionPlannerAgent.warm_start_type": "@WarmStart",
            "DiffusionPlannerAgent.sampler_collect": "'count'",
            "DiffusionPlannerAgent.sampler_collect_options": "{'num_denoise_steps': 4}",
            "MaskedLoss.weighting": "'mgdm'",
        },
        {
            "EpsilonPlans.last": 0.5,
            "Pairing.efficiency_multiplier": 1e6,
            "WarmStart.time": 0.9,
            "WarmStart.gate": 0.1,
            "MaskedLoss.focal_scale": 2.0,
            "MaskedLoss.focal_power": 3.0,
        },
    ),
    "policy": (
        {
            "LinearBeta.until": "0.0",
            "Experiment.agent_type": "@PolicyAgent",
            "Experiment.baseline_agent_type": "None",
            "DiffusionPlannerAgent.plan_horizon": "",
        },
        {"PolicyAgent.temperature": 30.0},
    ),
    "twin": (
        {
            "LinearBeta.until": "0.0",
            "Experiment.agent_type": "@AutoregressiveAgent",
            "Experiment.baseline_agent_type": "None",
            "DiffusionPlannerAgent.plan_horizon": "",
            "PolicyAgent.plan_horizon": "",
            "AutoregressiveAgent.plan_horizon": "6",
        },
        {"AutoregressiveAgent.temperature": 30.0},
    ),
}


def learnt(folder: Path, bound: dict[str, str], kind: type[Experiment] = Experiment) -> Path:
    """The folder of a tiny run after `learn()`; an empty text takes a binding away."""
    values = dict(line.split(" = ", 1) for line in tiny_bindings(folder)) | SMALL | bound
    config.load_config([], [f"{name} = {text}" for name, text in values.items() if text])
    run = kind("run")
    run.start()
    try:
        run.learn()
    finally:
        run.close()
    return folder / "run"


def progress_of(run: Path) -> Progress:
    """The counters in the newest checkpoint of a run."""
    found = newest_checkpoint(run / "ckpts")
    assert found is not None
    return Progress.from_dict(read_state(found)["progress"])


def outcome(run: Path) -> dict[str, Any]:
    """Weights and data of a run."""
    found = newest_checkpoint(run / "ckpts")
    assert found is not None
    weights = {
        f"{path.name}/{name}": tensor.numpy().tobytes()
        for path in found.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    shards = {k: v for k, v in data_files(run).items() if k.startswith("shards/")}
    return weights | shards


@pytest.mark.parametrize("case", list(RUNS))
def test_a_schedule_does_what_a_bound_number_does(case: str, tmp_path: Path) -> None:
    bound, numbers = RUNS[case]
    as_bound = learnt(tmp_path / "bound", bound | {k: repr(v) for k, v in numbers.items()})
    ramps = {k: f"@n{i}/PiecewiseRamp()" for i, k in enumerate(numbers)}
    points = {f"n{i}/PiecewiseRamp.points": f"[(0, {v!r})]" for i, v in enumerate(numbers.values())}
    text = ", ".join(f"{name!r}: {ramp}" for name, ramp in ramps.items())
    as_told = learnt(tmp_path / "told", bound | points | {"Experiment.schedules": f"{{{text}}}"})
    one, other = outcome(as_bound), outcome(as_told)
    assert sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))[:9] == []
    rows = [row for row in metric_rows(as_told) if "epoch_seconds" in row or "progress" in row]
    assert [{k: row[f"schedule/{k}"] for k in numbers} for row in rows] == [numbers] * 2


# A part of a sampler: the preset it is in, what that is made with, and another number for it.
PARTS: dict[str, tuple[str, dict[str, Any], float]] = {
    "Decoder.temperature": ("default", {}, 3.0),
    "Decoder.top_p": ("default", {"top_p": 0.9}, 0.3),
    "EntropyBoundReveal.gamma": ("default", {}, 3.0),
    "ThresholdReveal.tau": ("threshold", {}, 0.1),
    "NoisyOrder.scale": ("count", {}, 50.0),
    "SeedCountReveal.min_share": ("readme_minihack", {}, 0.9),
    "CapRemask.eta": ("paper_cap", {"num_denoise_steps": 12}, 0.9),
    "RescaleRemask.eta": ("paper_rescale", {"num_denoise_steps": 12}, 0.9),
    "ConfRemask.eta": ("paper_conf", {"num_denoise_steps": 12}, 0.2),
    "SeedRemask.eta": ("readme_minihack", {}, 0.9),
    "FadingRemask.eta": ("readme_craftax_eval", {}, 0.9),
    "PathRemask.eta": ("path", {}, 0.1),
    "BudgetedConfRemask.eta": ("balanced", {}, 0.05),
    "BudgetedConfRemask.temperature": ("balanced", {}, 5.0),
}


def drawn(sampler: Sampler) -> list[list[int]]:
    """Plans of a sampler for a law that is neither flat nor sure."""
    table = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))

    def denoise(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        seen = (tokens.float().mean(1) + time)[:, None, None]
        return table + 0.3 * torch.sin(seen + table)

    made = sampler.sample(denoise, 16, 12, torch.Generator().manual_seed(0))
    return torch.cat([made.tokens, made.nfe[:, None]], 1).tolist()


@pytest.mark.parametrize("name", list(PARTS))
def test_a_sampler_takes_over_a_number_of_its_parts(name: str) -> None:
    preset, options, number = PARTS[name]
    kind, argument = name.split(".")
    sampler, fresh = (make_sampler(preset, 4, options) for _ in range(2))
    before = drawn(sampler)
    for one in (sampler, fresh):
        owners = (one.decoder, one.reveal, one.order, one.remask)
        (owner,) = (part for part in owners if type(part).__name__ == kind)
        live = live_numbers(type(owner))[argument]
        if one is sampler:
            Place(owner, argument, (sampler,), live).put(number)
        else:  # as if its part had been made with it
            setattr(owner, argument, number)
            parts = {"decoder": one.decoder, "reveal": one.reveal, "order": one.order}
            flags = {k: getattr(one, k) for k in ("window_first", "close_after_end", "time_input")}
            fresh = Sampler(
                4, **parts, remask=one.remask, grid=one.grid, schedule=one.schedule, **flags
            )
    assert drawn(sampler) == drawn(fresh)
    assert drawn(sampler) != before


def test_every_live_number_of_the_package_is_tried_here_or_needs_another_net() -> None:
    tried = {name for _, numbers in RUNS.values() for name in numbers} | set(PARTS)
    there = {f"{kind}.{name}" for kind, numbers in LIVE.items() for name in numbers}
    there = {name.replace("ExperimentSettings", "Experiment") for name in there}
    assert there - tried == {
        "DiffusionPlannerAgent.soft_target_weight",  # factors of a loss, each on its own line
        "PolicyAgent.soft_target_weight",
        "DualStreamDenoiser.goal_loss_weight",
        "ReachEncoder.way_loss_weight",
        "ReachEncoder.end_loss_weight",
        "CategoricalHead.label_smoothing",  # in tests/dagger
        "CategoricalHead.temperature",
    }


REFUSED = {
    "Experiment.oracle_nois": "no argument 'oracle_nois'; .* did you mean Experiment.oracle_noise",
    "Nonsense.share": "nothing configurable is called 'Nonsense'",
    "Experiment.seed": "it is read once, when Experiment is made",
    "Experiment.epochs": "it is read once, when Experiment is made",
    "Experiment.ckpt_base_dir": "it is read once",
    "GridworldEnv.kick_chance": "it is read once, when GridworldEnv is made",
    "PolicyAgent.plan_horizon": "it is read once",
    "MaskedLoss.focal_scale": "it takes MaskedLoss.weighting 'mgdm'",
    "DiffusionPlannerAgent.aligned_share": "it takes DiffusionPlannerAgent.inpaint_anchor",
    "DiffusionPlannerAgent.soft_target_weight": "it takes a bound value other than 0",
    "Decoder.top_p": "it is None here, which is no number",
    "PolicyAgent.temperature": "it is not a part of what plans while env steps are collected",
    "ConstantBeta.value": "nothing in this run is a ConstantBeta",
    "offline_epochs.updates": "offline_epochs is a function",
    "Shrinking.exponent": r"Shrinking says live_numbers = \('exponent',\)",
}


# What a schedule must not give: a name, a schedule, and what is said.
BEYOND: list[tuple[str, Any, str]] = [
    ("Experiment.batch_size", LinearRamp(first=4.0, last=5.0, until=150), "a whole number of at"),
    ("Experiment.oracle_noise", LinearRamp(last=1.5, until=150), r"a number in \[0, 1\]"),
    ("Experiment.ema_decay", LinearRamp(until=150), r"a number in \[0, 1\)"),
    ("Experiment.grad_clip", lambda steps: float("nan"), "a number above 0"),
    ("Experiment.grad_clip", lambda steps: "much", "a number above 0"),
    ("Experiment.oracle_noise", 0.3, "a schedule is @LinearRamp"),
]


def test_a_schedule_that_would_do_nothing_or_too_much_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    run = started(tmp_path, objectives="(@OwnLoss, @Shrinking)", val_interval="None")
    for name, said in REFUSED.items():
        with pytest.raises(ValueError, match=said) as told:
            ScheduledNumbers({name: LinearRamp()}, run)
        assert "set Experiment.schedules" in str(told.value)
        assert "Experiment.oracle_noise" in str(told.value)
    for name, schedule, said in BEYOND:
        with pytest.raises(ValueError, match=said):
            ScheduledNumbers({name: schedule}, run)
    run.close()


def test_numbers_hold_for_a_block_and_are_the_bound_ones_behind_it(tmp_path: Path) -> None:
    run = started(tmp_path, val_interval="None")
    ramps = {"Decoder.temperature": lambda steps: 7.0, "Experiment.l2_coeff": lambda steps: 0.25}
    numbers = ScheduledNumbers(ramps, run)
    assert isinstance(run.policy, DiffusionPlannerAgent)
    trainer, decoder = run.trainers["planner"], run.policy.sampler_collect.decoder
    bound = decoder.temperature, trainer.optimiser.param_groups[0]["weight_decay"]
    with numbers.in_force():
        assert decoder.temperature == 7.0
        assert [group["weight_decay"] for group in trainer.optimiser.param_groups] == [0.25, 0.0]
    assert (decoder.temperature, trainer.optimiser.param_groups[0]["weight_decay"]) == bound
    assert run.policy.sampler.decoder.temperature == bound[0]
    run.progress.env_steps, run.progress.collect.env_steps = 50, 20  # stopped while collecting
    with ScheduledNumbers({"Experiment.oracle_noise": lambda n: n / 1000}, run).in_force() as told:
        assert told == {"schedule/Experiment.oracle_noise": 0.03}
    run.close()


def test_numbers_follow_the_env_steps_before_each_epoch_and_a_resumed_run_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    points = [(0, 0.1), (60, 0.5), (61, 0.9), (300, 0.0)]
    bound = {
        "Experiment.schedules": "{'Experiment.oracle_noise': @noise/PiecewiseRamp(), "
        "'Decoder.temperature': @LinearRamp(), 'Experiment.learning_rate': @LinearRamp()}",
        "noise/PiecewiseRamp.points": repr(points),
        "LinearRamp.first": "0.01",
        "LinearRamp.until": "200",
        "Experiment.epochs": "3",
        "Experiment.val_interval": "2",
    }
    whole = learnt(tmp_path / "whole", bound)
    rows = [row for row in metric_rows(whole) if "progress" in row]
    before = [0, *(row["env_steps"] for row in rows)][:3]
    table = PiecewiseRamp(points=points)
    assert [row["schedule/Experiment.oracle_noise"] for row in rows] == [table(n) for n in before]
    assert not progress_of(learnt(tmp_path / "cut", bound, stopping("batch", 6))).finished
    assert_same_run(whole, learnt(tmp_path / "cut", bound))


def test_an_offline_run_counts_windows_and_refuses_what_only_collecting_reads(
    tmp_path: Path,
) -> None:
    learnt(tmp_path, {})
    data = tmp_path / "run"
    offline = {
        "Experiment.buffer_dir": repr(str(data)),
        "Experiment.start_collecting_at_epoch": "9",
        "LinearRamp.until": "48",
    }
    fine = {"Experiment.schedules": "{'MaskedLoss.label_smoothing': @LinearRamp()}"}
    rows = metric_rows(learnt(tmp_path / "offline", offline | fine | {"LinearRamp.last": "0.5"}))
    told = [row["schedule/MaskedLoss.label_smoothing"] for row in rows if "progress" in row]
    assert told == [0.0, 0.25]  # 24 windows an epoch
    idle = {"Experiment.schedules": "{'Decoder.temperature': @LinearRamp()}"}
    with pytest.raises(ValueError, match="this run collects none"):
        learnt(tmp_path / "idle", offline | idle)


def test_a_separate_collector_goes_by_the_steps_that_come_before_its_epoch(
    tmp_path: Path,
) -> None:
    told = {"schedules": "{'Experiment.oracle_noise': @LinearRamp()}", "val_interval": "None"}
    for mode, index in (("learn", None), ("collect", 0)):  # each waits for the other in the end
        with pytest.raises(TimeoutError):
            play(tmp_path, mode, index, **told)
    lines = (tmp_path / "run" / "metrics-collect-0.jsonl").read_text().splitlines()
    found = {json.loads(line)["schedule/Experiment.oracle_noise"] for line in lines}
    assert found == {0.0, 0.06}  # the first epoch has 60 steps, and the ramp 1,000


def test_bounds_say_what_they_are() -> None:
    assert [str(b) for b in (Bounds(), SHARE, Bounds(0.0, 1.0, above=True, below=True))] == [
        "a number",
        "a number in [0, 1]",
        "a number in (0, 1)",
    ]
