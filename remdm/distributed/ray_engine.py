"""The roles of a run as actors of a Ray cluster.

Ray finds a place for each actor, starts its process, and starts it again wherever there is room
when it dies. What an actor runs is the command line of its role, in its own process: the same loop
as on one machine. The actors of a run end with the process that started them.
"""

import contextlib
import logging
import math
import os
import shlex
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from remdm.data.plain_json import one_line
from remdm.distributed.launch import Engine, Job, Part
from remdm.distributed.local_engine import thread_settings
from remdm.distributed.ray_actor import Apart, Place, RoleActor
from remdm.distributed.role_logs import RoleLogs
from remdm.registry import import_extra

logger = logging.getLogger(__name__)

# How the loss of an actor is told: as the end of a process by SIGKILL.
LOST = -signal.SIGKILL
WORDS_EVERY_SECONDS = 30.0


class _ActorJob(Job):
    """A call of `RoleActor.run`."""

    def __init__(
        self, engine: "RayEngine", name: str, place: Any, begin: Callable[[], Any]
    ) -> None:
        """Args:
        engine: Who started it.
        name: Of the actor.
        place: Where the actor is, once it is there.
        begin: Makes the call.
        """
        self._engine, self.name, self.place, self._begin = engine, name, place, begin
        self._run: Any = None
        self._code: int | None = None

    def code(self) -> int | None:
        """See `Job.code`."""
        ray = self._engine.ray
        if self._run is None:  # a call to an actor that Ray still starts again would be lost
            if not ray.wait([self.place], timeout=0)[0]:
                return None
            self._run = self._begin()
        if self._code is None and ray.wait([self._run], timeout=0)[0]:
            try:
                self._code = ray.get(self._run)
            except ray.exceptions.RayActorError as error:
                logger.info("%s: %s", self.name, one_line(str(error), 300))
                self._code = LOST
            if self._code != LOST:  # Ray would start an actor again that it has lost
                self._engine.forget(self.name)
        return self._code

    def send(self, signal_number: int) -> None:
        """See `Job.send`."""
        ray = self._engine.ray
        if self.code() is not None:
            return
        placed = ray.wait([self.place], timeout=0)[0]
        if signal_number == signal.SIGKILL or not placed:
            self._engine.forget(self.name)
            return
        with contextlib.suppress(ray.exceptions.RayError):
            self._engine.signal(ray.get(self.place), signal_number)


class RayEngine(Engine):
    """Starts actors on a Ray cluster, or on this machine alone."""

    def __init__(
        self,
        run: Path,
        parts: list[Part],
        *,
        address: str | None = None,
        config_text: str | None = None,
        dataset: Path | None = None,
    ) -> None:
        """Connect with a cluster, or start one for this run alone.

        Args:
            run: Folder of the run.
            parts: What will be started.
            address: Of a running cluster; None starts one on this machine.
            config_text: The whole configuration, where collectors do not see the run folder:
                then this travels to them, shards and weights travel, and all else runs on this
                machine. None if all machines see the folder under this name.
            dataset: Folder of the shards; the run's when None.

        Raises:
            ImportError: If Ray is missing.
            ConnectionError: If there is no cluster at that address.
        """
        # Nothing is sent to anybody outside, and lines that are alike are all printed.
        for name in ("RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS"):
            os.environ.setdefault(name, "0")
        self.ray = import_extra("ray", "ray")
        self._env = {"PYTHONUNBUFFERED": "1"}
        if address is None:
            wanted = sum(part.ranks * part.cpus for part in parts)
            cores = len(os.sched_getaffinity(0))
            self._env |= thread_settings(sum(part.ranks for part in parts))
            self.ray.init(num_cpus=max(cores, math.ceil(wanted)), include_dashboard=False)
        else:
            self.ray.init(address=address)
        self._logs = RoleLogs(run)
        self._folder = str(Path.cwd())
        self._actors: dict[str, Any] = {}
        self._jobs: dict[str, _ActorJob] = {}
        self._words_at = time.monotonic() + WORDS_EVERY_SECONDS
        self._apart: Apart | None = None
        self._here = self.ray.get_runtime_context().get_node_id()
        if config_text is not None:
            from remdm.distributed.ray_transport import make_hub

            hub = make_hub(run, dataset or run, self._here)
            self._apart = Apart(hub, uuid.uuid4().hex, run.name, config_text)

    def start(self, part: Part, rank: int, env: Mapping[str, str]) -> Job:
        """See `Engine.start`."""
        name = part.rank_name(rank)
        log = self._logs.of(name)
        self.show()
        log.begin(shlex.join(["python", *part.words]))
        actor = self._actor(part, name)
        place = actor.where.options(max_task_retries=-1).remote()
        env = {**self._env, **env}
        if self._apart is not None and part.role == "collect":
            begin = partial(actor.collect.remote, part.index, env, self._apart)
        else:
            meeting = None if part.ranks == 1 else place
            if rank > 0:
                meeting = self._jobs[part.rank_name(0)].place
            path = str(log.path.absolute())
            begin = partial(actor.run.remote, part.words, env, self._folder, path, meeting)
        self._jobs[name] = _ActorJob(self, name, place, begin)
        return self._jobs[name]

    def _actor(self, part: Part, name: str) -> Any:
        if name not in self._actors:
            options = {"num_cpus": part.cpus, "num_gpus": part.gpus, "max_restarts": -1}
            if self._apart is not None and part.role != "collect":
                options["scheduling_strategy"] = self._on(self._here)
            self._actors[name] = self.ray.remote(RoleActor).options(**options).remote(name)
        return self._actors[name]

    def _on(self, node: str) -> Any:
        """The wish to run on one machine and no other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)

    def forget(self, name: str) -> None:
        """End an actor for good."""
        actor = self._actors.pop(name, None)
        if actor is not None:
            self.ray.kill(actor)

    def signal(self, place: Place, number: int) -> None:
        """Send a signal to a process, by a task on its machine; does not wait for it."""
        task = self.ray.remote(_send_signal)
        task.options(num_cpus=0, scheduling_strategy=self._on(place.node)).remote(place.pid, number)

    def meeting_settings(self, part: Part) -> dict[str, str]:
        """See `Engine.meeting_settings`. Where to meet is known once the first has a place."""
        # An actor sees no accelerators but its own.
        return {"LOCAL_RANK": "0"} if part.gpus else {"ACCELERATE_USE_CPU": "true"}

    def show(self) -> None:
        """See `Engine.show`."""
        self._logs.show()
        if time.monotonic() < self._words_at:
            return
        self._words_at = time.monotonic() + WORDS_EVERY_SECONDS
        waiting = [
            job.name
            for job in self._jobs.values()
            if job.name in self._actors and not self.ray.wait([job.place], timeout=0)[0]
        ]
        if waiting:
            logger.info(
                "waiting for a place in the cluster for %s; it has %s, of which %s is free",
                ", ".join(waiting), _told(self.ray.cluster_resources()),
                _told(self.ray.available_resources()),
            )  # fmt: skip

    def last_lines(self, part: Part) -> list[str]:
        """See `Engine.last_lines`."""
        return self._logs.last_lines([part.rank_name(rank) for rank in range(part.ranks)])

    def close(self) -> None:
        """See `Engine.close`."""
        for name in list(self._actors):
            self.forget(name)
        self._logs.close()
        self.ray.shutdown()


def _told(resources: Mapping[str, float]) -> str:
    kinds = ("CPU", "GPU")
    return ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in kinds)


def _send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
