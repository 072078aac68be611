"""Several processes that play demonstrations, each whole pieces: one message for every piece."""

import concurrent.futures
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait

import gin

from remdm.envs.contract import EnvError
from remdm.envs.gin_relay import adopt_bindings, bindings_text
from remdm.envs.making import env_target, register_env, registered_envs
from remdm.training.demonstration_pieces import PiecePlayer, Task
from remdm.training.demonstration_records import Piece, Record


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a worker is told of its parent: the task, environments, bindings and their scope."""

    task: Task
    families: dict[str, tuple[str, tuple[str, ...]]]
    bindings: str
    scope: str


class Crew:
    """The parent's end of the processes. They end with it, however it ends."""

    def __init__(self, task: Task, processes: int) -> None:
        """Args:
        task: What is being done.
        processes: How many.

        Raises:
            ValueError: If the oracle cannot be sent to another process.
        """
        setup = _Setup(task, registered_envs(), bindings_text(), gin.current_scope_str())
        try:
            packed = pickle.dumps(setup)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"the oracle {task.oracle.name!r} must be picklable, since it is sent to other "
                f"processes: {error}. Use --processes 1."
            ) from error
        context = multiprocessing.get_context("forkserver")
        # Imported once, and not by every process.
        context.set_forkserver_preload([__name__, type(task.oracle).__module__, *_env_modules()])
        self._pool = concurrent.futures.ProcessPoolExecutor(
            processes, context, initializer=_begin, initargs=(packed,)
        )

    def play(
        self, env: str, max_episode_steps: int | None, pieces: Sequence[Piece]
    ) -> Iterator[Record]:
        """Records of pieces as they are done. Where nobody asks on, what is under way is lost.

        Raises:
            EnvError: If an environment fails, or a process dies.
        """
        futures = [self._pool.submit(_work, env, max_episode_steps, piece) for piece in pieces]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise EnvError(
                f"a process that played {env} died, perhaps for want of memory. What is recorded "
                "is safe: the same command goes on from there."
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Wait for what is under way, and end the processes."""
        self._pool.shutdown(cancel_futures=True)


def _env_modules() -> list[str]:
    """Those of environments that are in use here already."""
    modules = {target.split(":")[0] for target, _ in registered_envs().values()}
    return sorted(modules & sys.modules.keys())


# What a worker process keeps between pieces.
_setup: _Setup | None = None
_player: PiecePlayer | None = None


def _begin(packed: bytes) -> None:
    """Make this process a worker."""
    global _setup
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _setup = pickle.loads(packed)  # of this process's own parent, through its pipe
    for prefix, (target, names) in _setup.families.items():
        register_env(prefix, target, names)


def _end_with_parent() -> None:
    """A pool's process that waits for work would outlive a parent that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(env: str, max_episode_steps: int | None, piece: Piece) -> Record:
    global _player
    assert _setup is not None
    if _player is None or _player.name != env:
        if _player is not None:
            _player.close()
        importlib.import_module(env_target(env).split(":")[0])  # else it cannot be bound
        adopt_bindings(_setup.bindings)
        with gin.config_scope(_setup.scope or None):
            _player = PiecePlayer(_setup.task, env, max_episode_steps)
    tape = _player.tapes[0]
    return _player.write(piece, list(_player.play(piece, tape)), tape)
