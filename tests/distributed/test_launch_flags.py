"""What `remdm launch` makes of its flags, and a whole launch of a script that stands in."""

import subprocess
import sys
from pathlib import Path

import pytest

from remdm import cli
from remdm.cli import launch
from tests.distributed.processes import ROOT

TYPED = [
    *("--configs", "gridworld.gin"),
    *("--bind", "Experiment.train_envs = ['Gridworld-Room-9x9-v0']"),
    *("--bind", "PolicyAgent.plan_horizon = -1"),
    *("--seed", "3", "--learning_rate", "1e-05", "--total_timesteps", "1e6"),
]

# Takes the flags of a training program, and writes them where the test looks.
SCRIPT = """
import argparse
from pathlib import Path
from remdm.cli.flags import add_common_flags
parser = argparse.ArgumentParser()
add_common_flags(parser)
parser.add_argument("--level", type=int)
args = parser.parse_args()
folder = Path(args.ckpt_base_dir) / args.run_name
(folder / f"{args.mode}-{args.index}-{args.level}-{args.seed}").touch()
raise SystemExit(0)
"""


def parts(*flags: str):
    return launch.parts_of(cli.parse(["launch", *flags]), "mine")


def test_every_role_gets_the_flags_as_they_were_typed():
    typed = vars(cli.parse(["train", *TYPED]))
    own = {"mode", "index", "run_name", "json"}
    found = parts(*TYPED, "--collectors", "2", "--labellers", "2", "--json", "rows.json")
    assert [part.name for part in found] == [
        *("learn-0", "label-0", "label-1", "collect-0", "collect-1", "validate-0")
    ]
    for part in found:
        assert part.words[:2] == ("-m", "remdm")
        args = vars(cli.parse(part.words[2:]))
        assert {k: v for k, v in args.items() if k not in own} == {
            k: v for k, v in typed.items() if k not in own
        }
        assert (args["run_name"], args["mode"]) == ("mine", part.role)
        assert args["index"] == (part.index if part.role in ("collect", "label") else None)
        assert (args["json"] is not None) == (part.role == "validate")


def test_a_second_machine_continues_the_numbers():
    flags = ["--learners", "0", "--validators", "0", "--labellers", "0", "--collectors", "2"]
    assert [p.name for p in parts(*flags, "--first_index", "4")] == ["collect-4", "collect-5"]


def test_places_are_asked_for_by_role():
    found = parts("--learners", "2", "--learner_gpus", "1", "--collector_cpus", "2.5")
    assert {p.name: (p.ranks, p.cpus, p.gpus) for p in found} == {
        "learn-0": (2, 1.0, 1.0),
        "label-0": (1, 1.0, 0.0),
        "collect-0": (1, 2.5, 0.0),
        "validate-0": (1, 1.0, 0.0),
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--collectors", "-1"], "--collectors must be at least 0, got -1"),
        (["--mode", "learn"], "leave --mode and --index out"),
        (["--script_flags=--level 3"], "--script_flags needs a --script"),
        (["--script", "nowhere.py"], "nowhere.py is none"),
        (["--validators", "0", "--json", "rows.json"], "--json needs --validators 1"),
        (
            ["--collectors", "0", "--labellers", "0", "--learners", "0", "--validators", "0"],
            "must start something",
        ),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        parts(*flags)


def remdm(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "remdm", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_is_launched_with_all_its_flags(tmp_path: Path):
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    flags = ["--script", script, "--script_flags=--level 7", "--ckpt_base_dir", tmp_path]
    done = remdm("launch", *flags, "--seed", 5, "--collectors", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "own").iterdir() if path.is_file()} == {
        *("learn-None-7-5", "label-0-7-5", "collect-0-7-5", "collect-1-7-5", "validate-None-7-5")
    }


def test_a_wrong_configuration_starts_nothing(tmp_path: Path):
    done = remdm("launch", "--bind", "Experiment.epoch = 3", "--ckpt_base_dir", tmp_path)
    assert done.returncode == 2
    assert "epochs" in done.stderr
    assert not list(tmp_path.iterdir())
