"""What "where planning pays" trains: kinds of labels, agents, and the runs of each pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from remdm import cli, config
from remdm.base_agent import BaseAgent
from remdm.evaluation.tables import write_json
from remdm.experiment import Experiment
from remdm.nets.denoiser import num_parameters
from remdm.training.assembly import PLANNER
from remdm.training.whole_state import newest_checkpoint

AGENTS = {
    "diffusion": "DiffusionPlannerAgent",
    "autoregressive": "AutoregressiveAgent",
    "head": "PolicyAgent",
}
HEAD = "head"
OFFLINE = ("offline", "rollout")
CONTROL = "offline"  # there only to tell labels from data, so that it needs no twin
NEVER = 1_000_000  # an epoch that no run reaches


class Pace(NamedTuple):
    """How a plan is written and how much of it is played.

    Attributes:
        replan: Actions of a plan before the next one.
        gamma: Entropy that one net call of a diffusion planner may decide at once; the preset's
            (0.3) where None, and the more the fewer calls.
    """

    replan: int
    gamma: float | None = None

    def __str__(self) -> str:
        return f"{self.replan}" if self.gamma is None else f"{self.replan}, gamma {self.gamma:g}"

    @property
    def stem(self) -> str:
        """Part of a file's name."""
        return f"r{self.replan}" if self.gamma is None else f"r{self.replan}-g{self.gamma:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Maps, and the labels that make sense on them.

    Attributes:
        name: Short name.
        recipe: Config file of its runs.
        plan_horizon: Tokens per plan; the recipe has the same.
        replans: Actions of a plan before the next one, each of which is evaluated.
        hasty: Paces of the diffusion planner that decide more tokens in a call.
        labels: Kinds of labels, and for each the kind from which its head learns. Where two kinds
            have the same first actions, their heads are one and the same.
    """

    name: str
    recipe: str
    plan_horizon: int
    replans: tuple[int, ...]
    hasty: tuple[Pace, ...]
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of labels, one agent.

    Attributes:
        study: Where.
        labels: A key of `Study.labels`.
        agent: A key of `AGENTS`.
    """

    study: Study
    labels: str
    agent: str

    @property
    def name(self) -> str:
        """Name of its runs and files."""
        return f"{self.study.name}-{self.labels}-{self.agent}"

    @property
    def head(self) -> str:
        """Name of the cell that it is compared with."""
        return f"{self.study.name}-{self.study.labels[self.labels]}-{HEAD}"

    @property
    def paces(self) -> tuple[Pace, ...]:
        """How it is played; a head plans at every step."""
        if self.agent == HEAD:
            return (Pace(1),)
        usual = tuple(Pace(replan) for replan in self.study.replans)
        return usual + self.study.hasty if self.agent == "diffusion" else usual


EXPLORE_LABELS = {"cut": "cut", "tours": "cut", "offline": "offline", "rollout": "offline"}
# Chosen on validation levels; docs/where_planning_pays.md.
HASTY = (Pace(3, 1.0), Pace(4, 1.0))
FULL = (
    Study("explore", "minihack_where_planning_pays", 16, (1, 4, 16), HASTY, EXPLORE_LABELS),
    Study(
        "mapped",
        "minihack_where_planning_pays_mapped",
        64,
        (1, 4, 16, 64),
        HASTY,
        {"whole": "whole"},
    ),
)
QUICK = (
    Study("explore", "gridworld", 8, (1, 4, 8), HASTY[:1], EXPLORE_LABELS),
    Study("mapped", "gridworld", 8, (1, 4, 8), HASTY[:1], {"whole": "whole"}),
)
# What makes `gridworld.gin` a run of seconds; in its lit rooms the whole plan is known as well.
QUICK_BINDINGS = {
    "": (
        "Experiment.baseline_agent_type = None",
        "Experiment.parallel_actors = 8",
        "Experiment.warm_start_timesteps = 16",
        "Experiment.train_batches_per_epoch = 4",
        "Experiment.batch_size = 8",
        "Experiment.lr_warmup_steps = 2",
        "Experiment.val_interval = None",
        "EgoDenoiser.width = 16",
        "EgoDenoiser.hidden = 16",
        "EgoDenoiser.num_layers = 1",
        "EgoDenoiser.num_heads = 2",
        "EgoEncoder.channels = 4",
        "EgoEncoder.num_blocks = 0",
        "EgoEncoder.crop_size = 9",
    ),
    "mapped": (
        "Experiment.train_envs = ('Gridworld-Room-9x9-v0',)",
        "Experiment.heldout_envs = ('Gridworld-DarkRoom-9x9-v0',)",
        "Experiment.actor_shares = None",
    ),
}


