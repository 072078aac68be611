"""The kinds of files that remdm reads: how a good one is made, how it is read, what it holds."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from remdm.data.batch import Window
from remdm.data.contents import WindowContents
from remdm.data.folder import DatasetFolder
from remdm.data.labels import Labels, label_shard
from remdm.data.manifest import load_manifest
from remdm.data.sampling import WindowIndex
from remdm.data.shard_windows import WindowRules, shard_windows
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from remdm.experts.checkpoint import POLICY_FILE, expert_facts
from remdm.experts.torch_policy import TorchExpert
from remdm.training.checkpoint import (
    STATE_FILE,
    CheckpointError,
    list_checkpoints,
    load_into,
    load_plain,
    load_weights,
    read_state,
    save_plain,
    save_weights,
    write_checkpoint,
)
from remdm.training.progress import Progress
from remdm.training.run_folder import RunFolder, find_checkpoint
from remdm.training.tracking import JsonlLog
from remdm.training.whole_state import check_facts, newest_checkpoint
from tests.data.recorded import (
    ACTIONS,
    HORIZON,
    TraceOracle,
    as_version_1,
    dataset,
    piece,
    put_shard,
    traces,
)
from tests.faults.mutations import (
    ARCHIVE_LIES,
    CONTENT_LIES,
    DAMAGES,
    HEADER_LIES,
    Mutator,
    json_lie,
    sealed,
)

RUN, DATA = "run", "data"
CHECKPOINT = f"{RUN}/ckpts/epoch_000003"
# The first one was evicted, and has a tombstone.
SHARD = f"{DATA}/buffer/shards/e000000-main-000000-12.safetensors"
NEWEST_SHARD = SHARD.replace("e000000", "e000001")
# Of the first version of the format.
OLD_SHARD = SHARD.replace("shards", "old")


class Never(Exception):
    """What a reader raises that refuses nothing."""


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: Of the kind.
        place: Path of the file below the folder that `make_originals` fills.
        refusal: What its readers raise for a file that they refuse.
        read: Reads the file by all readers there are, and returns its contents as plain values.
        use: Does with a file that could be read what the package does with it.
        damages: What is done to its bytes. A sum finds it where there is one.
        lies: What is done to its contents, with right sums, so that something else may be read.
        summed: Whether a sum protects all that is read.
    """

    name: str
    place: str
    refusal: type[Exception]
    read: Callable[[Path], Any]
    use: Callable[[Path], None]
    damages: tuple[Mutator, ...]
    lies: tuple[Mutator, ...]
    summed: bool


