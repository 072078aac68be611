"""The cells of `benchmarks.minihack_results`: which commands of `remdm` fill which rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs.cells import Cell

# Env steps that every baseline may take; the planner's recipe takes 125,600.
BASELINE_TIMESTEPS = 100_000
# Levels per environment of the demonstrations that offline training learns from: about as many
# env steps as DAgger plays.
DEMONSTRATIONS = 1600
# The published recipe for as many env steps as its iterations take on two CPU cores in an hour.
SEED_RECIPE_TIMESTEPS = 100_000
# Of the planner by DAgger, and so of the one that learns offline.
UPDATES = 24 * 64
# Test levels of a baseline, at most: what is stuck plays every level to its limit, which takes
# longer than the training.
BASELINE_EPISODES = 100
ALGORITHMS = ("ppo", "a2c", "dqn", "ppo-rnn", "bc", "dt")


def cells_of(out: Path, seeds: Sequence[int], episodes: int, quick: bool = False) -> list[Cell]:
    """All cells, cheap ones first, seed by seed.

    Args:
        out: Folder of the JSON files; runs lie in it, too.
        seeds: Training seeds.
        episodes: Test levels per environment.
        quick: Overlay every recipe with `smoke.gin`.
    """
    make = _Maker(out, episodes, ("smoke.gin",) if quick else ())
    cells = [make.oracles()]
    for seed in seeds:
        cells += [make.dagger(seed), make.tours(seed)]
    cells.append(make.demonstrations())
    for seed in seeds:
        cells += [make.offline(seed), make.seed_recipe(seed)]
        cells += [make.baseline(name, "planner", seed) for name in ALGORITHMS]
        cells += [make.baseline(name, "raw", seed) for name in ALGORITHMS]
    return cells


@dataclass(frozen=True, slots=True)
class _Maker:
    out: Path
    episodes: int
    overlay: tuple[str, ...]

    def _file(self, name: str) -> Path:
        return self.out / f"{name}.json"

    def _runs(self, name: str, episodes: int | None = None) -> tuple[str, ...]:
        folder = ("--ckpt_base_dir", str(self.out / "runs"))
        tested = str(self.episodes if episodes is None else episodes)
        return (*folder, "--run_name", name, "--test_episodes", tested)

    def _cell(self, name: str, *words: str, shown: dict[str, str]) -> Cell:
        file = self._file(name)
        return Cell(name, ((*words, "--json", str(file)),), file, shown)

    def _train(self, name: str, seed: int, config: str, *more: str, shown: dict[str, str]) -> Cell:
        name = f"{name}-s{seed}"
        words = ("train", "--configs", config, *self.overlay, "--seed", str(seed))
        return self._cell(name, *words, *self._runs(name), *more, shown=shown)

    def oracles(self) -> Cell:
        shown = {"random": "random moves", "seed": "seed oracle", "memory": "memory oracle"}
        words = ("oracle", "--oracle", *shown, "--envs", "all", "--episodes", str(self.episodes))
        return self._cell("oracles", *words, shown=shown)

    def dagger(self, seed: int) -> Cell:
        shown = {"planner": "planner", "single_step": "single-step head"}
        return self._train("planner", seed, "minihack_quick.gin", shown=shown)

    def tours(self, seed: int) -> Cell:
        alone = ("--bind", "Experiment.baseline_agent_type = None")  # its head is that of `dagger`
        shown = {"planner": "planner, tours"}
        return self._train("tours", seed, "minihack_tours.gin", *alone, shown=shown)

    def demonstrations(self) -> Cell:
        folder, done = self.out / "demonstrations", self._file("demonstrations")
        levels = 2 if self.overlay else DEMONSTRATIONS
        words = ("collect", "--oracle", "memory", "--envs", "training", "--episodes", str(levels))
        words += ("--out", str(folder), "--plan_horizon", "16", "--json", str(done))
        return Cell("demonstrations", (words,), done)

    def offline(self, seed: int) -> Cell:
        bindings = [
            f"Experiment.buffer_dir = {str(self.out / 'demonstrations')!r}",
            "Experiment.has_dset_edit_rights = False",
        ]
        if not self.overlay:
            bindings.append(f"offline_epochs.updates = {UPDATES}")
        shown = {"planner": "planner, offline", "single_step": "single-step head, offline"}
        words = [word for binding in bindings for word in ("--bind", binding)]
        return self._train("offline", seed, "minihack_offline.gin", *words, shown=shown)

    def seed_recipe(self, seed: int) -> Cell:
        bindings = [] if self.overlay else ["Experiment.batch_size = 256"]
        words = [word for binding in bindings for word in ("--bind", binding)]
        if not self.overlay:
            words += ["--total_timesteps", str(SEED_RECIPE_TIMESTEPS)]
        shown = {"planner": "published recipe"}
        return self._train("seed-recipe", seed, "minihack_seed_dagger.gin", *words, shown=shown)

    def baseline(self, algorithm: str, encoder: str, seed: int) -> Cell:
        name = f"{algorithm}-{encoder}"
        label = algorithm if encoder == "planner" else f"{algorithm}, raw ids"
        words = ("baseline", "--algo", algorithm, "--encoder", encoder, "--seeds", str(seed))
        words += ("--configs", "minihack_baselines.gin", *self.overlay)
        if not self.overlay:
            words += ("--total_timesteps", str(BASELINE_TIMESTEPS))
        shown = {algorithm: label, f"{algorithm}:greedy": f"{label}, greedy"}
        words += ("--policies", *shown)
        episodes = min(self.episodes, BASELINE_EPISODES)
        return self._cell(f"{name}-s{seed}", *words, *self._runs(name, episodes), shown=shown)