def all_cells(studies: Sequence[Study]) -> list[Cell]:
    """All cells, heads before what is compared with them."""
    found = []
    for study in studies:
        heads = dict.fromkeys(study.labels.values())
        found += [Cell(study, labels, HEAD) for labels in heads]
        for labels in study.labels:
            twin = () if labels == CONTROL else ("autoregressive",)
            found += [Cell(study, labels, agent) for agent in ("diffusion", *twin)]
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """How all cells are trained.

    Attributes:
        folder: Where everything goes.
        epochs: Epochs of each run; the recipe's when 0.
        encoder: Class of the observation encoder.
        demonstrations: Oracle episodes of each training map, for the kinds without DAgger.
        quick: Tiny runs in the gridworld.
    """

    folder: Path
    epochs: int
    encoder: str
    demonstrations: int
    quick: bool

    def demonstrations_of(self, seed: int) -> Path:
        """Folder of the oracle's episodes."""
        return self.folder / f"demonstrations-s{seed}"

    def bindings(self, cell: Cell, seed: int) -> list[str]:
        """What turns the recipe into the cell.

        `cut` and `whole` are the plans of `MemoryOracle` at the states that the learner visits;
        `tours` are those of `TourOracle`. `rollout` are the actions that `MemoryOracle` really took
        next in its own episodes. A state that the learner visits has no such future, so these
        come from demonstrations alone, and imagined memories have none either. `offline` is their
        control: cut plans, learnt from the same demonstrations in the same way.
        """
        agent = AGENTS[cell.agent]
        found = [
            f"Experiment.seed = {seed}",
            f"Experiment.ckpt_base_dir = {str(self.folder / 'runs')!r}",
            f"Experiment.agent_type = @{agent}",
            f"{agent}.plan_horizon = {cell.study.plan_horizon}",
            f"EgoDenoiser.encoder_type = @{self.encoder}",
        ]
        if self.epochs:
            found.append(f"Experiment.epochs = {self.epochs}")
        if self.quick:
            found += [*QUICK_BINDINGS[""], *QUICK_BINDINGS.get(cell.study.name, ())]
        if cell.labels == "tours":
            found.append("Experiment.oracle_type = @TourOracle")
        if cell.labels in OFFLINE:
            target = "executed" if cell.labels == "rollout" else "plan"
            found += [
                f"Experiment.buffer_dir = {str(self.demonstrations_of(seed))!r}",
                f"Experiment.start_collecting_at_epoch = {NEVER}",
                "Experiment.warm_start_timesteps = 0",
                "Experiment.has_dset_edit_rights = False",  # one folder for several runs
                "Experiment.augmentation_type = None",
                f"DiskTrajDataset.target = {target!r}",
                f"DiskTrajDataset.balance = {self._shares(cell)!r}",
            ]
        return found

    def load(self, cell: Cell, seed: int) -> None:
        """Replace the configuration by the cell's."""
        config.load_config([cell.study.recipe], self.bindings(cell, seed))

    def maps(self, study: Study) -> dict[str, tuple[str, ...]]:
        """The maps of a study by group."""
        quick = [*QUICK_BINDINGS[""], *QUICK_BINDINGS.get(study.name, ())] if self.quick else []
        config.load_config([study.recipe], quick)
        names = {"training": "train_envs", "held-out": "heldout_envs"}
        return {k: tuple(config.bound_value(f"Experiment.{v}")) for k, v in names.items()}

    def _shares(self, cell: Cell) -> dict[str, float]:
        """Demonstrations are drawn in the shares that actors collect in."""
        config.load_config([cell.study.recipe])
        envs = config.bound_value("Experiment.train_envs")
        return dict(zip(envs, config.bound_value("Experiment.actor_shares"), strict=True))

    def collect(self, cell: Cell, seed: int) -> bool:
        """Let the oracle play its episodes; those that are there are not played again.

        Returns:
            Whether all are there; not if somebody asked to stop.
        """
        done = self.folder / "trained" / f"demonstrations-s{seed}-{self.demonstrations}.json"
        if done.is_file():  # without claiming the folder, from which others may learn
            return True
        envs = self.maps(cell.study)["training"]
        arguments = ["collect", "--oracle", "memory", "--seed", str(seed), "--envs", *envs]
        arguments += ["--episodes", str(self.demonstrations)]
        arguments += ["--out", str(self.demonstrations_of(seed))]
        if cli.main([*arguments, "--plan_horizon", str(cell.study.plan_horizon)]) != 0:
            return False
        write_json(done, {"envs": envs, "episodes": self.demonstrations})
        return True

    def train(self, cell: Cell, seed: int) -> bool:
        """Train a cell, or go on where it stopped; what it has learnt from is deleted at the end.

        Returns:
            Whether it is trained; not if somebody asked to stop.
        """
        facts = self.facts_of(cell, seed)
        if facts.is_file():
            return True
        if cell.labels in OFFLINE and not self.collect(cell, seed):
            return False
        self.load(cell, seed)
        run = Experiment(run_name(cell, seed))
        run.start()
        try:
            run.learn()
            if not run.progress.finished:
                return False
            told = {
                "updates": run.trainers[PLANNER].updates,
                "env_steps": run.progress.env_steps,
                "seconds": run.progress.seconds,
                "parameters": num_parameters(run.agent),
            }
            write_json(facts, told)
            if cell.labels not in OFFLINE:
                run.delete_buffer_from_disk()
        finally:
            run.close()
        return True

    def facts_of(self, cell: Cell, seed: int) -> Path:
        """What a training came to; the file is there once it is done."""
        return self.folder / "trained" / f"{run_name(cell, seed)}.json"

    def agent(self, cell: Cell, seed: int) -> BaseAgent:
        """The agent of a trained cell, with averaged weights."""
        self.load(cell, seed)
        checkpoints = self.folder / "runs" / run_name(cell, seed) / "ckpts"
        newest = newest_checkpoint(checkpoints)
        if newest is None:
            raise ValueError(f"{checkpoints} must hold a checkpoint, and there is none")
        return Experiment(run_name(cell, seed)).load_agents(newest)[PLANNER]


def run_name(cell: Cell, seed: int) -> str:
    """Name of a cell's run."""
    return f"{cell.name}-s{seed}"
