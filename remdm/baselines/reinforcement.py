"""PPO, A2C, DQN and recurrent PPO: the loops of Stable-Baselines3, fed with our environments."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import gin
import gymnasium
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib.ppo_recurrent.policies import MultiInputLstmPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.policies import MultiInputPolicy as MultiInputQPolicy
from torch import Tensor

from remdm.baselines.actors import ActorCriticActor, PolicyActor, QActor, RecurrentActor
from remdm.baselines.learner import Learner, Task
from remdm.baselines.vec_env import TrainingVecEnv, training_vec_env
from remdm.baselines.watch import Watch
from remdm.registry import unknown_name_message


class WholeSequenceLstmPolicy(MultiInputLstmPolicy):
    """The policy of recurrent PPO, which runs an LSTM over whole sequences where it can.

    Batches consist of sequences that are cut where episodes begin. SB3-contrib goes through them
    step by step as soon as one begins an episode, although that can only be its first step, where
    a state of zeros says the same. The numbers are the same.
    """

    @staticmethod
    def _process_sequence(
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: torch.nn.LSTM,
    ) -> tuple[Tensor, Tensor]:
        starts = episode_starts.reshape(lstm_states[0].shape[1], -1)
        if not bool(starts[:, 1:].any()):
            kept = (1 - starts[:, 0]).view(1, -1, 1)
            lstm_states = lstm_states[0] * kept, lstm_states[1] * kept
            episode_starts = torch.zeros_like(episode_starts)
        found: tuple[Tensor, Tensor] = MultiInputLstmPolicy._process_sequence(
            features, lstm_states, episode_starts, lstm
        )
        return found


# By name: the class of SB3, of its policy, and of who acts by that.
KINDS: dict[str, tuple[type[Any], type[Any], type[PolicyActor]]] = {
    "ppo": (stable_baselines3.PPO, MultiInputActorCriticPolicy, ActorCriticActor),
    "a2c": (stable_baselines3.A2C, MultiInputActorCriticPolicy, ActorCriticActor),
    "dqn": (stable_baselines3.DQN, MultiInputQPolicy, QActor),
    "ppo-rnn": (sb3_contrib.RecurrentPPO, WholeSequenceLstmPolicy, RecurrentActor),
}
# What this package decides itself.
_OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "policy_kwargs", "self")


def make_policy(task: Task, policy_type: type[Any]) -> BasePolicy:
    """A policy of SB3 that sees with the task's encoder; its learning rate is not used."""
    actions = gymnasium.spaces.Discrete(task.kind.num_actions)
    policy: BasePolicy = policy_type(
        task.observation_space, actions, lambda _: 0.0, **policy_arguments(task)
    )
    return policy.to(task.device)


def policy_arguments(task: Task) -> dict[str, Any]:
    """The arguments of every policy of SB3."""
    return {
        "features_extractor_class": task.features_type,
        "features_extractor_kwargs": task.features_arguments,
    }


