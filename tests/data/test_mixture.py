import numpy as np
import pytest

from remdm.data.datasets import DoNothingDataset, MixtureOfDatasets
from tests.data.recorded import HORIZON, TraceOracle, filled, piece, put_shard, traces


def test_a_mixture_draws_from_its_parts_by_weight(tmp_path):
    parts = [filled(tmp_path / "1", 1, env="b"), filled(tmp_path / "2", 2, env="a")]
    mixture = MixtureOfDatasets(parts, sampling_weights=[3, 1])
    assert mixture.ready_for_training
    assert mixture.save_new_trajs_to == parts[0].folder.shards
    assert mixture.env_names == ("a", "b")
    window = mixture.sample(10_000, np.random.default_rng(0))
    seeds = window.observations["trace"][:, 0]
    # Seed 1 is environment "b", which is number 1 of the mixture; seed 2 is "a".
    np.testing.assert_array_equal(window.env_ids, 2 - seeds)
    # Six standard deviations of a binomial: exceeded with probability 2e-9.
    assert abs((seeds == 1).mean() - 0.75) < 6 * np.sqrt(0.75 * 0.25 / 10_000)
    np.testing.assert_array_equal(
        window.plans, TraceOracle().label(window.observations, HORIZON)[0]
    )


def test_a_mixture_has_past_actions_when_all_of_its_parts_have(tmp_path):
    parts = [filled(tmp_path / "1", 1), filled(tmp_path / "2", 2)]
    for part, count in zip(parts, (2, 0), strict=True):
        part.configure(HORIZON, oracle=TraceOracle(), past_actions=count)
        part.refresh()
    mixture = MixtureOfDatasets(parts)
    assert mixture.sample(40, np.random.default_rng(0)).past is None
    parts[1].configure(HORIZON, oracle=TraceOracle(), past_actions=2)
    parts[1].refresh()
    window = mixture.sample(40, np.random.default_rng(0))
    # Step n of level s took action (s + n) % 3; MASK is 3.
    seed, step = window.observations["trace"].T
    for back in (1, 2):
        wanted = np.where(step >= back, (seed + step - back) % 3, 3)
        np.testing.assert_array_equal(window.past[:, back - 1], wanted)


def test_a_mixture_passes_everything_on(tmp_path):
    parts = [filled(tmp_path / "1", 1), filled(tmp_path / "2", 2)]
    mixture = MixtureOfDatasets(parts)
    state = mixture.state()
    put_shard(parts[1].folder.shards, [piece("a", 3, 0, 10)], epoch=3)
    assert mixture.label_new(TraceOracle(), HORIZON) == 10
    assert mixture.on_end_of_collection(None)["1/buffer/timesteps"] == 20
    assert traces(mixture) == {1, 2, 3}
    mixture.restore(state)
    assert traces(mixture) == {1, 2}
    assert "50%" in mixture.get_description()
    mixture.delete()
    assert not parts[0].ready_for_training


def test_a_mixture_waits_for_the_parts_it_draws_from(tmp_path):
    parts = [filled(tmp_path / "1", 1), DoNothingDataset()]
    assert not MixtureOfDatasets(parts).ready_for_training
    mixture = MixtureOfDatasets(parts, sampling_weights=[1, 0])
    assert mixture.ready_for_training
    assert traces(mixture) == {1}


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_of_a_mixture_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match=r"MixtureOfDatasets\.sampling_weights must be"):
        MixtureOfDatasets([DoNothingDataset(), DoNothingDataset()], sampling_weights=weights)


def test_no_data_is_never_ready(tmp_path):
    data = DoNothingDataset(str(tmp_path), "run")
    assert data.save_new_trajs_to is None
    assert not data.ready_for_training
    assert data.on_end_of_collection(None) == data.state() == {}
    with pytest.raises(RuntimeError, match="DoNothingDataset has nothing to draw from"):
        data.sample(1, np.random.default_rng(0))
