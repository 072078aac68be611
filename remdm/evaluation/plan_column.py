"""A plan as a list of lines, one per token, for actions that are no moves on a map."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from remdm.evaluation.recording import Recording
from remdm.tokens import end_token, mask_token


class When(Enum):
    """When a token of a plan is carried out."""

    DONE = "done"
    NEXT = "next"
    SOON = "soon"  # before the next plan is made
    LATER = "later"  # only if the next plan says so too


class PlanLine(NamedTuple):
    """One token of a plan, in words."""

    text: str
    when: When


def token_words(token: int, action_names: Sequence[str]) -> str:
    """A token in words: "place stone", "END", "(open)" for MASK."""
    if token == end_token(len(action_names)):
        return "END"
    if token == mask_token(len(action_names)):
        return "(open)"
    return action_names[token].lower().replace("_", " ")


def plan_lines(recording: Recording, index: int) -> list[PlanLine]:
    """The plan that was being followed at a moment, up to its first END.

    Args:
        recording: The episode.
        index: Which of its moments; the last one has no plan and no lines.
    """
    if index >= recording.num_steps:
        return []
    moment = recording.moments[index]
    first = index
    while first > 0 and recording.moments[first - 1].plan_index == moment.plan_index:
        first -= 1
    whole = recording.moments[first].plan
    done = len(whole) - len(moment.plan)
    lines = []
    for place, token in enumerate(whole.tolist()):
        when = When.LATER
        if place < done:
            when = When.DONE
        elif place == done:
            when = When.NEXT
        elif place < done + moment.committed:
            when = When.SOON
        lines.append(PlanLine(token_words(token, recording.action_names), when))
        if token == end_token(len(recording.action_names)):
            break
    return lines
