"""The cells of `benchmarks.minihack_ablations`: the quick recipe with one thing changed."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs.cells import Cell

_REACH = "EgoDenoiser.encoder_type = @ReachEncoder"
_EGO = "EgoDenoiser.encoder_type = @EgoEncoder"
_AUGMENTATION = "MemoryAugmentation"
_NO_WAY_LOSS = "ReachEncoder.way_loss_weight = 0.0"
_NO_END_LOSS = "ReachEncoder.end_loss_weight = 0.0"
_NO_WAY_TOKENS = "ReachEncoder.way_tokens = 0"
_UNAUGMENTED = "Experiment.augmentation_type = None"
FULL = "the recipe"
# Shown name: bindings that differ from the recipe.
VARIANTS: dict[str, tuple[str, ...]] = {
    FULL: (),
    "ego encoder": (_EGO,),
    "ego encoder, crop 39": (_EGO, "EgoEncoder.crop_size = 39"),
    "reach, costs start alike": (_REACH, "ReachEncoder.informed = False"),
    "reach, no way loss": (_REACH, _NO_WAY_LOSS),
    "reach, no end loss": (_REACH, _NO_END_LOSS),
    "reach, no way tokens": (_REACH, _NO_WAY_TOKENS),
    "no setbacks": (
        f"{_AUGMENTATION}.lock_probability = 0.0",
        f"{_AUGMENTATION}.exhaust_probability = 0.0",
        f"{_AUGMENTATION}.obstruct_probability = 0.0",
    ),
    "no flips": (f"{_AUGMENTATION}.flip_probability = 0.0",),
    "no explored memories": (f"{_AUGMENTATION}.explore_probability = 0.0",),
    "no closed frontiers": (f"{_AUGMENTATION}.close_probability = 0.0",),
    "no augmentation": (_UNAUGMENTED,),
    # What replaces each other is missed only where all of it is gone.
    "informed costs alone": (_REACH, _NO_WAY_LOSS, _NO_END_LOSS, _NO_WAY_TOKENS, _UNAUGMENTED),
    "a quarter of the mazes": ("Experiment.train_timesteps_per_epoch = 16",),
    "half the updates": ("Experiment.epochs = 12",),
    "twice the updates": ("Experiment.epochs = 48",),
}


def cells_of(out: Path, seeds: Sequence[int], episodes: int, quick: bool = False) -> list[Cell]:
    """All variants, seed by seed; see `benchmarks.inputs.cells.run_cells`."""
    overlay = ("smoke.gin",) if quick else ()
    return [
        _cell(out, name, bindings, seed, episodes, overlay)
        for seed in seeds
        for name, bindings in VARIANTS.items()
    ]


def _cell(
    out: Path,
    name: str,
    bindings: Sequence[str],
    seed: int,
    episodes: int,
    overlay: Sequence[str],
) -> Cell:
    stem = f"{name.replace(', ', '-').replace(' ', '-')}-s{seed}"
    file = out / f"{stem}.json"
    words = ["train", "--configs", "minihack_quick.gin", *overlay, "--seed", str(seed)]
    bound = ("Experiment.baseline_agent_type = None", *bindings)
    for binding in bound:
        words += ["--bind", binding]
    words += ["--ckpt_base_dir", str(out / "runs"), "--run_name", stem]
    words += ["--test_episodes", str(episodes), "--json", str(file)]
    return Cell(stem, (tuple(words),), file, {"planner": name})
