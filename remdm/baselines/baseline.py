"""One baseline with one seed: trained into a run folder, measured on the test levels."""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import torch
from tqdm import tqdm

from remdm import config
from remdm.baselines.learner import Learner, Task, features_type
from remdm.baselines.watch import Watch, load_policy
from remdm.devices import named_device
from remdm.distributed.ownership import Ownership, role_folder
from remdm.envs.contract import EnvKind
from remdm.envs.making import make_env, make_vec_env
from remdm.envs.sync import check_same_kind
from remdm.evaluation.policies import Policy
from remdm.evaluation.report import write_curves, write_tables
from remdm.evaluation.rollout import EvalRow, Evaluation, Progress, evaluate_policy
from remdm.evaluation.suite import evaluate_suite
from remdm.registry import Registry
from remdm.seeding import TEST_SEEDS, VALIDATION_SEEDS, torch_generator
from remdm.training.interrupt import Stopped, StopRequest
from remdm.training.run_folder import RunFolder
from remdm.training.settings import MAY_CHANGE, ExperimentSettings

logger = logging.getLogger(__name__)

ALGORITHMS = Registry("algorithm")
for _name in ("ppo", "a2c", "dqn", "ppo-rnn"):
    ALGORITHMS.register(_name, "remdm.baselines.reinforcement:ReinforcementLearning")
ALGORITHMS.register("bc", "remdm.baselines.cloning:BehaviourCloning")
ALGORITHMS.register("dt", "remdm.baselines.sequences:SequenceModelling")
FROM_DEMONSTRATIONS = ("bc", "dt")
GREEDY = ":greedy"
# One recipe has numbers for all of them, and a run uses those of one.
_OF_OTHERS = (
    "ReinforcementLearning", "BehaviourCloning", "SequenceModelling", "DecisionTransformer",
    "PlannerFeatures", "RawFeatures", "EgoEncoder", "ReachEncoder",
)  # fmt: skip
# What may differ when a seed is begun again: no numbers depend on it.
_MAY_CHANGE = {f"Experiment.{name}" for name in MAY_CHANGE} | {"Baseline.threads"}


