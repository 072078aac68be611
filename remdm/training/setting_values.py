"""Values of settings that can be written in several ways."""

from remdm.registry import unknown_name_message

RESUME_WORDS = ("auto", "must", "never")


def resume_point(value: str | int) -> str | int:
    """What `Experiment.resume` says: a word, or a number of epochs, also typed as text.

    Raises:
        ValueError: If it is neither.
    """
    if value in RESUME_WORDS or (type(value) is int and value >= 0):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    known = (*RESUME_WORDS, "a number of epochs")
    raise ValueError(unknown_name_message("Experiment.resume", str(value), known))


def whole_steps(name: str, value: float | None) -> int | None:
    """A count of env steps, also where it is written as 1e8.

    Args:
        name: Of the argument of `Experiment`.
        value: As given.

    Raises:
        ValueError: If it is no whole number.
    """
    if value is not None and value % 1:
        raise ValueError(
            f"{name} must be a whole number of env steps, got {value}; set Experiment.{name}."
        )
    return None if value is None else int(value)
