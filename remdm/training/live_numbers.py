"""Which numbers of an object can change while it lives: those that are read at every use.

Most arguments are read once, when something is made, and what follows from them stays. What is
named here is not, so that a schedule of it takes effect. Tests compare a run that has a schedule
with one that has the number bound, for all entries but four factors of auxiliary losses. A class of
one's own says the same in an attribute:

    class Patience(Objective):
        live_numbers = {"share": SHARE}
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """What a number may be.

    Attributes:
        least: Lowest value.
        most: Highest value.
        above: Whether it has to be above `least`.
        below: Whether it has to be below `most`.
        whole: Whether it has to be an integer.
    """

    least: float = float("-inf")
    most: float = float("inf")
    above: bool = False
    below: bool = False
    whole: bool = False

    def hold(self, value: float) -> bool:
        """Whether `value` is finite and may be."""
        if self.whole and value % 1:
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return low and high and abs(value) < float("inf")

    def __str__(self) -> str:
        """What must hold, for people."""
        kind = "a whole number" if self.whole else "a number"
        if self.least == float("-inf") and self.most == float("inf"):
            return kind
        if self.most == float("inf"):
            return f"{kind} {'above' if self.above else 'of at least'} {self.least:g}"
        ends = "(" if self.above else "[", ")" if self.below else "]"
        return f"{kind} in {ends[0]}{self.least:g}, {self.most:g}{ends[1]}"


SHARE = Bounds(0.0, 1.0)
LESS_THAN_ALL = Bounds(0.0, 1.0, below=True)
SOME = Bounds(0.0, 1.0, above=True)
AT_LEAST_0 = Bounds(0.0)
ABOVE_0 = Bounds(0.0, above=True)


# When a number is read: also while training, only while collecting, or by whoever plans then.
ALWAYS, COLLECTING, ACTING = "always", "collecting", "acting"


class Live(NamedTuple):
    """A number that is read at every use.

    Attributes:
        bounds: What it may be.
        use: `ALWAYS`, `COLLECTING` or `ACTING`.
        needs: What must be so that it is read at all, for people; "" for nothing.
        read: Whether an object reads it.
    """

    bounds: Bounds
    use: str = ALWAYS
    needs: str = ""
    read: Callable[[Any], bool] = lambda owner: True


def _acting(**bounds: Bounds) -> dict[str, Live]:
    return {name: Live(bound, ACTING) for name, bound in bounds.items()}


def _collecting(**bounds: Bounds) -> dict[str, Live]:
    return {name: Live(bound, COLLECTING) for name, bound in bounds.items()}


def _of_weighting(bounds: Bounds, *weightings: str) -> Live:
    needs = f"MaskedLoss.weighting {' or '.join(map(repr, weightings))}"
    return Live(bounds, ALWAYS, needs, lambda loss: loss.weighting in weightings)


def _if_not_0(name: str) -> Live:
    """A weight of what is only made where the weight is bound to something."""
    needs = f"a bound value other than 0, so that what {name} weighs is made"
    return Live(AT_LEAST_0, ALWAYS, needs, lambda owner: bool(getattr(owner, name)))


_ALIGNED = Live(
    SHARE,
    ALWAYS,
    "DiffusionPlannerAgent.inpaint_anchor 'aligned'",
    lambda agent: agent.inpaint_anchor == "aligned",
)
_GLOBAL = Live(
    AT_LEAST_0,
    ALWAYS,
    "a net with a global stream, and a bound value other than 0",
    lambda net: net.global_stream is not None and bool(net.goal_loss_weight),
)
_DRAWN_SINGLY = Live(
    Bounds(1, whole=True),
    ALWAYS,
    "windows that are drawn on their own",
    lambda run: run.dataset.stretch_steps is None,
)
_SOFT = {"soft_target_weight": _if_not_0("soft_target_weight")}
_ETA = _acting(eta=SHARE)

# Numbers that the trainers of `Experiment` hold; see `AgentTrainer.retune`.
OF_TRAINERS = {
    "learning_rate": Live(AT_LEAST_0),
    "lr_final_fraction": Live(SHARE),
    "l2_coeff": Live(AT_LEAST_0),
    "grad_clip": Live(ABOVE_0),
    "ema_decay": Live(LESS_THAN_ALL),
}

# Those of the package, by class and argument.
LIVE: Mapping[str, Mapping[str, Live]] = {
    "ExperimentSettings": {
        "batch_size": _DRAWN_SINGLY,
        **_collecting(oracle_noise=SHARE),
        **OF_TRAINERS,
    },
    "ConstantBeta": _collecting(value=SHARE),
    "EpsilonPlans": _collecting(last=SHARE),
    "EpsilonActions": _collecting(last=SHARE),
    "HotPlans": _collecting(last=ABOVE_0),
    "Pairing": _collecting(efficiency_multiplier=ABOVE_0),
    "WinRateCurriculum": _collecting(
        low_weight=ABOVE_0, middle_weight=ABOVE_0, high_weight=ABOVE_0
    ),
    "MemoryAugmentation": {
        name: Live(SHARE)
        for name in (
            "explore_probability",
            "stitch_share",
            "close_probability",
            "flip_probability",
            "lock_probability",
            "exhaust_probability",
            "obstruct_probability",
        )
    },
    "DiffusionPlannerAgent": {
        "aligned_share": _ALIGNED,
        "condition_dropout": Live(LESS_THAN_ALL),
        **_SOFT,
    },
    "AutoregressiveAgent": _acting(temperature=ABOVE_0),
    "PolicyAgent": {
        "label_smoothing": Live(LESS_THAN_ALL),
        **_SOFT,
        **_acting(temperature=ABOVE_0),
    },
    "CategoricalHead": {
        "label_smoothing": Live(LESS_THAN_ALL),
        **_acting(temperature=ABOVE_0),
    },
    "MaskedLoss": {
        "tail_weight": Live(AT_LEAST_0),
        "label_smoothing": Live(LESS_THAN_ALL),
        "weight_clip": _of_weighting(ABOVE_0, "elbo", "subs"),
        "focal_scale": _of_weighting(ABOVE_0, "mgdm"),
        "focal_power": _of_weighting(Bounds(1.0), "mgdm"),
    },
    "BernoulliMasking": {"min_rate": Live(LESS_THAN_ALL)},
    "Decoder": _acting(temperature=ABOVE_0, top_p=SOME),
    "EntropyBoundReveal": _acting(gamma=AT_LEAST_0),
    "ThresholdReveal": _acting(tau=SHARE),
    "SeedCountReveal": _acting(min_share=SHARE),
    "NoisyOrder": _acting(scale=AT_LEAST_0),
    "CapRemask": _ETA,
    "RescaleRemask": _ETA,
    "ConfRemask": _ETA,
    "SeedRemask": _ETA,
    "FadingRemask": _ETA,
    "PathRemask": _ETA,
    "BudgetedConfRemask": _ETA | _acting(temperature=ABOVE_0),
    "Guidance": _acting(scale=AT_LEAST_0),
    "WarmStart": _acting(time=SOME, gate=LESS_THAN_ALL),
    "DualStreamDenoiser": {"goal_loss_weight": _GLOBAL},
    "ReachEncoder": {name: _if_not_0(name) for name in ("way_loss_weight", "end_loss_weight")},
}


def live_numbers(kind: type) -> dict[str, Live]:
    """The numbers of a class, and of its bases, that are read at every use, by argument."""
    found: dict[str, Live] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "remdm":
            found |= LIVE.get(base.__name__, {})
        own = base.__dict__.get("live_numbers", {})
        bounds = own if isinstance(own, Mapping) else dict.fromkeys(own, Bounds())
        found |= {name: Live(bound) for name, bound in bounds.items()}
    return found