@gin.configurable(module="remdm", denylist=["settings"])
class Baseline:
    """A baseline in the run folder of one seed.

    Environments, seed, budget, validation and test are those of `Experiment`, under its names.

    Attributes:
        settings: Those.
        oracle: Who plays demonstrations, and a row of the table.
        folder: Of the run.
        learner: What learns.
    """

    def __init__(
        self,
        settings: ExperimentSettings,
        *,
        algorithm: str = "ppo",
        encoder: str = "planner",
        validations: int = 4,
        threads: int = 1,
        device: str = "auto",
    ) -> None:
        """Args:
            settings: An `Experiment` that is not started.
            algorithm: "ppo", "a2c", "dqn", "ppo-rnn", "bc" or "dt".
            encoder: "planner", as `PlannerFeatures` says, or "raw".
            validations: How often the validation levels are played in a training; the weights of
                the best are what is tested.
            threads: Torch threads.
            device: See `remdm.devices.named_device`.

        Raises:
            ValueError: If a value makes no sense, or there is no budget.
        """
        if settings.total_timesteps is None:
            raise ValueError(
                "a baseline needs a budget of env steps; give --total_timesteps, or set "
                "Experiment.total_timesteps."
            )
        if validations < 1 or threads < 1:
            raise ValueError(
                f"validations and threads must be at least 1, got {validations} and {threads}; "
                "set Baseline.validations and Baseline.threads."
            )
        self.settings, self.algorithm, self.encoder = settings, algorithm, encoder
        self.validations, self.threads = validations, threads
        self.oracle = settings.oracle_type()
        self.folder = RunFolder(Path(settings.ckpt_base_dir) / settings.run_name)
        self.task = Task(
            settings,
            self._look_at_envs(),
            features_type(encoder),
            named_device(device),
            self.folder.root,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.learner = self._make_learner()

    def _make_learner(self) -> Learner:
        learner_type = ALGORITHMS.get(self.algorithm)
        by_name = self.algorithm not in FROM_DEMONSTRATIONS
        made: Learner = learner_type(self.task, *([self.algorithm] if by_name else []))
        return made

    def _look_at_envs(self) -> EnvKind:
        """Make one of each environment.

        Raises:
            ValueError: If one is unknown, or they differ in actions or observations.
        """
        kinds = []
        for name in self.envs:
            with contextlib.closing(make_env(name)) as env:
                kinds.append(EnvKind.of(env))
        specs = [kind.observation_spec for kind in kinds]
        check_same_kind(self.envs, [kind.action_names for kind in kinds], specs)
        return kinds[0]

    @property
    def envs(self) -> list[str]:
        """All that are played at the end."""
        return [*self.settings.train_envs, *self.settings.heldout_envs]

    @property
    def facts(self) -> dict[str, Any]:
        """What its checkpoints say of themselves."""
        return {
            "algorithm": self.algorithm,
            "encoder": self.encoder,
            "action_names": list(self.task.kind.action_names),
            "seed": self.settings.seed,
        }

    @property
    def names(self) -> list[str]:
        """Of its two rows in tables: drawing actions, and taking the likeliest."""
        return [self.algorithm, self.algorithm + GREEDY]

    @property
    def finished(self) -> bool:
        """Whether its folder holds a finished training."""
        return self.folder.done.is_file()

    def train(self, stop: StopRequest) -> bool:
        """Train, unless that is done; a training that was stopped before begins anew.

        Args:
            stop: Asks to stop.

        Returns:
            Whether it is done.

        Raises:
            ValueError: If the folder holds a run with another configuration.
            LeaseHeld: If another process trains there.
        """
        self.folder.check(resume=self.settings.resume, may_change=_MAY_CHANGE)
        with Ownership([role_folder(self.folder.root, "learn")], "learn"):
            self.folder.keep_config(_MAY_CHANGE)
            if self.finished:
                return True
            self.folder.metrics.unlink(missing_ok=True)
            for rest in (self.folder.checkpoints, self.folder.best):
                shutil.rmtree(rest, ignore_errors=True)
            watch = Watch(
                self.folder,
                self.facts,
                self.validations,
                self.validate,
                lambda: stop.requested,
                shown=self.settings.verbose,
            )
            with threads(self.threads):
                if not self.learner.train(watch):
                    return False
            self.folder.mark_done({"algorithm": self.algorithm, "val_win_rate": watch.best_score})
        return True

    def validate(self) -> Evaluation:
        """Play the validation levels of the training environments with the weights of now."""
        settings = self.settings
        generator = torch_generator(settings.seed, "validation", self.algorithm)
        return evaluate_policy(
            self.learner.actor(generator, greedy=False, name=self.algorithm),
            settings.train_envs,
            episodes=settings.val_episodes,
            first_seed=VALIDATION_SEEDS.start,
            make_vec_env=make_vec_env,
            rows=settings.val_rows,
            max_episode_steps=settings.val_step_cap,
        )

    def load_best(self) -> None:
        """Act by the weights that validation chose.

        Raises:
            CheckpointError: If there are none, or they are damaged or of another baseline.
        """
        load_policy(self.folder.best, self.learner.module, self.facts)

    def actors(self, policies: Sequence[str] | None) -> tuple[list[Policy], list[str]]:
        """Who is to be tested: own rows, and names of others.

        Args:
            policies: Names of rows; None for all: own ones, "random" and the oracle's.
        """
        seed, own = self.settings.seed, self.names
        wanted = policies or [*own, "random", self.oracle.name]
        made: list[Policy] = [
            self.learner.actor(
                torch_generator(seed, "suite", name), greedy=name.endswith(GREEDY), name=name
            )
            for name in own
            if name in wanted
        ]
        return made, [name for name in wanted if name not in own]

    def test(
        self,
        policies: Sequence[str] | None = None,
        envs: Sequence[str] | None = None,
        stop: StopRequest | None = None,
    ) -> list[EvalRow]:
        """Play the test levels.

        Args:
            policies: See `actors`.
            envs: Environments; all of the run when None.
            stop: Asks to stop.

        Raises:
            ValueError: If there is no such policy; names the nearest ones.
            Stopped: If somebody asked to stop.
        """
        settings, (actors, others) = self.settings, self.actors(policies)
        asked: dict[str, Any] = {
            "episodes": settings.test_episodes,
            "first_seed": TEST_SEEDS.start,
            "make_vec_env": make_vec_env,
            "rows": settings.val_rows,
            "max_episode_steps": settings.test_step_cap,
        }
        played = list(envs or self.envs)
        rest: list[EvalRow] = []
        if others:  # before the rest: a name that is misspelt is found at once
            rest = evaluate_suite(
                {}, self.oracle, played, policies=others, seed=settings.seed,
                shown=settings.verbose, **asked,
            )  # fmt: skip
        own: list[EvalRow] = []
        with threads(self.threads):
            for actor in actors:
                with self._bar(actor.name, settings.test_episodes * len(played)) as bar:
                    tell = _teller(bar, stop)
                    own += evaluate_policy(actor, played, progress=tell, **asked).rows
        return own + rest

    def _bar(self, name: str, total: int) -> "tqdm[Any]":
        hidden = None if self.settings.verbose else True  # None: drawn on a terminal only
        return tqdm(total=total, desc=f"testing {name}", unit="episode", disable=hidden)

    def report(self, rows: Sequence[EvalRow]) -> None:
        """Write tables and curves into the run's `report/`."""
        envs = self.settings.train_envs, self.settings.heldout_envs
        write_tables(self.folder.report, rows, *envs, title=self.folder.root.name)
        write_curves(self.folder.report, self.folder.metrics)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """A block in which torch runs so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _teller(bar: "tqdm[Any]", stop: StopRequest | None) -> Progress:
    def tell(finished: int, total: int, won: int) -> None:
        bar.set_postfix_str(f"won {won / max(finished, 1):.2f}", refresh=False)
        bar.update(finished - bar.n)
        if stop is not None and stop.requested:
            raise Stopped

    return tell


def check_all_is_used() -> None:
    """See that no binding is without effect; those of other algorithms and encoders may be.

    Raises:
        ConfigError: Lists those that are.
    """
    config.drop_replaced()
    config.check_bindings(_OF_OTHERS)
