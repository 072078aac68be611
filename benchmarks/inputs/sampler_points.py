"""Which samplers are compared: every preset at several numbers of net calls."""

import json
from typing import Any, NamedTuple

from remdm.diffusion import preset_names
from remdm.diffusion.presets import preset_knobs

# Knobs that trade net calls for success, of presets that decide as they go.
ADAPTIVE: dict[str, dict[str, tuple[float, ...]]] = {
    "default": {"gamma": (0.0, 0.1, 0.3, 0.7, 1.5, 3.0)},
    "greedy": {"gamma": (0.0, 0.3, 1.5)},
    "threshold": {"tau": (0.5, 0.7, 0.9, 0.97)},
}
# Presets of which the default draws this many candidates, at each gamma.
CANDIDATES, CANDIDATE_GAMMAS = 4, (0.3, 1.5)


class Point(NamedTuple):
    """One sampler as it is compared.

    Attributes:
        preset: Name of the preset.
        knobs: What differs from the preset's own values.
        candidates: Plans drawn for each one that counts.
    """

    preset: str
    knobs: dict[str, Any]
    candidates: int = 1

    @property
    def label(self) -> str:
        """The preset, and its knobs in brackets."""
        knobs = [f"{name.replace('num_denoise_steps', 'K')}={v}" for name, v in self.knobs.items()]
        best = [f"best of {self.candidates}"] if self.candidates > 1 else []
        said = ", ".join(knobs + best)
        return f"{self.preset} ({said})" if said else self.preset

    @property
    def is_default(self) -> bool:
        """Whether this is the package's default, as it comes."""
        return self == default_point()

    def key(self) -> str:
        """The same text for the same sampler."""
        return json.dumps(self._asdict(), sort_keys=True)


def default_point() -> Point:
    """The package's default sampler."""
    return Point("default", {"gamma": preset_knobs("default")["gamma"]})


def points(horizon: int, *, quick: bool = False, long: bool = True) -> list[Point]:
    """All samplers for plans of a length.

    Samplers on a grid get a quarter, half and all of the horizon as their number of steps, and the
    published number where that is not longer; those of the literature four times the horizon, too,
    because their remasking was meant for many steps.

    Args:
        horizon: Tokens per plan.
        quick: Two settings per preset only, without those long ones.
        long: Take those long ones, too; a trained net would be asked for hours.
    """
    found = [Point("default", {"gamma": gamma}, CANDIDATES) for gamma in CANDIDATE_GAMMAS]
    for preset in preset_names():
        found += _points_of(preset, horizon, quick, long)
    return found


def _points_of(preset: str, horizon: int, quick: bool, long: bool) -> list[Point]:
    knobs = preset_knobs(preset)
    if "num_denoise_steps" not in knobs:
        made = [
            Point(preset, {knob: value})
            for knob, values in ADAPTIVE.get(preset, {}).items()
            for value in values
        ]
        return (made[2:4] if quick else made) or [Point(preset, {})]
    steps = {max(2, horizon // 4), horizon // 2, horizon}
    if quick:
        steps = {horizon // 2, horizon}
    else:
        steps |= {k for k in (knobs["num_denoise_steps"],) if k <= horizon}
        steps |= {4 * horizon} if long and preset.startswith("paper_") else set()
    return [Point(preset, {"num_denoise_steps": k}) for k in sorted(steps)]