def plain(value: Any) -> Any:
    """Values that are equal if and only if the contents are, NaN included."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.stride(), _tensor_bytes(value)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return repr(value)


def _tensor_bytes(value: torch.Tensor) -> bytes:
    # Of its storage: a tensor that claims to be larger than it is stays small here.
    return bytes(value.untyped_storage().tolist())


# Shards and labels


def read_shard(path: Path) -> Any:
    quick, whole = Shard.open(path), Shard.open(path, verify_data=True)
    assert plain(quick.steps.named()) == plain(whole.steps.named())
    assert whole.env_steps.keys() == {s.env for s in whole.segments}
    facts = [asdict(s) for s in whole.segments]
    arrays = [whole.offsets, whole.steps.named(), whole.state]
    return plain([whole.action_names, facts, arrays, whole.checksum])


def draw_from_shard(path: Path) -> None:
    draw(Shard.open(path, verify_data=True), None)


def draw(shard: Shard, labels: Labels | None) -> Window:
    """Windows of one shard, with everything there is in them."""
    horizon = HORIZON if labels is None else labels.identity.plan_horizon
    target, contents = "executed" if labels is None else "plan", WindowContents(None, 2, 0, None)
    rules = WindowRules(horizon, target, "ended", 2.0, contents)
    part = shard_windows(shard, labels, rules, tuple(shard.steps.observations))
    index = WindowIndex([part], balance="env")
    if not index.num_windows:
        return Window({}, np.zeros((0, horizon), np.int8), np.zeros(0), np.zeros(0))
    window = index.sample(8, np.random.default_rng(0))
    assert len(window.plans) == 8
    return window


def read_labels(path: Path) -> Any:
    quick, whole = Labels.open(path), Labels.open(path, verify_data=True)
    assert plain(quick.plans) == plain(whole.plans)
    identity = asdict(whole.identity)
    return plain(
        [identity, whole.shard_checksum, whole.plans, whole.weights, whole.checksum, whole.nbytes]
    )


def draw_with_labels(path: Path) -> None:
    labels = Labels.open(path, verify_data=True)
    shard = Shard.open(path.parent.parent / "shards" / path.name)
    if labels.belongs_to(shard):
        window = draw(shard, labels)
        assert window.plans.min(initial=0) >= 0
        assert window.plans.max(initial=0) <= len(ACTIONS) + 1
        assert (window.weights >= 0).all()


# Manifests


def read_manifest(path: Path) -> Any:
    generation = int(path.stem.removeprefix("manifest-"))
    return plain(load_manifest(DatasetFolder(path.parent), generation).to_json())


def scan_after_manifest(path: Path) -> None:
    """Go on with a dataset whose newest manifest is this one; nothing of worth may go."""
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as root:
        shutil.copytree(path.parent, Path(root) / "buffer")
        outside = Path(root) / "escaped.safetensors"
        outside.write_bytes(b"not of the dataset")
        data = dataset(Path(root), dset_max_timesteps=20)
        data.refresh()
        assert {s.name for s in data.manifest.shards} == {Path(NEWEST_SHARD).name}
        assert traces(data, 50) == {1, 4, 9}
        assert data.folder.num_quarantined == 0
        assert outside.read_bytes() == b"not of the dataset"


# Checkpoints


def read_checkpoint_state(path: Path) -> Any:
    listed = list_checkpoints(path.parent.parent)
    assert set(listed) <= {path.parent}
    try:
        assert find_checkpoint(path.parent.parent.parent)[1] == path.parent
    except CheckpointError:
        assert not listed
    return plain(read_state(path.parent))


def go_on_from_checkpoint(path: Path) -> None:
    """Look for the newest checkpoint, and see whether it fits."""
    assert newest_checkpoint(path.parent.parent) == path.parent
    agents: Any = {"planner": SimpleNamespace(plan_horizon=HORIZON)}
    assert check_facts(path.parent, agents, ACTIONS)["plan_horizon"] == HORIZON


def nothing_more(path: Path) -> None:
    """All there is to do with such a file is to read it."""


def read_weights(path: Path) -> Any:
    return plain(load_weights(path))


def load_into_a_net(path: Path) -> None:
    net = torch.nn.Linear(5, 7)
    before = plain(net.state_dict())
    try:
        load_into(net, load_weights(path), path)
    except CheckpointError:
        assert plain(net.state_dict()) == before
        raise


def read_plain(path: Path) -> Any:
    values = load_plain(path)
    assert isinstance(values, dict)
    return plain(values)


def read_expert(path: Path) -> Any:
    return plain(expert_facts(path.parent))


def load_expert(path: Path) -> None:
    """Make the net; one of other facts than the weights are of is refused."""
    TorchExpert.load(path.parent)


def read_metrics(path: Path) -> Any:
    return plain(JsonlLog(path).read())


def read_policy(path: Path) -> Any:
    return plain(TorchExpert.load(path.parent).state_dict())


TENSOR_LIES = tuple(sealed(lie) for lie in (*HEADER_LIES, *CONTENT_LIES))
TARGETS = (
    Target(
        "shard", SHARD, DamagedFileError, read_shard, draw_from_shard,
        (*DAMAGES, *HEADER_LIES, *CONTENT_LIES), TENSOR_LIES, True,
    ),
    Target(
        "old shard", OLD_SHARD, DamagedFileError, read_shard, draw_from_shard,
        (*DAMAGES, *HEADER_LIES, *CONTENT_LIES), TENSOR_LIES, True,
    ),
    Target(
        "labels", SHARD.replace("shards", "labels"), DamagedFileError, read_labels,
        draw_with_labels, (*DAMAGES, *HEADER_LIES, *CONTENT_LIES), TENSOR_LIES, True,
    ),
    Target(
        "manifest", "data/buffer/manifest-000002.json", ValueError, read_manifest,
        scan_after_manifest, DAMAGES, (json_lie,), False,
    ),
    Target(
        "state", f"{CHECKPOINT}/{STATE_FILE}", CheckpointError, read_checkpoint_state,
        go_on_from_checkpoint, DAMAGES, (json_lie,), False,
    ),
    Target(
        "weights", f"{CHECKPOINT}/planner.safetensors", CheckpointError, read_weights,
        load_into_a_net, (*DAMAGES, *HEADER_LIES), tuple(map(sealed, HEADER_LIES)), True,
    ),
    Target(
        "unsummed weights", f"{CHECKPOINT}/older.safetensors", CheckpointError, read_weights,
        load_into_a_net, (*DAMAGES, *HEADER_LIES), HEADER_LIES, False,
    ),
    Target(
        "plain", f"{CHECKPOINT}/process_0.pt", CheckpointError, read_plain,
        nothing_more, DAMAGES, ARCHIVE_LIES, True,
    ),
    Target(
        "expert", f"expert/{STATE_FILE}", CheckpointError, read_expert,
        load_expert, DAMAGES, (json_lie,), False,
    ),
    Target(
        "policy", f"expert/{POLICY_FILE}", CheckpointError, read_policy,
        nothing_more, (*DAMAGES, *HEADER_LIES), tuple(map(sealed, HEADER_LIES)), True,
    ),
    Target(
        "metrics", f"{RUN}/metrics.jsonl", Never, read_metrics,
        nothing_more, DAMAGES, (), False,
    ),
)  # fmt: skip


def fill_expert(folder: Path) -> None:
    """The weights of an expert in torch, under the names of flax."""
    named = {}
    for number, layer in enumerate(TorchExpert("ppo", 5, 3, 8).layers):
        out, into = layer.weight.shape
        named[f"params/Dense_{number}/kernel"] = torch.arange(out * into).reshape(into, out) / 64
        named[f"params/Dense_{number}/bias"] = torch.arange(out) / 64
    save_weights(folder / POLICY_FILE, named)


def make_originals(root: Path) -> None:
    """Write one good file of each kind, where it would lie."""
    data = dataset(root / DATA, dset_max_timesteps=20)
    for epoch in range(2):
        pieces = [piece("a", epoch, 0, 5), piece("b", 4, 7, 4, won=None), piece("a", 9, 0, 3)]
        state = {"episodes": np.arange(3), "nothing": np.zeros(0, np.int8)}
        put_shard(data.folder.shards, pieces, epoch=epoch, state=state)
        data.label_new(TraceOracle(), HORIZON)
        data.refresh()
    weights = {"weight": torch.arange(35.0).reshape(7, 5), "bias": torch.arange(7.0)}
    progress = Progress(epoch=3, metrics={"won": float("nan")}).to_dict()

    def fill(folder: Path) -> None:
        save_weights(folder / "planner.safetensors", weights)
        (folder / "older.safetensors").write_bytes(save(weights))
        random = {"python": [3, list(range(625)), None], "torch": torch.arange(2500).byte()}
        collector = {"episodes": torch.arange(3), "history_actions": torch.ones(9).bool()}
        own = {"collector": collector, "random": random, "progress": progress}
        save_plain(folder / "process_0.pt", own)

    facts = {
        "remdm_version": "1.0",
        "progress": progress,
        "action_names": list(ACTIONS),
        "agents": {"planner": "DiffusionPlannerAgent"},
        "plan_horizon": HORIZON,
        "num_processes": 1,
        "dataset": json.loads(json.dumps(data.state())),
        "metrics_bytes": 0,
    }
    place = root / CHECKPOINT
    write_checkpoint(place.parent, place.name, facts, fill)
    RunFolder(root / RUN).config.touch()
    expert = {"kind": "expert", "algorithm": "ppo", "env_name": "Craftax", "width": 8}
    write_checkpoint(root, "expert", expert, fill_expert)
    log = JsonlLog(root / RUN / "metrics.jsonl")
    for epoch in range(9):
        log.write({"epoch": epoch, "loss": 1 / (epoch + 3), "name": "x"})
    assert (root / SHARD).exists()
    (root / OLD_SHARD).parent.mkdir()
    shutil.copy(root / SHARD, root / OLD_SHARD)
    as_version_1(root / OLD_SHARD)
    shard = Shard.open(root / SHARD)
    assert label_shard(shard, TraceOracle(), HORIZON, root / "spare").exists()
