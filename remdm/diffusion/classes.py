"""The one place where a denoiser's output classes and plan tokens are translated.

A denoiser never predicts MASK (the SUBS parametrisation of MDLM, arXiv 2406.07524, with the
logit of MASK fixed at minus infinity), so its head has `num_actions + 1` classes: the actions,
then END. Tokens have MASK in between.
"""

from torch import Tensor

# A logit below it says that the net can never answer with that class: nets without an END have a
# finite stand-in for minus infinity, which can be multiplied by 0.
NEVER_LOGIT = -1e8


def num_classes(num_actions: int) -> int:
    """Width of a denoiser's head: the actions and END."""
    return num_actions + 1


def end_class(num_actions: int) -> int:
    """The class that stands for END."""
    return num_actions


def tokens_to_classes(tokens: Tensor, num_actions: int) -> Tensor:
    """Class of each token; MASK, which has none, gives END's so that it can index a table.

    Args:
        tokens: int64 [...].
        num_actions: Size of the action set.

    Returns:
        int64 [...] in `0 .. num_actions`.
    """
    return tokens.clamp(0, num_actions)


def classes_to_tokens(classes: Tensor, num_actions: int) -> Tensor:
    """Token of each class: actions stay, class `num_actions` becomes END.

    Args:
        classes: int64 [...] in `0 .. num_actions`.
        num_actions: Size of the action set.

    Returns:
        int64 [...]; never MASK.
    """
    return classes + (classes == num_actions)
