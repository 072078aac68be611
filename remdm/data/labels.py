"""Label files: for every step of a shard, the plan an oracle would have made there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from remdm.data.plain_json import counted, typed
from remdm.data.shard_checks import action_names_of
from remdm.data.shard_file import Shard, check_kind
from remdm.data.tensor_file import (
    DamagedFileError,
    StoredArrays,
    TensorFile,
    damage_if_wrong,
    write_tensor_file,
)
from remdm.tokens import end_token

LABEL_SCHEMA_VERSION = 1
CHUNK_STEPS = 65_536


class Labeller(Protocol):
    """The part of `remdm.oracles.contract.Oracle` that labelling needs."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102

    def label(  # noqa: D102
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class LabelIdentity:
    """Which labels these are; labels of different identities are never mixed.

    Attributes:
        oracle: Name of the oracle.
        version: Version of the oracle.
        plan_horizon: Tokens per plan.
    """

    oracle: str
    version: int
    plan_horizon: int


def identity_of(values: Mapping[str, Any]) -> LabelIdentity:
    """The identity that plain values tell.

    Raises:
        ValueError: If they tell none.
    """
    oracle, version = typed(values, "oracle", str), typed(values, "version", int)
    return _one_of_each(oracle, version, counted(values, "plan_horizon", least=1))


@lru_cache(maxsize=4096)
def _one_of_each(oracle: str, version: int, plan_horizon: int) -> LabelIdentity:
    """The same object for the same identity: thousands of files have it."""
    return LabelIdentity(oracle, version, plan_horizon)


@dataclass(slots=True, eq=False)
class Labels(StoredArrays):
    """A label file as read-only views of the mapped file.

    Attributes:
        file: The mapped file, without its metadata.
        identity: Who labelled, and how far ahead.
        shard_checksum: Checksum of the shard the labels belong to.
        num_actions: Number of actions that plans are made of.
        plans: int8 [T, plan_horizon]: actions, then END to the last position.
        weights: float32 [T]; 0 where the oracle has no plan.
    """

    file: TensorFile
    identity: LabelIdentity
    shard_checksum: str
    num_actions: int
    plans: np.ndarray
    weights: np.ndarray

    @classmethod
    def open(cls, path: str | Path, *, verify_data: bool = False) -> "Labels":
        """Map a label file.

        Args:
            path: The file.
            verify_data: Also read everything and compare checksums; see `verify`.

        Raises:
            DamagedFileError: If the file is torn, altered, or no label file of a readable version.
            FileNotFoundError: If there is none.
        """
        file = TensorFile.open(path)
        check_kind(file, "labels", (LABEL_SCHEMA_VERSION,))
        meta = file.metadata
        try:
            identity = identity_of(meta)
            shard_checksum = typed(meta, "shard_checksum", str)
            num_actions = len(action_names_of(meta))
            plans, weights = file.array("plans"), file.array("weights")
            _check_form(plans, weights, (len(weights), identity.plan_horizon), "the file")
        except ValueError as error:
            raise DamagedFileError(file.path, str(error)) from error
        file.drop_metadata()
        labels = cls(file, identity, shard_checksum, num_actions, plans, weights)
        if verify_data:
            labels.verify()
        return labels

    def verify(self) -> None:
        """Read everything, compare it with its checksum, and see that they are labels.

        Raises:
            DamagedFileError: If they are not, or not those that were written.
        """
        self.file.verify()
        with damage_if_wrong(self.path):
            for start in range(0, len(self.plans), CHUNK_STEPS):
                part = slice(start, start + CHUNK_STEPS)
                _check_values(self.plans[part], self.weights[part], "the file", self.num_actions)

    def belongs_to(self, shard: Shard) -> bool:
        """Whether these are labels of exactly this shard."""
        return self.shard_checksum == shard.checksum and len(self.plans) == shard.num_steps


def write_labels(
    path: Path,
    plans: np.ndarray,
    weights: np.ndarray,
    oracle: str,
    version: int,
    action_names: Sequence[str],
    *,
    shard_checksum: str,
) -> None:
    """Write a label file atomically, in place of any older one.

    Args:
        path: Final place; its folder must exist.
        plans: int8 [T, plan_horizon]: actions, then END to the last position.
        weights: float32 [T], finite and not negative.
        oracle: Name of the oracle.
        version: Version of the oracle.
        action_names: One name per action.
        shard_checksum: `Shard.checksum` of the shard that was labelled.

    Raises:
        ValueError: If plans or weights are not what they must be; names oracle and first step.
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    _check_form(plans, weights, plans.shape, f"oracle {oracle!r}")
    _check_values(plans, weights, f"oracle {oracle!r}", len(action_names))
    metadata = {
        "kind": "labels",
        "schema_version": LABEL_SCHEMA_VERSION,
        "oracle": oracle,
        "version": version,
        "plan_horizon": plans.shape[1],
        "action_names": list(action_names),
        "shard_checksum": shard_checksum,
    }
    tensors = {"plans": [plans], "weights": [weights]}
    write_tensor_file(path, tensors, metadata, f"labels of {len(plans)} steps")


def _check_form(plans: np.ndarray, weights: np.ndarray, shape: tuple[int, ...], who: str) -> None:
    fits = plans.dtype == np.int8 and plans.shape == shape and plans.ndim == 2
    if not fits or weights.dtype != np.float32 or weights.shape != shape[:1]:
        raise ValueError(
            f"labels must be int8 plans {shape} and float32 weights {shape[:1]}, {who} gave "
            f"{plans.dtype} {plans.shape} and {weights.dtype} {weights.shape}"
        )


def _check_values(plans: np.ndarray, weights: np.ndarray, who: str, num_actions: int) -> None:
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"label weights must be finite and not negative, {who} gave others")
    ended = plans == end_token(num_actions)
    known = (plans >= 0) & (plans < num_actions)
    reopened = np.zeros_like(ended)
    reopened[:, 1:] = ended[:, :-1] & ~ended[:, 1:]
    wrong = (~(ended | known) | reopened).any(1)
    if wrong.any():
        step = int(wrong.argmax())
        raise ValueError(
            f"a plan must be actions in 0..{num_actions - 1}, then END={end_token(num_actions)} to "
            f"the last position; at step {step} {who} gave {plans[step].tolist()}"
        )


def label_shard(
    shard: Shard,
    oracle: Labeller,
    plan_horizon: int,
    folder: Path,
    *,
    chunk_steps: int = CHUNK_STEPS,
) -> Path:
    """Ask the oracle for a plan at every step of a shard, and write the answers.

    Where the shard was deleted meanwhile, its labels are, too.

    Args:
        shard: What to label.
        oracle: Whom to ask.
        plan_horizon: Tokens per plan.
        folder: Where label files lie; made if missing.
        chunk_steps: Steps per call of the oracle; bounds its memory.

    Returns:
        The label file; it has the shard's file name.

    Raises:
        ValueError: If the oracle's answer is no valid label.
        OSError: If it cannot be written, e.g. because the disk is full.
    """
    plans = np.empty((shard.num_steps, plan_horizon), np.int8)
    weights = np.empty(shard.num_steps, np.float32)
    for start in range(0, shard.num_steps, chunk_steps):
        part = slice(start, start + chunk_steps)
        seen = {k: v[part] for k, v in shard.steps.observations.items()}
        answer = oracle.label(seen, plan_horizon)
        asked = (len(plans[part]), plan_horizon)
        who = f"oracle {oracle.name!r}"
        _check_form(*answer, asked, who)
        _check_values(*answer, who, len(shard.action_names))
        plans[part], weights[part] = answer
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / shard.path.name
    write_labels(
        path,
        plans,
        weights,
        oracle.name,
        oracle.version,
        shard.action_names,
        shard_checksum=shard.checksum,
    )
    # Whoever deletes a shard deletes its labels next; here they may have come too late for that.
    if not shard.path.exists():
        path.unlink(missing_ok=True)
    return path
