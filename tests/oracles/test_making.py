import gin
import pytest

from remdm.maps import NUM_ACTIONS, NUM_DIRECTIONS
from remdm.oracles.contract import Oracle
from remdm.oracles.making import ORACLES, make_oracle


def test_all_oracles_are_made_by_name_and_know_it():
    for name in ("cue", "memory", "random", "seed", "tours"):
        oracle = make_oracle(name)
        assert isinstance(oracle, Oracle)
        assert oracle.name == name
        assert oracle.version >= 1
    # An expert needs one that is trained: tests/experts/test_advised.py.
    assert ORACLES.names() == ["cue", "expert", "memory", "random", "seed", "tours"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown oracle 'memroy': did you mean 'memory'\?"):
        make_oracle("memroy")


def test_keyword_arguments_win_over_gin():
    assert make_oracle("random").num_choices == NUM_DIRECTIONS
    gin.parse_config("RandomPolicy.moves_only = False")
    assert make_oracle("random").num_choices == NUM_ACTIONS
    assert make_oracle("random", moves_only=True).num_choices == NUM_DIRECTIONS
