import shlex

import pytest

from remdm.distributed.restarting import going_on


@pytest.mark.parametrize(
    ("typed", "going"),
    [
        ("train --resume 12 --seed 3", "train --resume auto --seed 3"),
        ("train --resume=12", "train --resume=auto"),
        ("--bind 'Experiment.resume = 12'", "--bind 'Experiment.resume = '\"'\"'auto'\"'\"''"),
        ("--bind=Experiment.resume=12", "--bind='Experiment.resume= '\"'\"'auto'\"'\"''"),
        ("train --resume must --seed 12", "train --resume must --seed 12"),
        ("--bind 'Experiment.epochs = 12'", "--bind 'Experiment.epochs = 12'"),
        ("12", "12"),
        ("", ""),
    ],
)
def test_a_command_that_went_back_goes_on_the_next_time(typed: str, going: str) -> None:
    assert going_on(shlex.split(typed)) == shlex.split(going)
