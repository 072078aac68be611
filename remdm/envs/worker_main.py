"""The inside of a worker process: several environments and a loop that obeys the parent.

Messages are small tuples `(command, *arguments)`; the arrays lie in shared memory and are written
here directly. Every message but the last gets one answer, `(True, result)` or `(False, Failure)`.
"""

import importlib
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import gin
import numpy as np

from remdm.envs.contract import PlannerEnv
from remdm.envs.gin_relay import Used, adopt_bindings, used_arguments
from remdm.envs.making import EnvMaker, env_target, register_env
from remdm.envs.rows import EnvOffer, Row, RowArrays, SpareEnvs, chunk_layout, place_arrays
from remdm.envs.sharing import open_block
from remdm.maps import ArraySpec


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """All a worker needs to make its environments as the parent would have made them.

    Attributes:
        makers: By row, what makes the environment.
        num_envs: Rows of all workers together.
        families: Environments registered in the parent, see `making.registered_envs`.
        gin_config: The parent's gin bindings as text.
        gin_scope: The gin scope that the parent was in.
    """

    makers: dict[int, Callable[[], PlannerEnv]]
    num_envs: int
    families: dict[str, tuple[str, tuple[str, ...]]]
    gin_config: str
    gin_scope: str


@dataclass(frozen=True, slots=True)
class EnvFacts:
    """What the parent has to know of an environment that it never sees."""

    name: str
    num_actions: int
    action_names: tuple[str, ...]
    observation_spec: dict[str, ArraySpec]
    max_episode_steps: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that happened in a worker.

    `kind` is "ValueError" or "ImportError" where it was one, else "Exception".
    """

    kind: str
    message: str
    traceback: str

    @staticmethod
    def of(error: Exception) -> "Failure":
        """Put an exception into words."""
        kind = next(k for k in (ValueError, ImportError, Exception) if isinstance(error, k))
        return Failure(kind.__name__, str(error), traceback.format_exc())


@dataclass(frozen=True, slots=True)
class Episode:
    """How to bring a row to where it was: its level seed and every chunk run since."""

    seed: int
    chunks: list[tuple[np.ndarray, int, bool]]  # plan tokens, num_steps, stop_when_blocked


class EnvWorker:
    """The environments of one worker and the commands that act on them."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Make the environments under the parent's gin bindings."""
        for prefix, (target, names) in setup.families.items():
            register_env(prefix, target, names)
        for maker in setup.makers.values():
            if isinstance(maker, EnvMaker):  # what is not imported cannot be bound
                importlib.import_module(env_target(maker.name).split(":")[0])
        adopt_bindings(setup.gin_config)
        self._scope, self._num_envs = setup.gin_scope or None, setup.num_envs
        with gin.config_scope(self._scope):
            self.envs = {row: maker() for row, maker in setup.makers.items()}
        self._spare = SpareEnvs()
        self._rows: dict[int, Row] = {}
        self._chunks: dict[int, dict[int, RowArrays]] = {}

    def facts(self) -> tuple[dict[int, EnvFacts], Used]:
        """What the parent has to know, by row, and which gin arguments were used."""
        facts = {
            row: EnvFacts(
                env.name,
                env.num_actions,
                tuple(env.action_names),
                env.observation_spec,
                env.max_episode_steps,
            )
            for row, env in self.envs.items()
        }
        return facts, used_arguments()

    def share_current(self, path: str, num_bytes: int) -> None:
        """Take the block that holds every row's current observation."""
        spec = next(iter(self.envs.values())).observation_spec
        arrays = place_arrays(spec, self._num_envs, open_block(path, num_bytes))
        self._rows = {
            row: Row(env, {name: array[row, ...] for name, array in arrays.items()})
            for row, env in self.envs.items()
        }

    def share_chunk(self, num_steps: int, path: str, num_bytes: int) -> None:
        """Take the block for chunks of `num_steps` steps."""
        layout = chunk_layout(next(iter(self.envs.values())).observation_spec, num_steps)
        arrays = place_arrays(layout, self._num_envs, open_block(path, num_bytes))
        self._chunks[num_steps] = {row: RowArrays.of(arrays, row) for row in self._rows}

    def reset(self, seeds: dict[int, int]) -> None:
        """Start new episodes in the rows named."""
        for row, seed in seeds.items():
            self._rows[row].reset(seed)

    def assign(self, wanted: dict[int, EnvOffer]) -> None:
        """Give the rows named other environments."""
        with gin.config_scope(self._scope):
            self._spare.exchange(wanted, self._rows)
        self.envs = {row: self._rows[row].env for row in self.envs}

    def execute(self, num_steps: int, stop_when_blocked: bool) -> None:
        """Run the plans that lie in the shared block."""
        for row, arrays in self._chunks[num_steps].items():
            self._rows[row].run(num_steps, stop_when_blocked, arrays)

    def restore(self, episodes: dict[int, Episode]) -> None:
        """Play episodes again up to where they were when another worker died."""
        for row, episode in episodes.items():
            self._rows[row].reset(episode.seed)
            for tokens, num_steps, stop_when_blocked in episode.chunks:
                layout = chunk_layout(self.envs[row].observation_spec, num_steps)
                arrays = RowArrays.of(place_arrays(layout, 1), 0)
                arrays.plan[...] = tokens
                self._rows[row].run(num_steps, stop_when_blocked, arrays)

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs.values():
            env.close()
        self._spare.close()


def worker_main(packed_setup: bytes, connection: Connection) -> None:
    """Entry point of a worker process; returns when told to close or when the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        # Of this process's own parent, through its pipe.
        worker = EnvWorker(pickle.loads(packed_setup))
    except Exception as error:
        connection.send((False, Failure.of(error)))
        return
    connection.send((True, worker.facts()))
    parent = parent_process()
    # A forked sibling may hold the parent's end of the pipe open, so its end is watched as well.
    sources: list[Any] = [connection] if parent is None else [connection, parent.sentinel]
    try:
        while connection in wait(sources):
            command, *arguments = connection.recv()
            if command == "close":
                return
            connection.send(_answer(worker, command, arguments))
    except (EOFError, OSError):
        return  # the parent is gone
    finally:
        worker.close()


def _answer(worker: EnvWorker, command: str, arguments: list[Any]) -> tuple[bool, Any]:
    try:
        return True, getattr(worker, command)(*arguments)
    except Exception as error:
        return False, Failure.of(error)
