"""Numbers of a run that follow a schedule: where each of them is kept, and what it is now.

    Experiment.schedules = {
        "Experiment.oracle_noise": @noise/LinearRamp(),
        "Decoder.temperature": @cooling/ExponentialRamp(),
    }
    noise/LinearRamp.until = 200_000  # env steps

A number is named as it is bound. While an epoch collects and trains, it is what its schedule gives
for the env steps taken before that epoch; an offline run counts every drawn window as one. What is
played to measure (validation, test) is played with the number that is bound, as `remdm eval` will
do it. Nothing is remembered, so a run that goes on needs nothing restored.

`Experiment.learning_rate` is the peak that warm-up and cosine decay multiply, also where it follows
a schedule; `lr_warmup_steps = 0` and `lr_final_fraction = 1` leave the schedule alone. Beta is a
schedule of its own; with `ConstantBeta` it can be any of these.

A schedule that would do nothing is refused when the run starts: see `remdm.training.live_numbers`.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from remdm import gin_names
from remdm.diffusion import Sampler
from remdm.envs.contract import PlanVecEnv
from remdm.registry import nearest
from remdm.training.live_numbers import ACTING, ALWAYS, OF_TRAINERS, Live, live_numbers
from remdm.training.settings import ExperimentSettings
from remdm.training.trainer import AgentTrainer

if TYPE_CHECKING:
    from remdm.training.assembly import AssembledRun

Schedule = Callable[[int], float]

# Packages whose objects hold no parts of a run.
_FOREIGN = frozenset({"accelerate", "builtins", "gin", "numpy", "torch", "tqdm", "wandb"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number is kept.

    Attributes:
        owner: The object that has it as an attribute.
        argument: Name of that attribute.
        samplers: What `owner` is a part of, and works out something from its parts.
        live: What may be put there.
    """

    owner: Any
    argument: str
    samplers: tuple[Sampler, ...]
    live: Live

    @property
    def value(self) -> Any:
        """What is there now."""
        return getattr(self.owner, self.argument)

    def put(self, value: float) -> None:
        """Let the number be `value`, also in what was made of it."""
        if isinstance(self.owner, ExperimentSettings) and self.argument in OF_TRAINERS:
            for trainer in self.owner.trainers.values():  # type: ignore[attr-defined]
                trainer.retune(self.argument, value)
            return
        setattr(self.owner, self.argument, value)
        for sampler in self.samplers:
            sampler.refit()


class ScheduledNumbers:
    """The numbers of a run that follow schedules."""

    def __init__(self, schedules: Mapping[str, Any] | None, run: AssembledRun) -> None:
        """Find all of them, and see that their schedules make sense over the whole run.

        Args:
            schedules: By name, as `Experiment.schedules`.
            run: With all its parts but folder, place and collector.

        Raises:
            ValueError: If a name stands for nothing that reads a number at every use, or a
                schedule gives something that the number must not be.
        """
        self.run = run
        self.schedules = {name: _made(name, entry) for name, entry in (schedules or {}).items()}
        found = list(_parts(run)) if self.schedules else []
        self.places = {name: _places(name, found, run) for name in self.schedules}
        # The bound ones: a number may be a schedule's own later.
        self._windows = run.train_batches_per_epoch * run.batch_size * run.accelerator.num_processes
        for epoch in range(run.num_epochs if self.schedules else 0):
            self.values(self._expected(epoch))

    def values(self, steps: int) -> dict[str, float]:
        """All numbers by name.

        Args:
            steps: Env steps taken so far.

        Raises:
            ValueError: If one must not be what its schedule gives.
        """
        return {
            name: _checked(name, schedule(steps), steps, self.places[name])
            for name, schedule in self.schedules.items()
        }

    @contextlib.contextmanager
    def in_force(self) -> Iterator[dict[str, float]]:
        """A block in which all numbers are what the present epoch wants; all processes call this.

        Yields:
            What to log, under `schedule/`.
        """
        values = self.values(self._steps()) if self.schedules else {}
        bound = [(place, place.value) for places in self.places.values() for place in places]
        try:
            for name, value in values.items():
                for place in self.places[name]:
                    place.put(value)
            yield {f"schedule/{name}": float(value) for name, value in values.items()}
        finally:
            for place, value in bound:
                place.put(value)

    def _steps(self) -> int:
        """Env steps before the present epoch, also when a part of it is done."""
        run, progress = self.run, self.run.progress
        if not _collects(run) or not run.role.alone:  # others go by what is expected
            return self._expected(progress.epoch)
        own = {"steps": progress.collect.env_steps}
        return progress.env_steps - int(run.reduce(own, "sum")["steps"])  # type: ignore[attr-defined]

    def _expected(self, epoch: int) -> int:
        """Env steps before an epoch, as the settings have it."""
        frames = self.run.budget.frames
        return frames.through(epoch) if _collects(self.run) else epoch * self._windows


def _collects(run: AssembledRun) -> bool:
    """Whether a run ever takes an env step."""
    return run.budget.frames.through(run.num_epochs) > 0


def _made(name: str, entry: Any) -> Schedule:
    """A schedule, made if it is a class."""
    schedule = entry() if isinstance(entry, type) else entry
    if not callable(schedule):
        raise ValueError(
            f"a schedule is @LinearRamp() or another function of the env steps, got {entry!r} for "
            f"{name}; set Experiment.schedules, or bind {name} itself."
        )
    made: Schedule = schedule
    return made


