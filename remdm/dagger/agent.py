"""DAgger in fifteen lines: a policy that learns from any expert, in any Gymnasium environment."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from remdm import config
from remdm.base_agent import BaseAgent
from remdm.dagger.demonstrations import Demonstrations
from remdm.dagger.evaluators import Evaluator
from remdm.dagger.experiment import DAggerExperiment, Listener, MakeEnv
from remdm.dagger.saved_policy import Policy, load_policy, save_policy
from remdm.envs.actions import Actions
from remdm.envs.making import GYMNASIUM
from remdm.envs.spaces import named_arrays
from remdm.gin_text import format_binding
from remdm.head_agent import HeadAgent
from remdm.maps import ArraySpec
from remdm.seeding import torch_generator

Env = str | gymnasium.Env[Any, Any] | MakeEnv
Schedulers = Mapping[str, Callable[[int], float]]


class DAggerAgent:
    """A policy that learns what an expert does, in the states that it gets into itself.

    Ross et al. 2011 (arXiv:1011.0686), algorithm 3.1. Each epoch the policy acts, the expert says
    what it would have done in every state, and the policy is trained on all of that since the
    beginning. This class only writes the configuration of a `remdm.Experiment` and runs it: what
    holds there of run folders, resuming, checkpoints and metrics holds here.

        agent = DAggerAgent(expert, run_name="cartpole")
        agent.train("CartPole-v1", total_steps=5_000)
        action = agent.act(observation)

    Tuning, by what we measured on Pendulum-v1 (a scripted expert; 0 is chance and 1 the expert;
    means of five seeds after 1,500 env steps; 250 steps and 50 updates an epoch give 0.69):

    - Ask early and often. Short epochs matter most: with four times as long ones (1,000 steps, as
      many updates per step) it was -0.12, with shorter ones (100) 0.61.
    - Then train more: four times the updates per epoch gave 0.99, a quarter 0.22. They cost time
      on the processor, and no env steps. This is the default.
    - `learning_rate`: 3e-3 gave 0.86, 1e-2 0.76, 1e-4 0.18: rather too high than too low.
      `batch_size` 512 gave 0.76, 32 gave 0.57. Clipping at 0.5 gave 0.81: a low `grad_clip` does
      no harm.
    - Let the policy act from the start, as it does by default. An expert that acts at first
      (`LinearBeta.first` 1, falling) gave 0.54; one that always acts, which is plain cloning,
      -0.10; 1,000 of the expert's own steps before the first epoch 0.08: such states are not
      those that an unfinished policy gets into, and take their share of every batch. Where a bad
      policy breaks things, or never meets what matters, begin with the expert all the same.
    - `MLP.hidden` of 32 gave 0.07, of 256 0.70: wider than the task seems to need.
    - `parallel_envs`: 1 gave 0.50, 32 0.37. Many rows mean short stays in each.
    - `dataset_steps` of 500 gave 0.68: on tasks as small as this, old steps are no loss. Keep all
      that fits where the expert is costly.

    After 4,000 steps most of this made no difference any more (0.98 to 1.00).
    """

    def __init__(
        self,
        expert: Any = None,
        *,
        run_name: str = "dagger",
        ckpt_base_dir: str = "runs",
        seed: int = 0,
        agent_type: Callable[..., BaseAgent] = HeadAgent,
        demonstrations: Demonstrations | None = None,
        demonstration_steps: int = 0,
        parallel_envs: int = 8,
        steps_per_epoch: int = 250,
        updates_per_epoch: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        grad_clip: float = 5.0,
        dataset_steps: int | None = 100_000,
        bindings: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        expert: Anything with `act(obs, deterministic)`, or a model of Stable-Baselines3; see
            `remdm.oracles.acting.Expert`. None for a policy that only plays.
        run_name: Name of the folder that `train` works in. The same call goes on there.
        ckpt_base_dir: Folder of run folders.
        seed: All randomness follows from it.
        agent_type: Class of the policy.
        demonstrations: Episodes, or the folder of a dataset, to begin with.
        demonstration_steps: Env steps that the expert acts alone before the first epoch.
        parallel_envs: Environments that are played side by side.
        steps_per_epoch: Env steps between trainings, over all environments.
        updates_per_epoch: Updates after each of these rounds.
        batch_size: Steps per update.
        learning_rate: Peak learning rate of AdamW, which then falls along a cosine.
        grad_clip: Largest norm of the gradient.
        dataset_steps: Steps to keep, the newest; None keeps all.
        bindings: Whatever else is to be set, by its gin name, as {"MLP.hidden": (64, 64)}.
        """
        self.expert, self.seed = expert, seed
        self.run_name, self.ckpt_base_dir = run_name, ckpt_base_dir
        self.demonstrations, self.agent_type = demonstrations, agent_type
        per_row = max(1, round(steps_per_epoch / parallel_envs))
        self.settings: dict[str, Any] = {
            "Experiment.seed": seed,
            "Experiment.agent_type": agent_type,
            "Experiment.parallel_actors": parallel_envs,
            "Experiment.train_timesteps_per_epoch": per_row,
            "Experiment.warm_start_timesteps": -(-demonstration_steps // parallel_envs),
            "Experiment.train_batches_per_epoch": updates_per_epoch,
            "Experiment.batch_size": batch_size,
            "Experiment.learning_rate": learning_rate,
            "Experiment.grad_clip": grad_clip,
            "Experiment.oracle_noise": 0.0,
            "Experiment.val_metric": "return",
            "DiskTrajDataset.dset_max_timesteps": dataset_steps,
            "DiskTrajDataset.target": "oracle_actions",
            "LinearBeta.first": 0.0,
        } | dict(bindings or {})
        self.policy: Policy | None = None
        self._chance = torch_generator(seed, "act")

    def train(
        self,
        env: Env,
        total_steps: int,
        schedulers: Schedulers | None = None,
        logger: Listener | None = None,
        evaluator: Evaluator | Sequence[Evaluator] | None = None,
        *,
        show_progress: bool = True,
    ) -> dict[str, float]:
        """Run epochs until `total_steps` env steps are taken; afterwards `act` knows more.

        The folder `ckpt_base_dir/run_name` holds the run. Where it was interrupted, the same call
        goes on with it. With an evaluator, the weights with the best mean return act in the end,
        otherwise the last ones.

        Args:
            env: Id of an environment, one that was made by `gymnasium.make`, or a function that
                makes one.
            total_steps: Env steps, demonstrations not counted.
            schedulers: Functions of the env steps so far, by the gin name of the number that they
                set, as {"Experiment.learning_rate": LinearRamp(first=1e-3, last=1e-4)}.
            logger: Called with metrics by name, and env steps so far.
            evaluator: What tells of validations; several must have the same interval and episodes.
            show_progress: Show a bar or lines.

        Returns:
            The metrics of the last epoch.

        Raises:
            ValueError: If there is no expert, or something does not fit.
        """
        if self.expert is None:
            raise ValueError("train needs an expert; make the agent as DAggerAgent(expert).")
        evaluators = [evaluator] if isinstance(evaluator, Evaluator) else list(evaluator or ())
        name, make_env = env_source(env)
        bindings = [*self._bindings(name, total_steps, evaluators), *_present_bindings()]
        with config.gin_sandbox():
            config.load_config(bindings=bindings)
            text = config.config_text()
            experiment = DAggerExperiment(
                self.run_name, make_env, self.expert, evaluators, logger, self.demonstrations,
                ckpt_base_dir=self.ckpt_base_dir, verbose=show_progress,
                **({"schedules": dict(schedulers)} if schedulers else {}),
            )  # fmt: skip
            experiment.start()
            try:
                experiment.learn()
                if evaluators:
                    experiment.load_best()
                self.policy = Policy(
                    copy.deepcopy(experiment.policy).cpu(),
                    self.agent_type,
                    experiment.kind.observation_spec,
                    experiment.kind.actions or Actions(experiment.kind.action_names),
                    text,
                )
                lines = experiment.metrics_log.read()
            finally:
                experiment.close()
        return {} if not lines else lines[-1]

    def _bindings(self, env_name: str, total_steps: int, evaluators: list[Evaluator]) -> list[str]:
        """What `Experiment` is to be told, as texts of gin."""
        settings = self.settings | {
            "Experiment.train_envs": [env_name],
            "Experiment.epochs": None,
            "Experiment.total_timesteps": total_steps,
            "Experiment.val_interval": None,
        }
        if evaluators:
            plans = {(e.interval, e.episodes) for e in evaluators}
            if len(plans) > 1:
                raise ValueError(
                    "evaluators are told of the same validations, so they must have the same "
                    f"interval and episodes, got {sorted(plans)}."
                )
            interval, episodes = plans.pop()
            settings |= {
                "Experiment.val_interval_timesteps": interval,
                "Experiment.val_episodes": episodes,
            }
            del settings["Experiment.val_interval"]
        return [format_binding(name, value) for name, value in settings.items()]

    def act(self, obs: Any, deterministic: bool = False) -> np.ndarray:
        """Choose an action for one observation, or one for each of N.

        Args:
            obs: An observation of the environment, or N of them stacked: arrays [N, ...], in a
                dict where the environment has one.
            deterministic: Take the likeliest action instead of drawing one.

        Returns:
            int64 [] or [N], or vectors of the environment's own shape, within its bounds.

        Raises:
            ValueError: If nothing was trained or loaded, or `obs` has another form.
        """
        policy = self._trained()
        arrays, single = observed(obs, policy.observation_spec)
        sample = policy.agent.plan(
            arrays, self._chance, greedy=deterministic, collecting=not deterministic
        )
        if sample.vectors is None:
            actions = sample.tokens[:, 0].numpy()
        else:
            bounds = policy.actions.low, policy.actions.high
            actions = np.clip(sample.vectors.numpy(), *bounds).reshape(-1, *policy.actions.shape)
        chosen: np.ndarray = actions[0] if single else actions
        return chosen

    def save(self, path: str | Path) -> Path:
        """Write the policy into a folder: weights as safetensors, configuration as text.

        Raises:
            ValueError: If there is none yet.
        """
        return save_policy(self._trained(), Path(path))

    @classmethod
    def load(cls, path: str | Path, expert: Any = None, **arguments: Any) -> "DAggerAgent":
        """An agent with the policy that `save` wrote; its class is found by its name.

        Args:
            path: The folder.
            expert: Who is asked if it is to be trained; that begins with new weights.
            arguments: Those of the class.

        Raises:
            CheckpointError: If something is missing, damaged, or of another kind.
        """
        policy = load_policy(Path(path))
        agent = cls(expert, **{"agent_type": policy.agent_type, **arguments})
        agent.policy = policy
        return agent

    def _trained(self) -> Policy:
        if self.policy is None:
            raise ValueError("the agent has learnt nothing yet; call train, or DAggerAgent.load.")
        return self.policy


def env_source(env: Env) -> tuple[str, MakeEnv | None]:
    """The name of an environment, and what makes more of them; None where the name does.

    Raises:
        ValueError: If more cannot be made.
    """
    if isinstance(env, str):
        return GYMNASIUM + env.removeprefix(GYMNASIUM), None
    if isinstance(env, gymnasium.Env):
        if env.spec is None:
            raise ValueError(
                f"more environments like {env} cannot be made, since it was not made by "
                "gymnasium.make; hand train a function that makes one."
            )
        return GYMNASIUM + env.spec.id, functools.partial(gymnasium.make, env.spec)
    made = env()
    name = type(made.unwrapped).__name__ if made.spec is None else made.spec.id
    made.close()
    return GYMNASIUM + name, env


def observed(
    obs: Any, observation_spec: Mapping[str, ArraySpec]
) -> tuple[dict[str, np.ndarray], bool]:
    """Observations as named arrays [N, ...], and whether it was a single one.

    Raises:
        ValueError: If they are of another form.
    """
    given = dict(named_arrays(obs))
    if set(given) != set(observation_spec):
        raise ValueError(
            f"an observation must have the arrays {', '.join(observation_spec)}, got "
            f"{', '.join(given)}"
        )
    arrays: dict[str, np.ndarray] = {}
    singles = set()
    for name, spec in observation_spec.items():
        array = np.asarray(given[name]).astype(spec.dtype)
        single = array.shape == spec.shape
        if not single and array.shape[1:] != spec.shape:
            raise ValueError(
                f"{name!r} must be {list(spec.shape)}, or [N, ...] of these, got "
                f"{list(array.shape)}"
            )
        arrays[name] = array[None] if single else array
        singles.add(single)
    if len(singles) > 1:
        raise ValueError("some arrays of the observation are single and others are stacked")
    return arrays, singles.pop()


def _present_bindings() -> list[str]:
    """What is bound already, which wins."""
    return [f"{binding.name} = {binding.text}" for binding in config.current_bindings()]
