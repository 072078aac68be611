"""Where planning pays: labels and agents on equal encoders, updates, levels and temperatures.

Each cell is a training of its own: a kind of plan labels and an agent (diffusion planner, its
autoregressive twin, single-step head). Two studies: `explore` on the seven maps, and `mapped` in
mazes that are known whole; docs/where_planning_pays.md tells them. All cells are played on the same
levels with several replanning intervals and compared with the head of their labels, paired.

    python -m benchmarks.where_planning_pays --out runs/where_planning_pays

The same command goes on where it stopped: trained cells are not trained and played ones not
played again. `--cells` takes some of them, by the beginnings of their names.
"""

import argparse
import hashlib
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import machine, report, show_table
from benchmarks.inputs.planning_cells import FULL, QUICK, Cell, Pace, Plan, Study, all_cells
from benchmarks.inputs.planning_play import (
    Play,
    milliseconds_per_plan,
    played,
    states_on_the_way,
)
from benchmarks.inputs.planning_tables import fulfilled, markdown, rewrite, row_of, shown
from remdm.allocator import keep_allocations
from remdm.evaluation.tables import write_json, write_text

STOPPED = 130
LEAST = {"seeds": 1, "epochs": 0, "episodes": 1, "demonstrations": 1}
STATES_PER_MAP = 20
QUICK_STATES, QUICK_EPISODES, QUICK_EPOCHS, QUICK_DEMONSTRATIONS = 3, 3, 2, 6


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/where_planning_pays"))
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each cell")
    parser.add_argument("--epochs", type=int, default=0, help="of each training; the recipe's if 0")
    parser.add_argument("--episodes", type=int, default=100, help="test levels of each map")
    parser.add_argument("--demonstrations", type=int, default=1000, help="oracle episodes of a map")
    parser.add_argument("--encoder", default="ReachEncoder", help="or EgoEncoder")
    parser.add_argument("--temperature", type=float, default=0.5, help="of all agents")
    parser.add_argument("--cells", nargs="+", default=[""], help="beginnings of names, as explore-")
    parser.add_argument("--doc", type=Path, help="document whose tables are rewritten")
    parser.add_argument("--quick", action="store_true", help="tiny runs in the gridworld")
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    args = parser.parse_args(argv)
    for name, least in LEAST.items():
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(args, name)}")
    return args