def _checked(name: str, value: Any, steps: int, places: list[Place]) -> float:
    for bounds in (place.live.bounds for place in places):
        if not isinstance(value, Real) or not bounds.hold(float(value)):
            raise ValueError(
                f"{name} must be {bounds}, and its schedule gives {value!r} after {steps:,} env "
                f"steps; set Experiment.schedules."
            )
    return int(value) if places[0].live.bounds.whole else float(value)


# ------------------------------------------------------------------------------------- finding


class Part(NamedTuple):
    """An object of a run that has live numbers.

    Attributes:
        thing: The object.
        within: The samplers and trainers that it is a part of, the outermost first.
    """

    thing: Any
    within: tuple[Sampler | AgentTrainer, ...]

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """The samplers that it is a part of."""
        return tuple(owner for owner in self.within if isinstance(owner, Sampler))

    def plans(self, run: AssembledRun) -> bool:
        """Whether it is a part of what plans while a run collects: the planner's acting copy."""
        collecting = getattr(run.policy, "sampler_collect", None)
        if collecting is not None and self.samplers:
            return self.samplers[0] is collecting
        trainers = (owner for owner in self.within if isinstance(owner, AgentTrainer))
        return all(trainer.policy is run.policy for trainer in trainers)


def _parts(run: AssembledRun) -> Iterator[Part]:
    """All objects of a run that have live numbers."""
    seen: set[int] = set()
    waiting = [Part(run, ())]
    while waiting:
        part = waiting.pop()
        thing, within = part
        if id(thing) in seen or isinstance(thing, PlanVecEnv) or not _holds_parts(thing):
            continue
        seen.add(id(thing))
        if live_numbers(type(thing)):
            yield part
        if isinstance(thing, (Sampler, AgentTrainer)):
            within = (*within, thing)
        waiting += [Part(held, within) for held in _held(thing)]


def _holds_parts(thing: Any) -> bool:
    if isinstance(thing, (list, tuple, dict, nn.Module)):
        return True
    package = type(thing).__module__.partition(".")[0]
    own = package not in _FOREIGN and package not in sys.stdlib_module_names
    return own and not isinstance(thing, type)


def _held(thing: Any) -> list[Any]:
    """What an object or a container holds."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, tuple)):
        return list(thing)
    slots = [s for base in type(thing).__mro__ for s in base.__dict__.get("__slots__", ())]
    slotted = [getattr(thing, s) for s in slots if hasattr(thing, s)]
    return [*vars(thing).values(), *slotted] if hasattr(thing, "__dict__") else slotted


def _places(name: str, found: list[Part], run: AssembledRun) -> list[Place]:
    """Where the number called `name` is kept.

    Raises:
        ValueError: If nothing reads it at every use; names the nearest that something does.
    """
    owner, _, argument = name.rpartition(".")
    try:
        configurable = gin_names.find_configurable(owner)
    except gin_names.UnknownNameError as error:
        raise ValueError(_refusal(name, error.reason.rstrip("."), found, run)) from error
    kind = configurable.wrapped
    mine = [part for part in found if inspect.isclass(kind) and isinstance(part.thing, kind)]
    live = [part for part in mine if argument in live_numbers(type(part.thing))]
    reasons = [_why_not_here(part, argument, run) for part in live]
    places = [
        Place(part.thing, argument, part.samplers, live_numbers(type(part.thing))[argument])
        for part, reason in zip(live, reasons, strict=True)
        if not reason
    ]
    if not places:
        reason = reasons[0] if reasons else _why_not(configurable, argument, bool(mine))
        raise ValueError(_refusal(name, reason, found, run))
    return places


def _why_not_here(part: Part, argument: str, run: AssembledRun) -> str:
    """Why a part does not read a live number of its class in this run; "" where it does."""
    live = live_numbers(type(part.thing))[argument]
    value = getattr(part.thing, argument, None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"it is {value!r} here, which is no number"
    if not live.read(part.thing):
        return f"it takes {live.needs}"
    if live.use != ALWAYS and not _collects(run):
        return "it is read while env steps are collected, and this run collects none"
    if live.use == ACTING and not part.plans(run):
        return "it is not a part of what plans while env steps are collected"
    return ""


def _why_not(configurable: Any, argument: str, there: bool) -> str:
    """Why there is no such live number at all."""
    short, kind = gin_names.short_name(configurable), configurable.wrapped
    if not inspect.isclass(kind):
        return f"{short} is a function, and nothing of it is kept"
    if argument not in gin_names.bindable_arguments(configurable):
        return f"{short} has no argument {argument!r}"
    if argument in live_numbers(kind):
        return f"nothing in this run is a {short}"
    once = f"it is read once, when {short} is made"
    if there and kind.__module__.partition(".")[0] != "remdm":
        once += f"; where methods read it every time, {short} says live_numbers = ({argument!r},)"
    return once


def _refusal(name: str, reason: str, found: list[Part], run: AssembledRun) -> str:
    known = sorted({full for part in found for full in _names(part, run)})
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"{name} cannot follow a schedule: {reason}; set Experiment.schedules. {hint}"
        f"Here can: {', '.join(known)}."
    )


def _names(part: Part, run: AssembledRun) -> list[str]:
    """The numbers of an object that can follow a schedule, as they are bound."""
    kind = type(part.thing)
    registered = (gin_names.registered_name(base) for base in kind.__mro__)
    short = next((one for one in registered if one is not None), kind.__name__)
    live = [name for name in live_numbers(kind) if not _why_not_here(part, name, run)]
    return [f"{short}.{name}" for name in live]
