"""From names to environments: `make_env` for one, `make_vec_env` for many."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from remdm.envs.contract import PlannerEnv, PlanVecEnv
from remdm.envs.sync import SyncPlanVecEnv
from remdm.registry import unknown_name_message

GYMNASIUM = "Gymnasium:"
"""Start of the names of environments that `gymnasium.make` makes."""
ENV_MODES = ("sync", "async", "already_vectorized")


@dataclass(frozen=True, slots=True)
class _Family:
    target: str  # "module:Class"
    names: tuple[str, ...]  # for error messages; the class knows which names it takes
    vectorized: str | None  # "module:Class" of a set of many, where there is one


_FAMILIES: dict[str, _Family] = {}


def register_env(
    prefix: str, target: str, names: Sequence[str] = (), vectorized: str | None = None
) -> None:
    """Make a family of environments known to `make_env`.

    Args:
        prefix: Start of all names of the family; the longest that fits a name wins.
        target: `"module:Class"` of a `PlannerEnv` whose constructor takes the name first. It is
            imported on first use, in the process that makes the environment.
        names: Some names of the family, to be offered when a name is misspelt.
        vectorized: `"module:Class"` of a `PlanVecEnv` that runs many of the family at once, whose
            constructor takes the names first and `max_episode_steps`; `make_vec_env` then makes
            that, whatever its mode.

    Raises:
        ValueError: If `target` is not of that form.
    """
    module, _, attribute = target.partition(":")
    if not prefix or not module or not attribute:
        raise ValueError(
            f"an environment is registered as a prefix and 'module:Class', "
            f"got {prefix!r} and {target!r}"
        )
    _FAMILIES[prefix] = _Family(target, tuple(names), vectorized)


def registered_envs() -> dict[str, tuple[str, tuple[str, ...]]]:
    """All families as `register_env` arguments by prefix; worker processes repeat them."""
    return {prefix: (family.target, family.names) for prefix, family in _FAMILIES.items()}


def known_env_names() -> list[str]:
    """Names that can be listed without importing an environment; others may exist."""
    return [name for prefix, f in _FAMILIES.items() for name in f.names or (f"{prefix}*",)]


_MINIHACK = "remdm.envs.minihack:MiniHackEnv"
register_env(
    "MiniHack-",
    _MINIHACK,
    (
        "MiniHack-Room-Random-5x5-v0",
        "MiniHack-Room-Random-15x15-v0",
        "MiniHack-Corridor-R2-v0",
        "MiniHack-MazeWalk-9x9-v0",
        "MiniHack-Room-Dark-15x15-v0",
        "MiniHack-Corridor-R5-v0",
        "MiniHack-MazeWalk-45x19-v0",
    ),
)
register_env(
    "Gridworld-",
    "remdm.envs.gridworld:GridworldEnv",
    (
        "Gridworld-Room-9x9-v0",
        "Gridworld-DarkRoom-9x9-v0",
        "Gridworld-Maze-9x9-v0",
        "Gridworld-Maze-15x15-v0",
        "Gridworld-Doors-9x13-v0",
    ),
)
register_env("CueCorridor-", "remdm.envs.cue_corridor:CueCorridorEnv", ("CueCorridor-4x28-v0",))
register_env(
    "Craftax-",
    "remdm.envs.craftax.single:CraftaxEnv",
    ("Craftax-Classic-Symbolic-v1", "Craftax-Symbolic-v1"),
    vectorized="remdm.envs.craftax.vec_env:CraftaxVecEnv",
)
register_env(
    GYMNASIUM,
    "remdm.envs.gymnasium_env:GymnasiumEnv",
    ("Gymnasium:CartPole-v1", "Gymnasium:Pendulum-v1"),
)


def _family(name: str) -> _Family | None:
    fitting = [prefix for prefix in _FAMILIES if name.startswith(prefix)]
    return _FAMILIES[max(fitting, key=len)] if fitting else None


def env_target(name: str) -> str:
    """`"module:Class"` of the environment called `name`; a `.des` file is a MiniHack level.

    Raises:
        ValueError: If no family fits; offers the nearest names.
    """
    family = _family(name)
    if family is not None:
        return family.target
    if name.endswith(".des"):
        return _MINIHACK
    raise ValueError(unknown_name_message("environment", name, known_env_names()))


def _vectorized_target(names: Sequence[str]) -> str | None:
    """`"module:Class"` of the set that runs all of `names` at once, if there is one.

    Raises:
        ValueError: If it runs some of them only.
    """
    families = [_family(name) for name in names]
    targets = {family.vectorized for family in families if family is not None}
    targets |= {None for family in families if family is None}
    if len(targets) > 1:
        raise ValueError(
            f"environments that run in one compiled set cannot share rows with others, got "
            f"{sorted(set(names))}; set Experiment.train_envs to one kind."
        )
    return next(iter(targets), None)


def make_env(name: str, **overrides: Any) -> PlannerEnv:
    """Make one environment.

    Args:
        name: Environment id, or the path of a `.des` level file.
        **overrides: Constructor arguments; they win over gin bindings. What is not given here is
            left to gin (`MiniHackEnv.max_episode_steps = 100`) and then to the code's default.

    Raises:
        ValueError: If the name is unknown; offers the nearest names.
        ImportError: If the environment needs an extra that is not installed.
    """
    module, attribute = env_target(name).split(":")
    env_class = getattr(importlib.import_module(module), attribute)
    env: PlannerEnv = env_class(name, **overrides)
    return env


@dataclass(frozen=True, slots=True)
class EnvMaker:
    """A `make_env` call that can be sent to another process."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> PlannerEnv:
        """Make the environment."""
        return make_env(self.name, **self.overrides)