class Command:
    """The study as asked for.

    Attributes:
        plan: How cells are trained.
        play: How they are played.
        cells: Those that were chosen.
        maps: By study and group.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        studies = QUICK if args.quick else FULL
        episodes, epochs, demonstrations = args.episodes, args.epochs, args.demonstrations
        if args.quick:
            episodes, epochs = min(episodes, QUICK_EPISODES), epochs or QUICK_EPOCHS
            demonstrations = min(demonstrations, QUICK_DEMONSTRATIONS)
        self.states = QUICK_STATES if args.quick else STATES_PER_MAP
        self.folder, self.seeds = args.out, range(args.seeds)
        self.plan = Plan(args.out, epochs, args.encoder, demonstrations, args.quick)
        self.play = Play(episodes, args.temperature)
        chosen = [c for c in all_cells(studies) if c.name.startswith(tuple(args.cells))]
        if not chosen:
            names = ", ".join(cell.name for cell in all_cells(studies))
            raise ValueError(f"--cells {' '.join(args.cells)} chooses none of {names}")
        self.cells = chosen
        self.studies = list(dict.fromkeys(cell.study for cell in chosen))
        self.maps = {study: self.plan.maps(study) for study in self.studies}
        self._timed: dict[Study, dict[str, Any]] = {}

    def file_of(self, cell: Cell, seed: int, pace: Pace) -> Path:
        """Where the episodes of a cell lie; another name where anything differs."""
        facts = self.plan.facts_of(cell, seed).read_text()
        asked = json.dumps(
            [facts, self.play.episodes, self.play.temperature, self.maps[cell.study]]
        )
        digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
        return self.folder / "episodes" / f"{cell.name}-s{seed}-{pace.stem}-{digest}.json"

    def run(self) -> bool:
        """Train and play whatever is missing; seed by seed, so that one is complete early.

        Returns:
            Whether all is there; not if somebody asked to stop.
        """
        for seed in self.seeds:
            for cell in self.cells:
                if not self.plan.train(cell, seed):
                    return False
                missing = [p for p in cell.paces if not self.file_of(cell, seed, p).is_file()]
                if missing:
                    self.play_cell(cell, seed, missing)
        return True

    def play_cell(self, cell: Cell, seed: int, paces: Sequence[Pace]) -> None:
        """Play a trained cell and write down what came of it."""
        agent = self.plan.agent(cell, seed)
        maps = [env for envs in self.maps[cell.study].values() for env in envs]
        for pace in paces:
            found = played(agent, maps, pace, self.play, seed)
            states = self.timed(cell.study)
            spent = milliseconds_per_plan(agent, states, pace, self.play.temperature)
            write_json(self.file_of(cell, seed, pace), {"maps": found, "ms_per_plan": spent})

    def timed(self, study: Study) -> dict[str, Any]:
        """States of the held-out maps whose plans are timed."""
        if study not in self._timed:
            self._timed[study] = states_on_the_way(self.maps[study]["held-out"], self.states)
        return self._timed[study]

    def measured(self, cell: Cell, pace: Pace) -> dict[str, Any]:
        """What a cell played, over all seeds; see `planning_tables.Measured`."""
        files = [self.file_of(cell, seed, pace) for seed in self.seeds]
        found = [json.loads(file.read_text()) for file in files]
        return {
            "cell": cell.name,
            "labels": cell.labels,
            "agent": cell.agent,
            "replan": str(pace),
            "ms_per_plan": sum(one["ms_per_plan"] for one in found) / len(found),
            "maps": [one["maps"] for one in found],
        }

    def rows(self) -> dict[Study, list[dict[str, Any]]]:
        """The table of each study."""
        heads = {c.name: self.measured(c, c.paces[0]) for c in self.cells if c.agent == "head"}
        return {
            study: [
                row_of(self.measured(cell, pace), heads.get(cell.head), self.maps[study])
                for cell in self.cells
                if cell.study == study
                for pace in cell.paces
            ]
            for study in self.studies
        }

    def trainings(self) -> list[dict[str, Any]]:
        """What each training came to."""
        return [
            {
                "cell": cell.name,
                "seed": seed,
                **json.loads(self.plan.facts_of(cell, seed).read_text()),
            }
            for seed in self.seeds
            for cell in self.cells
        ]


def text_of(command: Command, tables: dict[Study, list[dict[str, Any]]]) -> str:
    """The tables as markdown, with what was done above them."""
    plan, play = command.plan, command.play
    trained = command.trainings()
    updates = " or ".join(f"{count:,}" for count in sorted({one["updates"] for one in trained}))
    about = (
        f"{plan.encoder}, {updates} updates a cell, training seeds {len(command.seeds)}, "
        f"{play.episodes} levels a map, temperature {play.temperature:g}. Win rates with Wilson "
        "95 % intervals over episodes; chance between trainings is not in them. Steps of won "
        "episodes, net calls and milliseconds of planning per env step are means over the held-out "
        "maps. By map: win rate / steps of won episodes."
    )
    parts = [about]
    for study, rows in tables.items():
        parts += [f"### {study.name}", markdown(rows, command.maps[study])]
    return "\n\n".join(parts)


def line_of(command: Command, tables: dict[Study, list[dict[str, Any]]]) -> dict[str, Any]:
    """The JSON line: the largest advantage of a diffusion planner over the head it belongs to."""
    compared = [
        (row["difference"], study.name, row)
        for study, rows in tables.items()
        for row in rows
        if row["agent"] == "diffusion" and row["difference"] is not None
    ]
    best = max(compared, key=lambda item: item[0], default=(None, "", None))
    row = best[2]
    head = None if row is None else row["held-out"] - row["difference"]
    return {
        "name": "where_planning_pays",
        "value": None if row is None else row["held-out"],
        "unit": "held-out win rate of the diffusion planner that gains most on its head",
        "reference": "single-step head of the same labels",
        "reference_value": head,
        "ratio": row["held-out"] / head if row is not None and head else None,
        "which": None if row is None else f"{best[1]}: {row['labels']} / {row['replan']}",
        "fulfilled": {study.name: fulfilled(rows) for study, rows in tables.items()},
        "temperature": command.play.temperature,
        "encoder": command.plan.encoder,
        "trainings": command.trainings(),
        "rows": {study.name: rows for study, rows in tables.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train, play, print.

    Returns:
        0, or 130 where somebody asked to stop before all was done.
    """
    args = parsed(argv)
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_allocations()
    command = Command(args)
    try:
        if not command.run():
            return STOPPED
    except KeyboardInterrupt:  # while something was played; trainings stop by themselves
        print("stopped; the same command goes on from there", file=sys.stderr)
        return STOPPED
    tables = command.rows()
    line, text = line_of(command, tables), text_of(command, tables)
    write_json(args.out / "where_planning_pays.json", {**line, "machine": machine()})
    write_text(args.out / "where_planning_pays.md", f"# Where planning pays\n\n{text}\n")
    if args.doc is not None:
        rewrite(args.doc, text)
    for study, rows in tables.items():
        if not args.json:
            print(f"\n{study.name}")
            show_table([shown(row) for row in rows])
        line["rows"][study.name] = [shown(row) for row in rows]  # by map only in the file
    report([], line, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
