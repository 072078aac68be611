"""What a process of a run does: everything, or one part of it beside other processes."""

from dataclasses import dataclass

from remdm.registry import unknown_name_message


@dataclass(frozen=True, slots=True)
class Role:
    """The part of a run that one process plays.

    Attributes:
        name: As typed after `--mode`.
        collects: Acts in environments and writes shards.
        labels: Asks the oracle for plans and writes label files.
        learns: Owns the dataset, trains, publishes and saves.
        validates: Plays the validation levels and keeps the best weights.
        index: Which of several processes of this role it is; None takes the lowest free number.
    """

    name: str
    collects: bool = False
    labels: bool = False
    learns: bool = False
    validates: bool = False
    index: int | None = None

    @property
    def alone(self) -> bool:
        """Whether this process does everything that the run needs."""
        return self.name == "both"


_ROLES = (
    Role("both", collects=True, labels=True, learns=True, validates=True),
    Role("collect", collects=True),
    Role("label", labels=True),
    Role("learn", learns=True),
    Role("validate", validates=True),
)
MODES = tuple(role.name for role in _ROLES)
BOTH = _ROLES[0]
# Roles that any number of processes can play.
NUMBERED = ("collect", "label")


def role_of(mode: str, index: int | None = None) -> Role:
    """The role that `--mode` and `--index` name.

    Raises:
        ValueError: If there is no such mode, or it has no numbers.
    """
    if mode not in MODES:
        raise ValueError(unknown_name_message("--mode", mode, MODES))
    role = _ROLES[MODES.index(mode)]
    if index is None:
        return role
    if mode not in NUMBERED or index < 0:
        raise ValueError(
            f"--index must be at least 0 and goes with --mode {' or '.join(NUMBERED)}, of which "
            f"there can be several; got --index {index} with --mode {mode}"
        )
    return Role(role.name, role.collects, role.labels, role.learns, role.validates, index)
