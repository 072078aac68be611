"""The loop of `Experiment` with an expert and an environment that are objects, not names."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from remdm.dagger.demonstrations import Demonstrations, add_demonstrations
from remdm.dagger.evaluators import Evaluator, Validation
from remdm.envs.contract import EnvKind, PlanVecEnv
from remdm.envs.gymnasium_env import GymnasiumEnv
from remdm.envs.sync import SyncPlanVecEnv
from remdm.evaluation.rollout import Evaluation
from remdm.experiment import Experiment
from remdm.oracles.acting import ActingOracle

MakeEnv = Callable[[], gymnasium.Env[Any, Any]]
Listener = Callable[[Mapping[str, float], int], None]
SCORE = "val/return"


class DAggerExperiment(Experiment):
    """`Experiment`, handed what a config file cannot name."""

    def __init__(
        self,
        run_name: str,
        make_env: MakeEnv | None,
        expert: Any,
        evaluators: Sequence[Evaluator] = (),
        listener: Listener | None = None,
        demonstrations: Demonstrations | None = None,
        **arguments: Any,
    ) -> None:
        """Args:
        run_name: Name of the run and of its folder.
        make_env: Makes one environment; None where the name in `train_envs` says it all.
        expert: Who is asked; see `remdm.oracles.acting.Expert`.
        evaluators: What tells of validations.
        listener: Is told all metrics, and env steps so far.
        demonstrations: The first data.
        arguments: Those of `Experiment`.
        """
        super().__init__(run_name, **arguments)
        self.make_env, self.evaluators, self.listener = make_env, tuple(evaluators), listener
        self.demonstrations = demonstrations
        self.oracle_type = functools.partial(ActingOracle, expert)
        if make_env is not None and self.env_mode != "sync":
            raise ValueError(
                f"environments that are handed over live in this process, got env_mode "
                f"{self.env_mode!r}; set Experiment.env_mode = 'sync', or name the environment."
            )

    def planner_env(self, max_episode_steps: int | None = None) -> GymnasiumEnv:
        """One environment, as the loop plays it."""
        made = None if self.make_env is None else self.make_env()
        caps = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        return GymnasiumEnv(self.train_envs[0], made, **caps)

    def look_at_envs(self) -> EnvKind:
        """See `AssembledRun.look_at_envs`; there is one environment."""
        env = self.planner_env()
        try:
            return EnvKind.of(env)
        finally:
            env.close()

    def make_vec_env(
        self, names: Sequence[str], caps: Sequence[int | None] | None = None
    ) -> PlanVecEnv:
        """See `AssembledRun.make_vec_env`."""
        if self.make_env is None:
            return super().make_vec_env(names, caps)
        limits = caps or [None] * len(names)
        return SyncPlanVecEnv([functools.partial(self.planner_env, limit) for limit in limits])

    def take_up(self) -> None:
        """See `Experiment.take_up`; demonstrations are there before the first epoch."""
        if self.demonstrations is not None and self.accelerator.is_main_process:
            env = self.planner_env()
            add_demonstrations(self.disk_dataset.folder, self.demonstrations, env)
            env.close()
        self.accelerator.wait_for_everyone()
        super().take_up()

    def judged(self, played: Evaluation) -> dict[str, float]:
        """See `EvaluatedRun.judged`; what the evaluators tell."""
        lines = self.metrics_log.read() if self.evaluators else []
        validation = Validation(
            env_steps=self.progress.env_steps,
            returns=np.array([record.total_reward for record in played.records]),
            lengths=np.array([record.steps for record in played.records], np.int64),
            earlier=[(int(line["env_steps"]), line[SCORE]) for line in lines if SCORE in line],
        )
        told: dict[str, float] = {}
        for evaluator in self.evaluators:
            told |= {f"val/{name}": value for name, value in evaluator(validation).items()}
        return told

    def log(self, metrics: Mapping[str, Any]) -> None:
        """See `LoggedRun.log`; the listener hears it, too."""
        super().log(metrics)
        if self.listener is not None and self.accelerator.is_main_process:
            self.listener(metrics, self.progress.env_steps)
