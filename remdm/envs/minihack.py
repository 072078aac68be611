"""MiniHack levels behind `PlannerEnv`, stepped without gym's copies.

MiniHack hands sixteen buffers to NetHack and copies all of them twice a step. Here the step goes
to the NetHack object itself with the five buffers that the agent's memory is made of; what counts
as the end of an episode is still asked of MiniHack's own class.
"""

import os
import warnings
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import gin
import numpy as np

from remdm.envs.contract import PlannerEnv, StepResult
from remdm.envs.level_compiler import LevelError, level_compiler
from remdm.envs.memory import EpisodeMemory
from remdm.envs.nethack_glyphs import glyph_terrain
from remdm.envs.shaping import ShapedReward
from remdm.maps import ACTION_NAMES, NUM_ACTIONS, NUM_DIRECTIONS, map_observation_spec
from remdm.registry import import_extra, nearest

TRAINING_ENVS = (
    "MiniHack-Room-Random-5x5-v0",
    "MiniHack-Room-Random-15x15-v0",
    "MiniHack-Corridor-R2-v0",
    "MiniHack-MazeWalk-9x9-v0",
)
HELD_OUT_ENVS = (
    "MiniHack-Room-Dark-15x15-v0",
    "MiniHack-Corridor-R5-v0",
    "MiniHack-MazeWalk-45x19-v0",
)
CUSTOM_ENV = "MiniHack-Navigation-Custom-v0"
HEIGHT, WIDTH = 21, 79
MOST_STEPS = np.iinfo(np.int16).max - 1  # an observation counts steps in 16 bits

_ESCAPE = 27
_LEAN_KEYS = ("glyphs", "blstats", "message", "program_state", "internal")
# NLE's `internal` buffer.
_IN_QUESTION, _IN_TEXT, _WAITS_FOR_SPACE, _ON_STAIRS_DOWN = 1, 2, 3, 4
# NLE's end status.
_ABORTED, _RUNNING, _DIED, _SUCCESS = -1, 0, 1, 2
# What the game says (option mention_walls) when something stands in the way of a move. A move that
# fails without such words was held up, in a pit for instance, and says nothing about the map.
_IN_THE_WAY = (
    b"wall", b"stone", b"diagonally", b"boulder", b"bars", b"tree", b"drawbridge",
    b"pass", b"through", b"as far",
)  # fmt: skip


