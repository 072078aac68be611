import pytest

from remdm.training.setting_values import resume_point, whole_steps


@pytest.mark.parametrize("value", ["auto", "must", "never", 0, 12])
def test_words_and_numbers_say_where_a_run_goes_on(value: str | int) -> None:
    assert resume_point(value) == value


def test_a_number_may_be_typed() -> None:
    assert resume_point("12") == 12
    assert resume_point("012") == 12


@pytest.mark.parametrize("value", ["autoo", "", "-1", -1, "1.5", 1.5, True, None, "\u0661"])
def test_anything_else_is_refused_with_what_there_is(value: str | int) -> None:
    with pytest.raises(ValueError, match=r"Experiment.resume .*auto, must, never, a number of"):
        resume_point(value)


def test_steps_may_be_written_as_floats_that_are_whole() -> None:
    assert whole_steps("total_timesteps", 1e8) == 100_000_000
    assert whole_steps("total_timesteps", None) is None
    with pytest.raises(ValueError, match=r"whole number of env steps, got 1.5; set Experiment"):
        whole_steps("total_timesteps", 1.5)
