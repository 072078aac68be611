"""Environments in worker processes: whole plans per message, arrays in shared memory."""

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

import gin
import numpy as np

from remdm.envs.contract import Chunk, EnvError, PlannerEnv, PlanVecEnv
from remdm.envs.gin_relay import bindings_text, mark_as_used
from remdm.envs.making import EnvMaker, registered_envs
from remdm.envs.rows import (
    EnvOffer,
    chunk_layout,
    chunk_of,
    layout_bytes,
    place_arrays,
    plan_tokens,
)
from remdm.envs.sharing import create_block, forget_block
from remdm.envs.sync import check_rows, check_same_kind, rows_to_change
from remdm.envs.worker_main import (
    EnvFacts,
    Episode,
    Failure,
    WorkerSetup,
)
from remdm.envs.worker_process import POLITE_EXIT_S, Message, WorkerDied, WorkerProcess
from remdm.maps import ArraySpec
from remdm.registry import unknown_name_message

_log = logging.getLogger(__name__)

CONTEXTS = ("forkserver", "spawn", "fork")
# What a user gets wrong when naming an environment keeps its type on the way from a worker.
_USER_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "ImportError": ImportError}


@gin.configurable(module="remdm", denylist=["envs"])
class AsyncPlanVecEnv(PlanVecEnv):
    """`PlanVecEnv` over worker processes that each hold several environments.

    Rows are dealt out in turn, so that neighbours of one kind are spread over all workers.
    Observations are written by the workers straight into the arrays that are handed out.
    """

    def __init__(
        self,
        envs: Sequence[str | Callable[[], PlannerEnv]],
        *,
        num_workers: int = 2,
        context: str = "forkserver",
        timeout_s: float = 300.0,
        restart_dead_workers: int = 0,
    ) -> None:
        """Args:
        envs: One name or picklable maker per row.
        num_workers: Worker processes; never more than rows.
        context: How workers start: "forkserver", "spawn" or "fork". Fork is not safe in a process
            with threads, such as one that has used torch.
        timeout_s: Seconds after which a worker without an answer counts as dead.
        restart_dead_workers: How many dead workers may be replaced. The new one plays the rows'
            episodes again up to where they were, so that nothing is lost.

        Raises:
            ValueError: If a number makes no sense, a name is unknown, a maker cannot be sent to
                another process, or rows differ in actions or observation arrays.
            ImportError: If an environment needs an extra that is not installed.
            EnvError: If an environment cannot be made for another reason.
        """
        if num_workers < 1:
            raise ValueError(
                f"num_workers must be at least 1, got {num_workers}; "
                "set AsyncPlanVecEnv.num_workers"
            )
        if context not in CONTEXTS:
            raise ValueError(unknown_name_message("context", context, CONTEXTS))
        makers = [EnvMaker(env) if isinstance(env, str) else env for env in envs]
        if not makers:
            raise ValueError("at least one environment is needed, got none")
        self.num_envs = len(makers)
        self._context = context
        self._timeout_s = timeout_s
        self._restarts_left = restart_dead_workers
        self._may_restart = restart_dead_workers > 0
        self._started = False
        self._episodes: dict[int, Episode] = {}
        self._blocks: list[str] = []
        self._chunks: dict[int, tuple[Chunk, np.ndarray, Message]] = {}
        self._unanswered: set[int] = set()
        self._workers: list[WorkerProcess] = []
        self._finalizer = weakref.finalize(
            self, _shut_down, os.getpid(), self._workers, self._blocks
        )
        try:
            self._start(makers, min(num_workers, self.num_envs))
        except BaseException:
            self.close()
            raise

    def _start(self, makers: list[Callable[[], PlannerEnv]], num_workers: int) -> None:
        shared = (self.num_envs, registered_envs(), bindings_text(), gin.current_scope_str())
        for number in range(num_workers):
            rows = range(number, self.num_envs, num_workers)
            setup = WorkerSetup({row: makers[row] for row in rows}, *shared)
            self._workers.append(WorkerProcess(number, setup, self._context))
        self._unanswered.update(range(num_workers))  # each reports its environments unasked
        facts: dict[int, EnvFacts] = {}
        for worker_facts, used in self._collect({}).values():
            facts |= worker_facts
            mark_as_used(used)
        rows_facts = [facts[row] for row in range(self.num_envs)]
        self.env_names = tuple(f.name for f in rows_facts)
        self._offers: dict[str, tuple[Callable[[], PlannerEnv], EnvFacts]] = {}
        for fact, maker in zip(rows_facts, makers, strict=True):
            self._offers.setdefault(fact.name, (maker, fact))
        check_same_kind(
            self.env_names,
            [f.action_names for f in rows_facts],
            [f.observation_spec for f in rows_facts],
        )
        self.num_actions = rows_facts[0].num_actions
        self.action_names = rows_facts[0].action_names
        self.observation_spec = rows_facts[0].observation_spec
        self.max_episode_steps = tuple(f.max_episode_steps for f in rows_facts)
        self._current, self._share_current = self._share(self.observation_spec, "share_current")
        self._started = True

    def _share(
        self, layout: dict[str, ArraySpec], *command: Any
    ) -> tuple[dict[str, np.ndarray], Message]:
        """A new block that every worker has open, and the message that gives it to a new one."""
        num_bytes = layout_bytes(layout, self.num_envs)
        path, memory = create_block(num_bytes)
        self._blocks.append(path)
        message = (*command, path, num_bytes)
        self._call(dict.fromkeys(range(len(self._workers)), message))
        if not self._may_restart:
            forget_block(path)
        return place_arrays(layout, self.num_envs, memory), message

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; rows that were never started hold zeros and run nothing."""
        chosen = check_rows(seeds, rows, self.num_envs)
        per_worker: dict[int, dict[int, int]] = {}
        for row, seed in zip(chosen, seeds, strict=True):
            per_worker.setdefault(row % len(self._workers), {})[row] = int(seed)
        self._call({number: ("reset", seeds) for number, seeds in per_worker.items()})
        for row, seed in zip(chosen, seeds, strict=True):
            self._episodes[row] = Episode(int(seed), [])
        return self._current

    def assign(self, names: Sequence[str], rows: Sequence[int]) -> None:
        """See `PlanVecEnv.assign`."""
        changed = rows_to_change(names, rows, self.env_names, self._offers)
        per_worker: dict[int, dict[int, EnvOffer]] = {}
        for row, name in changed.items():
            offer = name, self._offers[name][0]
            per_worker.setdefault(row % len(self._workers), {})[row] = offer
        self._call({number: ("assign", wanted) for number, wanted in per_worker.items()})
        now, limits = list(self.env_names), list(self.max_episode_steps)
        for row, name in changed.items():
            maker, facts = self._offers[name]
            now[row], limits[row] = name, facts.max_episode_steps
            # Whoever takes a dead worker's place begins with this one.
            self._workers[row % len(self._workers)].setup.makers[row] = maker
            self._episodes.pop(row, None)
        self.env_names, self.max_episode_steps = tuple(now), tuple(limits)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`.

        Raises:
            ValueError: If shapes do not fit.
            EnvError: If an environment fails, with the worker's traceback, or if a worker is dead
                and may not be replaced. The whole set is closed then.
            RuntimeError: If the set is closed.
        """
        tokens = plan_tokens(plans, self.num_envs, num_steps)
        self._settle()
        if num_steps not in self._chunks:
            layout = chunk_layout(self.observation_spec, num_steps)
            arrays, message = self._share(layout, "share_chunk", num_steps)
            chunk = chunk_of(arrays, self._current)
            self._chunks[num_steps] = (chunk, arrays["plans"], message)
        chunk, shared_plans, _ = self._chunks[num_steps]
        shared_plans[...] = tokens
        command = ("execute", num_steps, stop_when_blocked)
        self._call(dict.fromkeys(range(len(self._workers)), command))
        if self._may_restart:
            for row, episode in self._episodes.items():
                episode.chunks.append((tokens[row], num_steps, stop_when_blocked))
        return chunk

    def close(self) -> None:
        """Stop the workers and free what is shared; arrays handed out stay readable."""
        self._finalizer()

    def _call(self, messages: dict[int, Message]) -> dict[int, Any]:
        """Send one message to each worker named and wait for all the answers."""
        self._settle()
        for number, message in messages.items():
            try:
                self._workers[number].send(message)
            except WorkerDied as death:
                self._replace(number, message, death)
            self._unanswered.add(number)
        return self._collect(messages)

    def _settle(self) -> None:
        """Wait for answers that an interrupted call (Ctrl-C) left behind."""
        if not self._finalizer.alive:
            raise RuntimeError("this set of environments is closed; make a new one")
        if self._unanswered:
            self._collect({})

    def _collect(self, messages: dict[int, Message]) -> dict[int, Any]:
        """The answer of every worker that owes one.

        Args:
            messages: What each was asked, to ask it again if it has to be replaced.

        Raises:
            EnvError: The first failure, after all have answered; the set is closed.
        """
        answers: dict[int, Any] = {}
        failure: Failure | None = None
        deadline = time.monotonic() + self._timeout_s
        while self._unanswered:
            for number in self._ready(deadline):
                try:
                    good, answer = self._workers[number].receive()
                except WorkerDied as death:
                    self._replace(number, messages.get(number), death)
                    if number not in messages:
                        self._unanswered.discard(number)
                    deadline = time.monotonic() + self._timeout_s
                    continue
                self._unanswered.discard(number)
                if good:
                    answers[number] = answer
                else:
                    failure = failure or answer
        if failure is not None:
            self._raise(failure)
        return answers

    def _raise(self, failure: Failure) -> None:
        self.close()
        if not self._started and failure.kind in _USER_ERRORS:
            raise _USER_ERRORS[failure.kind](failure.message)
        raise EnvError(f"{failure.message}\n\nIn the worker:\n{failure.traceback}")

    def _ready(self, deadline: float) -> set[int]:
        """Workers that have answered or died; those that let the deadline pass are killed."""
        sources: dict[Any, int] = {}
        for number in self._unanswered:
            worker = self._workers[number]
            sources |= {worker.connection: number, worker.process.sentinel: number}
        ready = wait(list(sources), max(0.0, deadline - time.monotonic()))
        if ready:
            return {sources[source] for source in ready}
        for number in self._unanswered:
            self._workers[number].give_up_on(self._timeout_s)
        return set(self._unanswered)

    def _replace(self, number: int, message: Message | None, death: WorkerDied) -> None:
        """Put a new worker in a dead one's place and send it `message`, unanswered yet.

        Raises:
            EnvError: If no more workers may be replaced; the set is closed.
        """
        while self._started and self._restarts_left > 0:
            self._restarts_left -= 1
            _log.warning("%s; a new one takes its place and plays its episodes again", death)
            try:
                self._revive(number, message)
            except WorkerDied as next_death:
                death = next_death
            else:
                return
        rows = sorted(self._workers[number].setup.makers)
        held = "; ".join(self._describe(row) for row in rows)
        self.close()
        raise EnvError(
            f"{death} and took its environments along ({held}). If the kernel killed it, memory "
            "ran out; AsyncPlanVecEnv.restart_dead_workers lets such workers be replaced"
        )

    def _describe(self, row: int) -> str:
        maker = self._workers[row % len(self._workers)].setup.makers[row]
        name = maker.name if isinstance(maker, EnvMaker) else repr(maker)
        seed = self._episodes[row].seed if row in self._episodes else None
        return f"row {row}: {name!r}, seed {seed}"

    def _revive(self, number: int, message: Message | None) -> None:
        old = self._workers[number]
        old.kill()
        new = self._workers[number] = WorkerProcess(number, old.setup, self._context)
        episodes = {row: self._episodes[row] for row in old.setup.makers if row in self._episodes}
        shares = [self._share_current, *(share for _, _, share in self._chunks.values())]
        new.wait_for_answer(self._timeout_s)
        for request in (*shares, ("restore", episodes)):
            new.send(request)
            new.wait_for_answer(self._timeout_s)
        if message is not None:
            new.send(message)


def _shut_down(owner: int, workers: list[WorkerProcess], blocks: list[str]) -> None:
    """Let workers close their environments, then end those that do not."""
    if os.getpid() != owner:
        return  # a forked copy of the set; the workers are not its own
    for path in blocks:
        forget_block(path)
    for worker in workers:
        with contextlib.suppress(WorkerDied):
            worker.send(("close",))
    deadline = time.monotonic() + POLITE_EXIT_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()