@gin.configurable(module="remdm", denylist=["name"])
class MiniHackEnv(PlannerEnv):
    """One MiniHack level generator, with the action set of `remdm.maps.Action`.

    Moves, OPEN and KICK are NetHack's own commands: OPEN and KICK wait for a direction, which is
    the next action (`pending`). Questions of any other kind are declined at once.
    """

    def __init__(
        self, name: str, *, reward: str = "sparse", max_episode_steps: int | None = None
    ) -> None:
        """Args:
            name: Id of a registered MiniHack environment, or the path of a `.des` file.
            reward: "sparse" (1 for a win) or "shaped" (see `ShapedReward`).
            max_episode_steps: Step limit; the environment's own when None.

        Raises:
            ValueError: If the name or an argument is not known.
            LevelError: If a level file does not compile.
            ImportError: If nle or minihack is missing.
        """
        if reward not in ("sparse", "shaped"):
            raise ValueError(
                f"reward must be 'sparse' or 'shaped' and is {reward!r}: "
                "set MiniHackEnv.reward to one of them."
            )
        if max_episode_steps is not None and not 1 <= max_episode_steps <= MOST_STEPS:
            raise ValueError(
                f"max_episode_steps must be in 1..{MOST_STEPS} and is {max_episode_steps}: "
                "set MiniHackEnv.max_episode_steps, or None for the environment's own limit."
            )
        self.name = name
        self.num_actions = NUM_ACTIONS
        self.action_names = ACTION_NAMES
        self.observation_spec = map_observation_spec(HEIGHT, WIDTH)
        self._shaped = ShapedReward() if reward == "shaped" else None
        self._open(name, max_episode_steps)
        self.memory = EpisodeMemory(HEIGHT, WIDTH, _glyph_table())
        self._started = self._running = self._pending = False

    def _open(self, name: str, max_episode_steps: int | None) -> None:
        """Construct the NLE environment and take over its NetHack object."""
        self._env = _construct(name)
        self._env.actions = game_actions()  # some classes ignore the argument of that name
        if max_episode_steps is not None:
            self._env._max_episode_steps = max_episode_steps
        self.max_episode_steps = int(self._env._max_episode_steps)
        # Tasks with their own idea of the end may look at any buffer; the others need five.
        self._own_end = _has_own_end(self._env)
        if not self._own_end:
            _make_lean(self._env)
        env = self._env
        self._game = env.nethack._pynethack
        buffers = env.nethack._obs_buffers
        self._glyphs = buffers["glyphs"]
        self._message = buffers["message"]
        # Reading one number of a memoryview costs a third of reading it from an array.
        self._blstats = memoryview(buffers["blstats"])
        self._internal = memoryview(buffers["internal"])
        self._program_state = memoryview(buffers["program_state"])
        nethack = import_extra("nle.nethack", "minihack")
        self._keys = tuple(int(action) for action in env.actions)
        self._level_index = (nethack.NLE_BL_DNUM, nethack.NLE_BL_DLEVEL)

    @property
    def pending(self) -> bool:
        """Whether the last action waits for a direction."""
        return self._pending

    def reset(self, seed: int) -> None:
        """Start the episode of level `seed`; the same seed gives the same episode."""
        if self._started and not self._game.done():
            # A game that is not quit leaves about 2 kB behind at every reset.
            self._env._quit_game(self._env.last_observation, False)
        self._started = True
        # NLE ignores reset(seed=...) and draws new seeds at every reset.
        self._env.seed(core=seed, disp=seed, reseed=False)
        self._env.reset()
        self._pending = False
        self._running = True
        self._level = self._current_level()
        self.memory.reset()
        self.memory.begin(self._glyphs, self._position())
        if self._shaped is not None:
            self._shaped.reset(self.memory)

    def step(self, action: int) -> StepResult:
        """Take one action.

        Raises:
            RuntimeError: If the episode is over or was never started.
            ValueError: If `action` is not of the action set.
        """
        if not self._running:
            raise RuntimeError(f"{self.name}: no episode is running; call reset(seed) first.")
        if not 0 <= action < NUM_ACTIONS:
            raise ValueError(f"action must be in 0..{NUM_ACTIONS - 1} and is {action}.")
        answering = self._pending
        env = self._env
        if self._own_end:
            env._previous_obs = tuple(a.copy() for a in env.last_observation)
            env._previous_action = action
        game = self._game
        game.step(self._keys[action])
        over = self._settle(game.done())
        env._steps += 1
        status = _DIED if over else self._status()
        blocked = self._remember(action, over, answering)
        won = status == _SUCCESS
        self._running = status == _RUNNING
        reward = float(won) if self._shaped is None else self._shaped.step(self.memory, won)
        return StepResult(reward, status > _RUNNING, status == _ABORTED, won, blocked)

    def observe(self, out: dict[str, np.ndarray]) -> None:
        """Copy the current observation into `out`, arrays of `observation_spec` shapes."""
        out["glyphs"][...] = self._glyphs
        self.memory.write(out)

    def cancel(self) -> None:
        """Give up a pending action; costs no step and no game time."""
        if self._pending:
            self._game.step(_ESCAPE)
            self._settle(self._game.done())
            self.memory.look(self._glyphs, self._position())

    def close(self) -> None:
        """Close the game and delete its folder."""
        self._running = False
        self._env.close()

    def _settle(self, over: bool) -> bool:
        """Get past --More-- and questions, as NLE does; returns whether the game is over."""
        internal = self._internal
        self._pending = False
        if over or not (internal[_IN_QUESTION] or internal[_IN_TEXT] or internal[_WAITS_FOR_SPACE]):
            return over
        env = self._env
        if self._program_state[0] or not env._allow_all_modes:
            _, over = env._perform_known_steps(env.last_observation, over, exceptions=True)
        while not over and internal[_IN_QUESTION]:
            if b"direction?" in self._message.tobytes():
                self._pending = True
                break
            self._game.step(_ESCAPE)
            _, over = env._perform_known_steps(
                env.last_observation, self._game.done(), exceptions=True
            )
        return over

    def _status(self) -> int:
        """NLE's end status of a game that goes on: the step limit comes first, then the task."""
        if self._env._steps >= self.max_episode_steps:
            return _ABORTED
        if self._own_end:
            return int(self._env._is_episode_end(self._env.last_observation))
        return _SUCCESS if self._internal[_ON_STAIRS_DOWN] else _RUNNING

    def _remember(self, action: int, over: bool, answering: bool) -> bool:
        memory = self.memory
        if over:
            memory.step += 1  # the map is gone
            return False
        position = self._position()
        if self._level != self._current_level():
            self._level = self._current_level()
            memory.step += 1
            memory.begin(self._glyphs, position)
            return False
        locked = held = False
        if action < NUM_DIRECTIONS and position == memory.place:
            locked, held = _read_message(self._message.tobytes())
        return memory.update(
            self._glyphs, position, action, locked=locked, held=held, answering=answering
        )

    def _position(self) -> tuple[int, int]:
        return self._blstats[1], self._blstats[0]

    def _current_level(self) -> tuple[int, int]:
        branch, level = self._level_index
        return self._blstats[branch], self._blstats[level]


@lru_cache(maxsize=256)
def _read_message(said: bytes) -> tuple[bool, bool]:
    """What a failed move's message means: a locked door; something that holds the agent."""
    return b"is locked" in said, not any(words in said for words in _IN_THE_WAY)