@gin.configurable(module="remdm", denylist=["task", "algorithm"])
class ReinforcementLearning(Learner):
    """Learns by trial from rows of all training environments side by side."""

    def __init__(
        self,
        task: Task,
        algorithm: str,
        *,
        rows_per_env: int = 2,
        reward: str = "shaped",
        ppo: Mapping[str, Any] | None = None,
        a2c: Mapping[str, Any] | None = None,
        dqn: Mapping[str, Any] | None = None,
        ppo_rnn: Mapping[str, Any] | None = None,
    ) -> None:
        """Every number of SB3 is its default but for those given here.

        Args:
            task: What to learn.
            algorithm: A key of `KINDS`.
            rows_per_env: Rows of each training environment.
            reward: "shaped", where the environment has such a reward, or "sparse"; in training
                alone.
            ppo: Arguments of `stable_baselines3.PPO`, by name.
            a2c: The same for `A2C`.
            dqn: The same for `DQN`; None means a buffer of 100,000 steps.
            ppo_rnn: The same for `sb3_contrib.RecurrentPPO`.

        Raises:
            ValueError: If there is no such argument, or `rows_per_env` makes no sense.
        """
        if rows_per_env < 1:
            raise ValueError(
                f"rows_per_env must be at least 1, got {rows_per_env}; set "
                "ReinforcementLearning.rows_per_env."
            )
        self.task, self.algorithm, self.reward = task, algorithm, reward
        self.names = [env for env in task.settings.train_envs for _ in range(rows_per_env)]
        self.kind, self._policy_type, self._actor_type = KINDS[algorithm]
        dqn = {"buffer_size": 100_000} if dqn is None else dqn
        given = {"ppo": ppo, "a2c": a2c, "dqn": dqn, "ppo-rnn": ppo_rnn}[algorithm]
        self.arguments = _checked(self.kind, algorithm, given or {})
        self.module = make_policy(task, self._policy_type)

    def actor(self, generator: torch.Generator, *, greedy: bool, name: str) -> PolicyActor:
        """See `Learner.actor`."""
        actor = self._actor_type(
            self.module,
            self.task.kind.action_names,
            self.task.features_type.keys,
            generator,
            greedy=greedy,
            name=name,
        )
        if isinstance(actor, QActor):
            actor.epsilon = self._number("exploration_final_eps")
        return actor

    def _number(self, argument: str) -> Any:
        default = inspect.signature(self.kind.__init__).parameters[argument].default
        return self.arguments.get(argument, default)

    def train(self, watch: Watch) -> bool:
        """See `Learner.train`."""
        rows = training_vec_env(self.names, self.reward)
        env = TrainingVecEnv(rows, self.task.features_type.keys, self.task.settings.seed)
        try:
            model = self._make(env)
            self.module = model.policy
            follower = _Follower(watch)
            watch.begin(self.module, self.steps, "step")
            model.learn(self.steps, callback=follower, log_interval=1)
            if follower.finished:  # the last roll-out has now been learnt from
                watch.advance(self.steps, self.steps, model._n_updates, follower.metrics)
        finally:
            env.close()
            watch.end()
        return follower.finished

    def _make(self, env: GymEnv) -> Any:
        """The algorithm, with roll-outs that fit into the budget."""
        arguments = dict(self.arguments)
        rows, budget = len(self.names), self.task.budget
        if issubclass(self.kind, OnPolicyAlgorithm):
            batch = self._number("batch_size") if self.algorithm != "a2c" else 1
            arguments["n_steps"], batch = fitting(budget, rows, self._number("n_steps"), batch)
            if self.algorithm != "a2c":
                arguments["batch_size"] = batch
            round_steps = arguments["n_steps"] * rows
        else:
            frequency = self._number("train_freq")
            round_steps = rows * (frequency if isinstance(frequency, int) else 1)
        if round_steps > budget:
            raise ValueError(
                f"{self.algorithm} needs at least {round_steps} env steps, got a budget of "
                f"{budget}; raise Experiment.total_timesteps."
            )
        self.steps = budget // round_steps * round_steps
        model = self.kind(
            self._policy_type,
            env,
            seed=self.task.settings.seed,
            device=self.task.device,
            policy_kwargs=policy_arguments(self.task),
            **arguments,
        )
        model.set_logger(Logger(folder=None, output_formats=[]))
        return model


def fitting(budget: int, rows: int, num_steps: int, batch_size: int) -> tuple[int, int]:
    """Steps per row and roll-out, and the size of a batch, such that whole roll-outs fit.

    SB3 ends after the roll-out that reaches the budget, which may be far above it. So a roll-out
    is made a little shorter, to a multiple of the batch.

    Args:
        budget: Env steps in all.
        rows: Environments side by side.
        num_steps: Steps per row and roll-out that are wished for.
        batch_size: Steps per batch that are wished for.
    """
    rounds = math.ceil(budget / (num_steps * rows))
    most = max(1, budget // (rounds * rows))
    unit = batch_size // math.gcd(batch_size, rows)
    if most < unit:
        return most, most * rows
    return most // unit * unit, batch_size


def _checked(kind: type[Any], algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in _OURS]
    for name in given:
        if name not in known:
            owner = f"ReinforcementLearning.{algorithm.replace('-', '_')}"
            raise ValueError(unknown_name_message(f"argument in {owner}", name, known))
    return dict(given)


class _Follower(BaseCallback):
    """Tells a watch of SB3's loop."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch, self.finished = watch, False
        self._won: list[bool] = []
        self._scalars: dict[str, float] = {}

    def _on_rollout_start(self) -> None:
        # What the last update has recorded is gone after the roll-out.
        self._scalars |= {
            name: float(value)
            for name, value in self.model.logger.name_to_value.items()
            if name.startswith("train/") and isinstance(value, (int, float))
        }

    def _on_step(self) -> bool:
        self._won += [info["is_success"] for info in self.locals["infos"] if "episode" in info]
        steps = int(self.num_timesteps)
        self.finished = steps >= self.watch.total
        return self.finished or self.watch.advance(
            steps, steps, self.model._n_updates, self.metrics
        )

    def metrics(self) -> dict[str, float]:
        """Wins since the last time, and what the last update has recorded."""
        own = {"collect/win_rate": sum(self._won) / len(self._won)} if self._won else {}
        self._won = []
        return own | self._scalars
