"""Real collector processes of a MiniHack run whose learner has published its first weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from remdm import config
from remdm.experiment import Experiment
from remdm.training.roles import role_of
from remdm.training.run_folder import RunFolder
from remdm.training.tracking import JsonlLog

RECIPE = "minihack_quick.gin"
# Collectors never wait: the learner has gone, and they may be as far ahead of it as they like.
BINDINGS = (
    "Experiment.epochs = 1000000",
    "Experiment.max_epochs_ahead = 1000000",
    "Experiment.baseline_agent_type = None",
)


def env_steps_per_second(folder: Path, processes: int, seconds: float) -> float:
    """Env steps a second of all processes together, after each has written its first shard.

    Args:
        folder: Where to make the run.
        processes: Collectors side by side, one thread each.
        seconds: How long to watch them.
    """
    publish_first_weights(folder)
    command = [sys.executable, "-m", "remdm", "train", "--mode", "collect", "--run_name", "run"]
    command += ["--configs", RECIPE, "--ckpt_base_dir", str(folder)]
    command += [word for bind in BINDINGS for word in ("--bind", bind)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, "--index", str(number)], env=env, stderr=subprocess.DEVNULL)
        for number in range(processes)
    ]
    run = RunFolder(folder / "run")
    logs = [JsonlLog(run.metrics_of(role_of("collect"), number)) for number in range(processes)]
    try:
        while not all(log.read() for log in logs):
            if any(process.poll() is not None for process in started):
                raise RuntimeError("a collector ended by itself")
            time.sleep(0.1)
        time.sleep(seconds)
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
    return sum(map(_rate, logs))


def publish_first_weights(folder: Path) -> None:
    """What a learner does before it waits for data."""
    base = {"Experiment.ckpt_base_dir": ("--ckpt_base_dir", str(folder))}
    config.load_config([RECIPE], BINDINGS, base)
    run = Experiment("run")
    run.start(role_of("learn"))
    run.close()
    config.clear_config()


def _rate(log: JsonlLog) -> float:
    rows = log.read()
    first, last = rows[0], rows[-1]
    passed = last["unix_seconds"] - first["unix_seconds"]
    return float((last["env_steps"] - first["env_steps"]) / passed)