@cache
def _minihack() -> Any:
    """The minihack package, without its complaint about pkg_resources."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
        try:
            return import_extra("minihack", "minihack")
        except ImportError as error:
            if "pkg_resources" not in str(error):
                raise
            raise ImportError(
                "minihack imports pkg_resources, which setuptools 82 and later no longer have: "
                "pip install 'setuptools<81'"
            ) from error


@cache
def _glyph_table() -> np.ndarray:
    return glyph_terrain(import_extra("nle.nethack", "minihack"))


def _install_level(env: Any, des_file: str) -> None:
    """What takes the place of `MiniHack._patch_nhdat`."""
    level_compiler().install(des_file, Path(env.nethack._vardir))


@cache
def _compiling(base: type) -> type:
    """A MiniHack class whose levels go through our compiler, which reports errors."""
    return type(base.__name__, (base,), {"_patch_nhdat": _install_level})


def make_stock_env(name: str, **arguments: Any) -> Any:
    """`gymnasium.make` of a MiniHack environment, for comparisons with ours.

    Only the level is compiled by us: where the package is installed at a path with a space,
    MiniHack's own script fails without a word and every environment is the same wrong level.

    Args:
        name: A registered id.
        **arguments: For the environment.
    """
    import gymnasium

    stock = _minihack().MiniHack
    original = stock._patch_nhdat
    stock._patch_nhdat = _install_level
    try:
        return gymnasium.make(name, **arguments)
    finally:
        stock._patch_nhdat = original


def known_envs() -> list[str]:
    """Ids of all registered MiniHack environments."""
    _minihack()
    registry = import_extra("gymnasium", "minihack").registry
    return sorted(name for name in registry if name.startswith("MiniHack-"))


def _construct(name: str) -> Any:
    """The bare MiniHack environment behind an id or a `.des` file."""
    _minihack()
    gymnasium = import_extra("gymnasium", "minihack")
    arguments: dict[str, Any] = {}
    if name.endswith(".des"):
        if not Path(name).is_file():
            raise LevelError(f"there must be a level file at {name!r} and there is none.")
        arguments["des_file"] = os.path.abspath(name)
        name = CUSTOM_ENV
    elif name.endswith("-Custom-v0"):
        raise ValueError(
            f"{name} is only a frame for levels: give the path of a .des file instead."
        )
    if name not in gymnasium.registry or not name.startswith("MiniHack-"):
        raise ValueError(_unknown_env(name))
    spec = gymnasium.registry[name]
    base = gymnasium.envs.registration.load_env_creator(spec.entry_point)
    if {"MiniGridHack", "BoxoHack"} & {c.__name__ for c in base.__mro__}:
        raise ValueError(
            f"{name} draws its levels outside of NetHack, where a seed does not reach them, so "
            "its episodes could not be repeated; use another environment or a .des file."
        )
    # Luck depends on the moon: by the calendar, an episode would be another one tomorrow.
    return _compiling(base)(**{**spec.kwargs, **arguments, "fix_moon_phase": True})


def _unknown_env(name: str) -> str:
    known = known_envs()
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "none is similar."
    return (
        f"unknown MiniHack environment {name!r}: {hint} "
        f"({len(known)} ids are registered; the path of a .des file will do, too.)"
    )


def game_actions() -> tuple[Any, ...]:
    """NetHack's commands in the order of `remdm.maps.Action`."""
    nethack = import_extra("nle.nethack", "minihack")
    compass, command = nethack.CompassDirection, nethack.Command
    return (
        compass.N, compass.E, compass.S, compass.W,
        compass.NE, compass.SE, compass.SW, compass.NW,
        command.OPEN, command.KICK, command.SEARCH, nethack.MiscDirection.WAIT,
    )  # fmt: skip


def _has_own_end(env: Any) -> bool:
    """Whether the task decides about its end by more than the stairs."""
    plain = import_extra("minihack.base", "minihack").MiniHack._is_episode_end
    return env.reward_manager is not None or type(env)._is_episode_end is not plain


def _make_lean(env: Any) -> None:
    """Let NetHack fill only the buffers we read; NLE's own code goes on working on them."""
    game = env.nethack
    game._obs_buffers = {key: game._obs_buffers[key] for key in _LEAN_KEYS}
    game._pynethack.set_buffers(**game._obs_buffers)
    game._obs = tuple(game._obs_buffers.values())
    env._observation_keys = list(_LEAN_KEYS)
    env._original_observation_keys = _LEAN_KEYS
    env._original_indices = tuple(range(len(_LEAN_KEYS)))
    env._minihack_obs_keys = []
    for index, key in enumerate(_LEAN_KEYS):
        setattr(env, "_glyph_index" if key == "glyphs" else f"_{key}_index", index)
