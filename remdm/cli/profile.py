"""`remdm profile`: where the time of an epoch goes."""

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remdm import config
from remdm.cli.flags import add_config_flags

if TYPE_CHECKING:
    from remdm.experiment import Experiment
    from remdm.training.profiling import PhaseRow, Stopwatch

TRACED_BATCHES = 4
RUN_NAME, DATA = "profile", "data"
VALIDATION, HELD_OUT = "validation", "held-out validation"
CHECKPOINT = "writing: checkpoint"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `remdm profile`."""
    parser.add_argument("--epochs", type=int, default=2, help="epochs to measure (2)")
    parser.add_argument(
        "--warmup",
        type=int,
        default=1,
        help="epochs before them, in which code is compiled and the oracle plays ahead (1)",
    )
    parser.add_argument(
        "--keep", metavar="FOLDER", type=Path, help="keep the run in here; else nothing stays"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table here as well")
    parser.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help=f"write what torch.profiler sees of {TRACED_BATCHES} batches, for chrome://tracing",
    )
    add_config_flags(parser)


def profile(args: argparse.Namespace) -> int:
    """Run some epochs of a recipe with clocks in it, and print what they say.

    Raises:
        ValueError: If a flag or the configuration makes no sense.
    """
    from remdm.allocator import keep_allocations

    for name, least in (("epochs", 1), ("warmup", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load(args, folder)
        keep_allocations()
        run, watch = profiled_run()
        run.start()
        stack.callback(run.close)
        document = measured(run, watch, args.warmup, args.epochs)
        if args.trace is not None:
            trace(run, args.trace)
    print_profile(document)
    if args.json is not None:
        from remdm.evaluation.tables import write_json

        write_json(args.json, document)
    return 0


def load(args: argparse.Namespace, folder: Path) -> None:
    """The configuration, but with the run in `folder`, no trackers, and data of others untouched.

    Raises:
        ConfigError: If a file, name or value is wrong.
    """
    flags: dict[str, tuple[str, Any]] = {
        "Experiment.ckpt_base_dir": ("--keep", str(folder)),
        "Experiment.trackers": ("remdm profile", ()),
        "Experiment.verbose": ("remdm profile", False),
    }
    config.load_config(args.configs, args.bind, flags)
    data = config.bound_value("Experiment.buffer_dir")
    if data is not None:
        mirror(Path(data), folder / DATA)
        flags["Experiment.buffer_dir"] = ("remdm profile", str(folder / DATA))
        config.load_config(args.configs, args.bind, flags)


def mirror(source: Path, target: Path) -> None:
    """Make the files of a dataset appear in another folder, too.

    They are never changed, only replaced or removed, so that a second name for each is as good as
    a copy; on another disk it is one.

    Args:
        source: A dataset; there may be none.
        target: Made if need be; what is there stays.
    """
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        place = target / inner
        if path.is_symlink() or not path.is_file() or "roles" in inner.parts or place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)


def profiled_run() -> "tuple[Experiment, Stopwatch]":
    """An experiment that is not started, and the clocks that it will have."""
    from remdm.data.batch import Batch
    from remdm.experiment import Experiment
    from remdm.training.profiling import Stopwatch, put_clocks, synchroniser, timed_batches

    watch = Stopwatch()

    class ProfiledExperiment(Experiment):
        """Validates and saves when it is told to, and not within its epochs."""

        amortised = False

        def start(self, *args: Any, **kwargs: Any) -> None:
            super().start(*args, **kwargs)
            watch.synchronise = synchroniser(self.DEVICE)
            put_clocks(self, watch)
            self.amortised = True

        def batches(self) -> Generator[Batch, None, None]:
            with contextlib.closing(super().batches()) as real:
                yield from timed_batches(real, watch)

        def evaluate_val(self) -> dict[str, float]:
            return {} if self.amortised else super().evaluate_val()

        def save_checkpoint(self) -> None:
            if not self.amortised:
                super().save_checkpoint()

    return ProfiledExperiment(RUN_NAME), watch


def measured(run: "Experiment", watch: "Stopwatch", warmup: int, epochs: int) -> dict[str, Any]:
    """Run epochs, then one validation and one checkpoint, and sum up.

    Returns:
        What `--json` writes.
    """
    from remdm.training.profiling import BATCH, ENV_STEP, EPOCH, OTHER, phase_rows

    for _ in range(warmup):
        run.run_epoch()
    watch.clear()
    steps, batches = run.progress.env_steps, run.progress.total_batches
    for _ in range(epochs):
        with watch.phase(OTHER):
            run.run_epoch()
    main = {name: spent / epochs for name, spent in watch.main.items()}
    beside = {name: spent / epochs for name, spent in watch.beside.items()}
    units = {
        ENV_STEP: (run.progress.env_steps - steps) / epochs,
        BATCH: (run.progress.total_batches - batches) / epochs,
        EPOCH: 1.0,
    }
    each = {}
    for name, (seconds, interval, envs) in _rare(run, watch):
        each[name], main[name] = seconds, seconds / interval
        if envs:
            units[name] = run.val_episodes * envs / interval
    rows = phase_rows(main, beside, units)
    return _document(run, epochs, rows, each)


def _rare(run: Any, watch: "Stopwatch") -> Iterator[tuple[str, tuple[float, int, int]]]:
    """What is not part of every epoch: its seconds, the epochs between two, its episodes."""
    watch.clear()
    run.amortised = False
    run.progress.epoch -= 1  # the epoch that has just ended
    every, heldout = run.budget.val_interval, run.heldout_val_every
    if every is not None:
        run.heldout_val_every = None
        with watch.phase(VALIDATION, whole=True):
            run.evaluate_val()
        yield VALIDATION, (watch.main[VALIDATION], every, len(run.train_envs))
        if heldout is not None:
            run.heldout_val_every = 1
            run.heldout_vec_env()  # made once in a run
            run.heldout_metrics(lambda *_: None)
            seconds = watch.main[HELD_OUT]
            yield HELD_OUT, (seconds, every * heldout, len(run.heldout_envs))
        run.heldout_val_every = heldout
    run.progress.epoch += 1
    with watch.phase(CHECKPOINT, whole=True):
        run.save_checkpoint()
    interval = run.ckpt_interval or max(1, run.num_epochs)
    yield CHECKPOINT, (watch.main[CHECKPOINT], interval, 0)
    run.amortised = True


def _document(
    run: "Experiment", epochs: int, rows: "list[PhaseRow]", each: dict[str, float]
) -> dict[str, Any]:
    import torch

    from remdm.training.profiling import memory

    device = run.DEVICE
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    agents = {name: type(t.agent).__name__ for name, t in run.trainers.items()}
    return {
        "epochs": epochs,
        "epoch_seconds": sum(row.seconds for row in rows if row.share is not None),
        "phases": [{**asdict(row), "ms_per_unit": row.ms_per_unit} for row in rows],
        "seconds_each": each,
        "memory": memory(device),
        "device": name,
        "threads": torch.get_num_threads(),
        "mixed_precision": run.mixed_precision,
        "compile_model": run.compile_model,
        "agents": agents,
        "parameters": {
            name: sum(p.numel() for p in t.agent.parameters()) for name, t in run.trainers.items()
        },
        "config": config.config_dict(),
    }


def print_profile(document: dict[str, Any]) -> None:
    """The phases as a table, and memory below it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase", style="cyan")
    for column in ("%", "s/epoch", "ms", "per"):
        table.add_column(column, justify="left" if column == "per" else "right")
    for row in document["phases"]:
        share, each = row["share"], row["ms_per_unit"]
        table.add_row(
            escape(row["name"]),
            "" if share is None else f"{100 * share:.1f}",
            f"{row['seconds']:.3f}",
            "" if each is None else f"{each:.3f}",
            row["unit"],
        )
    table.add_section()
    table.add_row("an epoch", "100.0", f"{document['epoch_seconds']:.3f}", "", "")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    often = ", ".join(f"{k} {v:.2f} s" for k, v in document["seconds_each"].items())
    console.print(f"not in every epoch, and spread over them above: {often}")
    held = ", ".join(f"{name} {value:,.0f}" for name, value in document["memory"].items())
    console.print(f"memory: {held}; {document['device']}, {document['threads']} threads")


def trace(run: "Experiment", path: Path) -> None:
    """Let torch.profiler follow some batches, and write what it saw.

    Raises:
        ValueError: If there is nothing to train on.
    """
    from torch.profiler import ProfilerActivity, profile

    if not run.dataset.ready_for_training:
        raise ValueError("--trace needs data to train on, and there is none; raise --warmup.")
    activities = [ProfilerActivity.CPU]
    if run.DEVICE.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        for index in range(TRACED_BATCHES):
            run.train_step(run.make_batch(run.progress.total_batches + index))
    path.parent.mkdir(parents=True, exist_ok=True)
    seen.export_chrome_trace(str(path))
    Console(soft_wrap=True, highlight=False).print(f"the trace is in {escape(str(path))}")
