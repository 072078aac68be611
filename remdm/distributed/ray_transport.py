"""A collector without the run folder: shards and weights travel through Ray's object store."""

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from remdm.data.atomic_file import atomic_file
from remdm.data.shards import Shard
from remdm.distributed.lease import LeaseHeld, LeaseLost
from remdm.distributed.ownership import TTL_SECONDS
from remdm.distributed.parcels import ParcelError, packed, unpack
from remdm.distributed.published_files import (
    LATEST_FILE,
    latest_text,
    versions_in,
    weights_name,
)
from remdm.distributed.ray_hub import Enlisted, Hub, NotEnlisted, Taken
from remdm.distributed.standing import Standing
from remdm.distributed.transport import Transport

logger = logging.getLogger(__name__)

# A hub that says nothing for so long, while Ray starts it again if need be, has gone for good.
ANSWER_SECONDS = 300.0
_VERSIONS_KEPT = 2
# Calls that a hub answers side by side.
_CALLS = 16


def make_hub(run: Path, dataset: Path, node: str, ttl_seconds: float = TTL_SECONDS) -> Any:
    """Start the hub of a run; its handle.

    Args:
        run: Folder of the run on that machine.
        dataset: Folder of its shards there.
        node: Ray's id of the machine.
        ttl_seconds: After so long without a sign of life a collector has gone.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    kind = ray.remote(Hub).options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_CALLS,
        scheduling_strategy=there,
    )
    return kind.remote(str(run.absolute()), str(dataset.absolute()), ttl_seconds)


class RayTransport(Transport):
    """Keeps in a folder of its own what a collector reads and writes."""

    def __init__(
        self, hub: Any, scratch: Path, holder: str, *, ttl_seconds: float = TTL_SECONDS
    ) -> None:
        """Nothing is sent yet.

        Args:
            hub: From `make_hub`.
            scratch: Folder for this collector alone, on its own disk.
            holder: A name that only this collector has, and its next start if this one dies.
            ttl_seconds: As the hub's.
        """
        self.outbox, self.weights_folder = scratch / "outbox", scratch / "latest"
        self._hub, self._scratch, self._holder = hub, scratch, holder
        self._ttl_seconds = ttl_seconds
        self._version: int | None = None
        self._enlisted: Enlisted | None = None
        self._again = threading.Lock()
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="remdm-collector", daemon=True)

    def enlist(self, index: int | None) -> int:
        """See `Transport.enlist`. What was not delivered by an earlier start counts for nothing."""
        for folder in (self.outbox, self.weights_folder, self._scratch / "newest"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        seen: Taken | None = None
        while True:
            answer = self._ask("enlist", index, self._holder)
            if isinstance(answer, Enlisted):
                break
            if seen is not None and answer.signs > seen.signs:
                raise LeaseHeld(
                    f"collector {index} must be one process at a time, and {answer.holder!r} is "
                    "it, and alive; give this one another --index, or stop that one"
                )
            seen = seen or answer
            time.sleep(self._ttl_seconds / 20)
        self._enlisted = answer
        if answer.used_name is not None:
            # An empty file, so that no shard gets this name again.
            (self.outbox / Path(answer.used_name).name).touch()
        self._heart.start()
        return answer.number

    def check(self) -> None:
        """See `Transport.check`."""
        self._ask_as_member("check")

    def newest_shard(self) -> Shard | None:
        """See `Transport.newest_shard`; it is a copy."""
        parcel = self._ask_as_member("newest_shard")
        if parcel is None:
            return None
        path = self._scratch / "newest" / Path(parcel.name).name
        unpack(parcel, path, f"the shard {path.name}")
        return Shard.open(path, verify_data=True)

    def deliver(self, shard: Path) -> None:
        """See `Transport.deliver`; it is removed here."""
        self._ask_as_member("deliver", packed(shard))
        shard.unlink()

    def fetch_weights(self) -> None:
        """See `Transport.fetch_weights`."""
        found = self._ask("weights", self._version)
        if found is None:
            return
        latest, parcel = found
        path = self.weights_folder / weights_name(latest.version)
        path.unlink(missing_ok=True)  # of an attempt that came no further
        try:
            unpack(parcel, path, f"version {latest.version} of the weights")
        except (ParcelError, ConnectionError) as error:
            logger.warning("%s; the weights from before stay", error)
            return
        with atomic_file(self.weights_folder / LATEST_FILE, "what the newest weights are") as file:
            file.write(latest_text(latest).encode("ascii"))
        self._version = latest.version
        for version in versions_in(self.weights_folder)[:-_VERSIONS_KEPT]:
            (self.weights_folder / weights_name(version)).unlink(missing_ok=True)

    def standing(self) -> Standing:
        """See `Transport.standing`."""
        standing: Standing = self._ask("standing")
        return standing

    def close(self) -> None:
        """See `Transport.close`."""
        if self._enlisted is None or self._left.is_set():
            return
        self._left.set()
        self._heart.join(self._ttl_seconds)
        try:
            self._ask("leave", self._enlisted.number, self._enlisted.generation)
        except OSError as error:
            logger.warning("collector %d could not say that it leaves: %s", self._number, error)

    @property
    def _number(self) -> int:
        return self._member.number

    @property
    def _member(self) -> Enlisted:
        assert self._enlisted is not None, "enlist comes first"
        return self._enlisted

    def _ask_as_member(self, method: str, *arguments: Any) -> Any:
        """Call the hub in the name of this collector."""
        member = self._member
        try:
            return self._ask(method, member.number, member.generation, *arguments)
        except NotEnlisted:
            self._enlist_again(member)
        member = self._member
        return self._ask(method, member.number, member.generation, *arguments)

    def _enlist_again(self, member: Enlisted) -> None:
        with self._again:  # the heart asks as well
            if self._enlisted is member:
                self._enlisted = self._ask(
                    "enlist_again", member.number, member.generation, self._holder
                )

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the hub; its errors are raised as if they were made here.

        Raises:
            ConnectionError: If there is no hub any more.
        """
        import ray

        try:
            return ray.get(getattr(self._hub, method).remote(*arguments), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise type(cause)(*cause.args) from None
        except ray.exceptions.RayError as error:
            raise ConnectionError(f"the learner's machine does not answer: {error}") from error

    def _beat(self) -> None:
        """Give signs of life until this collector leaves or is replaced."""
        while not self._left.wait(self._ttl_seconds / 3):
            try:
                self.check()
            except OSError as error:
                logger.warning("no sign of life could be given: %s", error)
            except LeaseLost:
                return  # the loop finds out by itself
