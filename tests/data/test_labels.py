import numpy as np
import pytest

from remdm.data.labels import LabelIdentity, Labels, label_shard, write_labels
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from tests.data.recorded import ACTIONS, END, HORIZON, TraceOracle, piece, put_shard


class Counting(TraceOracle):
    """Remembers how many steps it was asked about at once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def label(self, observations, plan_horizon):
        self.calls.append(len(observations["step"]))
        return super().label(observations, plan_horizon)


class Wrong(TraceOracle):
    def __init__(self, plans, weights) -> None:
        super().__init__()
        self.answer = plans, weights

    def label(self, observations, plan_horizon):
        return self.answer


@pytest.fixture
def shard(tmp_path):
    path = put_shard(tmp_path / "shards", [piece("a", 3, 0, 7), piece("b", 4, 2, 5, won=None)])
    return Shard.open(path)


def test_labels_come_back_and_belong_to_their_shard(tmp_path, shard):
    oracle = TraceOracle()
    labels = Labels.open(label_shard(shard, oracle, HORIZON, tmp_path / "labels"), verify_data=True)
    plans, weights = oracle.label(shard.steps.observations, HORIZON)
    np.testing.assert_array_equal(labels.plans, plans)
    np.testing.assert_array_equal(labels.weights, weights)
    assert labels.identity == LabelIdentity("trace", 1, HORIZON)
    assert labels.belongs_to(shard)
    assert labels.path.name == shard.path.name


def test_labels_do_not_belong_to_another_shard_of_the_same_name(tmp_path, shard):
    labels = Labels.open(label_shard(shard, TraceOracle(), HORIZON, tmp_path / "labels"))
    other = Shard.open(put_shard(tmp_path / "other", [piece("a", 9, 0, 12)]))
    assert other.path.name == shard.path.name
    assert not labels.belongs_to(other)


def test_labelling_in_parts_changes_nothing(tmp_path, shard):
    oracle = Counting()
    label_shard(shard, oracle, HORIZON, tmp_path / "whole")
    label_shard(shard, oracle, HORIZON, tmp_path / "parts", chunk_steps=5)
    assert oracle.calls == [12, 5, 5, 2]
    whole, parts = (Labels.open(tmp_path / n / shard.path.name) for n in ("whole", "parts"))
    assert whole.checksum == parts.checksum


@pytest.mark.parametrize(
    ("plan", "weight", "complaint"),
    [
        ([0, END, 1, END], 1.0, "to the last position; at step 0"),
        ([0, len(ACTIONS), END, END], 1.0, "actions in 0..2"),
        ([0, -1, END, END], 1.0, "actions in 0..2"),
        ([0, 1, END], 1.0, r"plans \(12, 4\) .* gave int8 \(12, 3\)"),
        ([0, 1, 2, END], -1.0, "finite and not negative"),
        ([0, 1, 2, END], np.nan, "finite and not negative"),
    ],
    ids=["reopened", "mask", "negative", "short", "weight", "nan"],
)
def test_an_oracle_that_breaks_its_contract_is_named(tmp_path, shard, plan, weight, complaint):
    plans = np.tile(np.array(plan, np.int8), (12, 1))
    oracle = Wrong(plans, np.full(12, weight, np.float32))
    with pytest.raises(ValueError, match=complaint) as caught:
        label_shard(shard, oracle, HORIZON, tmp_path / "labels")
    assert "'trace'" in str(caught.value)
    assert not list(tmp_path.glob("labels/*"))


def test_wrong_dtypes_are_named(tmp_path, shard):
    oracle = Wrong(np.zeros((12, HORIZON), np.int64), np.ones(12, np.float32))
    with pytest.raises(ValueError, match=r"must be int8 plans .* 'trace' gave int64"):
        label_shard(shard, oracle, HORIZON, tmp_path)


def test_a_shard_is_no_label_file(shard):
    with pytest.raises(DamagedFileError, match="it holds a shard"):
        Labels.open(shard.path)


def test_new_labels_take_the_place_of_old_ones_while_those_are_read(tmp_path):
    def write(token: int) -> None:
        plans = np.full((3, HORIZON), token, np.int8)
        write_labels(
            tmp_path / "x", plans, np.ones(3, np.float32), "o", token, ACTIONS, shard_checksum=""
        )

    write(1)
    old = Labels.open(tmp_path / "x")
    write(2)
    assert (old.plans == 1).all()
    assert (Labels.open(tmp_path / "x").plans == 2).all()