def make_vec_env(
    names: Sequence[str] | Callable[[], PlanVecEnv],
    *,
    env_mode: str = "sync",
    num_workers: int | None = None,
    context: str | None = None,
    max_episode_steps: int | Sequence[int | None] | None = None,
) -> PlanVecEnv:
    """Make many environments behind one interface.

    Args:
        names: One environment id per row; for "already_vectorized" a function that makes the
            whole set.
        env_mode: "sync" (this process), "async" (worker processes) or "already_vectorized".
        num_workers: Worker processes; left to `AsyncPlanVecEnv.num_workers` when None.
        context: How workers start; left to `AsyncPlanVecEnv.context` when None.
        max_episode_steps: Episode limit of all rows or of each; None leaves a row its own.

    Raises:
        ValueError: If a name or mode is unknown, or the limits are not one per row.
    """
    if env_mode not in ENV_MODES:
        raise ValueError(unknown_name_message("env_mode", env_mode, ENV_MODES))
    if callable(names) or env_mode == "already_vectorized":
        return _already_vectorized(names, env_mode)
    for name in names:
        env_target(name)  # a misspelt name fails here, not in a worker
    vectorized = _vectorized_target(names)
    if vectorized is not None:
        module, attribute = vectorized.split(":")
        vec_env_class = getattr(importlib.import_module(module), attribute)
        limits = _limits(max_episode_steps, len(names))
        asked = {} if set(limits) == {None} else {"max_episode_steps": limits}
        made: PlanVecEnv = vec_env_class(names, **asked)
        return made
    makers = [
        EnvMaker(name, {} if limit is None else {"max_episode_steps": limit})
        for name, limit in zip(names, _limits(max_episode_steps, len(names)), strict=True)
    ]
    if env_mode == "sync":
        return SyncPlanVecEnv(makers)
    from remdm.envs.workers import AsyncPlanVecEnv

    given: dict[str, Any] = {"num_workers": num_workers, "context": context}
    return AsyncPlanVecEnv(makers, **{k: v for k, v in given.items() if v is not None})


def _limits(limits: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    if limits is None or isinstance(limits, int):
        return [limits] * count
    if len(limits) != count:
        raise ValueError(
            f"max_episode_steps must be one number or one per environment: {count} environments, "
            f"{len(limits)} limits"
        )
    return list(limits)


def _already_vectorized(
    names: Sequence[str] | Callable[[], PlanVecEnv], env_mode: str
) -> PlanVecEnv:
    if not callable(names) or env_mode != "already_vectorized":
        raise ValueError(
            "env_mode 'already_vectorized' goes with a function that makes a PlanVecEnv, "
            f"the other modes with environment names; got {names!r} and {env_mode!r}"
        )
    made = names()
    if not isinstance(made, PlanVecEnv):
        raise ValueError(f"{names!r} must make a PlanVecEnv, got {type(made).__name__}")
    return made
