"""Success against net calls: every preset, on models that can be enumerated and on a trained run.

Models answer with exact posteriors, or with 8 % of noise mixed in, so what fails there is the
sampler. `--run runs/minihack_dagger` adds a trained planner on all its maps, on the same levels for
every sampler. Beside that, the time per plan of the default and of the seed's sampler on the same
net. Results of single points and the chart `samplers.png` go to `--folder`; points that lie there
already are not measured again, so delete it after a change of the code.
"""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.harness import options, report, show_table
from benchmarks.inputs.observations import make_observations
from benchmarks.inputs.sampler_front import Row, beaten_by, draw_fronts, front
from benchmarks.inputs.sampler_points import Point, points
from benchmarks.inputs.sampler_tasks import (
    RUN,
    Task,
    measure,
    model_tasks,
    run_task,
    trained_planner,
)
from benchmarks.plan import SPEC, met_states
from remdm.agent import DiffusionPlannerAgent
from remdm.cli.runs import open_run
from remdm.diffusion import sampler_preset
from remdm.envs.minihack import HELD_OUT_ENVS
from remdm.maps import NUM_ACTIONS

FOLDER = "runs/samplers_benchmark"
COLUMNS = ("task", "sampler", "calls", "rate", "low", "high", "samples", "distinct", "front")
# Samplers whose plans are timed on one net.
TIMED: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "readme_minihack": ("readme_minihack", {}),
    "readme_minihack, no early exit": ("readme_minihack", {"early_exit": False}),
}
REFERENCE = "readme_minihack"


class Job(NamedTuple):
    """One point to be measured, and the file for what comes out."""

    task: Task
    point: Point
    path: Path


def jobs(tasks: Iterable[Task], folder: Path, *, quick: bool) -> list[Job]:
    """All points of all tasks."""
    found = []
    for task in tasks:
        identity = task.identity()
        for point in points(task.horizon, quick=quick, long=not task.run):
            digest = hashlib.sha256(f"{identity}|{point.key()}".encode()).hexdigest()[:20]
            found.append(Job(task, point, folder / "points" / f"{digest}.json"))
    return found


def do(job: Job) -> None:
    """Measure one point and write it down; in a process of its own."""
    row = measure(job.task, job.point)
    temporary = job.path.with_suffix(".tmp")
    temporary.write_text(json.dumps(row, indent=1) + "\n")
    os.replace(temporary, job.path)


def measure_all(todo: list[Job], workers: int) -> list[Row]:
    """The rows of all jobs; those without a result are measured side by side first."""
    missing = [job for job in todo if not job.path.is_file()]
    if missing:
        missing[0].path.parent.mkdir(parents=True, exist_ok=True)
        # Started afresh rather than forked: NetHack and torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            running = [pool.submit(do, job) for job in missing]
            # Off a terminal (disable=None) there is nobody to watch a bar.
            for done in tqdm(as_completed(running), total=len(running), disable=None):
                done.result()
    return [json.loads(job.path.read_text()) for job in todo]


def time_samplers(
    agent: DiffusionPlannerAgent, states: dict[str, np.ndarray], batch: int, seconds: float
) -> list[Row]:
    """Milliseconds per call of `plan` on one net; the samplers take turns on the same states."""
    samplers = {
        name: sampler_preset(preset, agent.num_actions, **knobs)
        for name, (preset, knobs) in TIMED.items()
    }
    generator = torch.Generator().manual_seed(0)
    spent: dict[str, list[float]] = {name: [] for name in TIMED}
    calls: dict[str, list[float]] = {name: [] for name in TIMED}
    count = len(next(iter(states.values())))
    turn, end = 0, time.perf_counter() + seconds * len(TIMED)
    while time.perf_counter() < end or turn < 4:
        rows = np.arange(turn * batch, (turn + 1) * batch) % count
        seen = {key: torch.from_numpy(array[rows]) for key, array in states.items()}
        for name, sampler in samplers.items():
            agent.sampler = sampler
            start = time.perf_counter()
            sample = agent.plan(seen, generator)
            spent[name].append((time.perf_counter() - start) * 1e3)
            calls[name].append(float(sample.nfe.float().mean()))
        turn += 1
    # The first turn pays for caches and compiled kernels.
    return [
        {
            "sampler": name,
            "batch": batch,
            "p50_ms": float(np.percentile(spent[name][1:], 50)),
            "p95_ms": float(np.percentile(spent[name][1:], 95)),
            "net_calls": float(np.mean(calls[name][1:])),
        }
        for name in TIMED
    ]


def latency(agent: DiffusionPlannerAgent, states: dict[str, np.ndarray], quick: bool) -> list[Row]:
    """`time_samplers` for plans alone and for 64 together."""
    agent.candidates, agent.scorer = 1, None
    batches = (1, 8) if quick else (1, 64)
    return [
        row
        for batch in batches
        for row in time_samplers(agent, states, batch, 0.3 if quick else 5.0)
    ]


def verdicts(tables: dict[str, list[Row]]) -> dict[str, Any]:
    """By task: the default's figures, whether it is on the front, and what clearly beats it."""
    said = {}
    for task, rows in tables.items():
        edge = front(rows)
        for row in rows:
            row["front"] = "*" if any(row is other for other in edge) else ""
        default = next(row for row in rows if row["default"])
        said[task] = {
            "calls": default["calls"],
            "success": default["rate"],
            "interval": [default["low"], default["high"]],
            "on_front": default["front"] == "*",
            "clearly_beaten_by": [row["sampler"] for row in beaten_by(rows, default)],
        }
    return said


def main() -> None:
    arguments = options(
        __doc__, run="", episodes=200, samples=2000, folder=FOLDER, workers=os.cpu_count() or 1
    )
    tasks = model_tasks(100 if arguments.quick else arguments.samples)
    states = make_observations(64)
    if arguments.run:
        agent = trained_planner(open_run(Path(arguments.run), [], []))
        tasks.append(run_task(arguments.run, agent, arguments.episodes))
        states = met_states(agent, HELD_OUT_ENVS[-1], 64)
    else:
        torch.manual_seed(0)
        agent = DiffusionPlannerAgent(SPEC, NUM_ACTIONS).eval().requires_grad_(False)
    # Before the points, so that nothing else runs beside the clock.
    timed = latency(agent, states, arguments.quick)
    folder = Path(arguments.folder)
    rows = measure_all(jobs(tasks, folder, quick=arguments.quick), arguments.workers)
    tables = {task.name: [row for row in rows if row["task"] == task.name] for task in tasks}
    said = verdicts(tables)
    chart = folder / "samplers.png"
    draw_fronts(tables, chart)
    table = [
        {column: row.get(column) for column in COLUMNS}
        for found in tables.values()
        for row in sorted(found, key=lambda row: row["calls"])
    ]
    found = {(row["sampler"], row["batch"]): row["p50_ms"] for row in timed}
    ratios = {
        batch: found[REFERENCE, batch] / found["default", batch]
        for batch in sorted({row["batch"] for row in timed})
    }
    line = {
        "name": "samplers",
        "net": RUN if arguments.run else "fresh net",
        "value": found["default", 1],
        "unit": "ms per plan alone",
        "reference": f"{REFERENCE} on the same net",
        "reference_value": found[REFERENCE, 1],
        "ratio": ratios[1],
        "ratios": ratios,
        "default": said,
        "latency": timed,
        "chart": str(chart),
        "rows": table,
    }
    if not arguments.json:
        show_table(timed)
    report(table, line, arguments.json)


if __name__ == "__main__":
    main()
