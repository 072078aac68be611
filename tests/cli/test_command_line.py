"""The command line: what users type, what they mistype, and what comes back."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import gin
import pytest

from remdm import cli, config, doctor
from remdm.cli import command_line, commands, flags, main
from remdm.training.checkpoint import list_checkpoints, read_state
from tests.cli.told_errors import errors_of
from tests.configurables import write

ROOT = Path(__file__).parent.parent


@gin.configurable(module="tests")
class Knob:
    def __init__(self, *, size: int = 1) -> None:
        self.size = size


TINY = """\
# A run of seconds in a gridworld.
Experiment.train_envs = ['Gridworld-Room-9x9-v0']
Experiment.heldout_envs = ['Gridworld-DarkRoom-9x9-v0']
Experiment.parallel_actors = 4
Experiment.epochs = 2
Experiment.train_timesteps_per_epoch = 32
Experiment.train_batches_per_epoch = 4
Experiment.batch_size = 8
Experiment.val_interval = 1
Experiment.val_episodes = 1
Experiment.test_episodes = 1
Experiment.baseline_agent_type = @PolicyAgent
DiffusionPlannerAgent.plan_horizon = 8
PolicyAgent.plan_horizon = 8
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Flags


def test_only_typed_flags_become_bindings() -> None:
    args = cli.parse(["train", "--configs", "x.gin", "--seed", "4", "--epochs", "7"])
    args.configs = []
    flags.load_from_flags(args)
    found = {b.name: (b.text, b.origin) for b in config.current_bindings()}
    assert found == {"Experiment.epochs": ("7", "--epochs"), "Experiment.seed": ("4", "--seed")}


def test_flag_wins_over_bind_and_bind_over_file(folder: Path) -> None:
    write(folder / "a.gin", "Experiment.seed = 1\nExperiment.epochs = 1\nKnob.size = 1\n")
    argv = ["train", "--configs", "a.gin", "--bind", "Experiment.seed=2", "--bind", "Knob.size=2"]
    flags.load_from_flags(cli.parse([*argv, "--seed", "3"]))
    found = {b.name: b.text for b in config.current_bindings()}
    assert found == {"Experiment.epochs": "1", "Experiment.seed": "3", "Knob.size": "2"}


def test_steps_may_be_typed_in_powers_of_ten() -> None:
    assert cli.parse(["train", "--total_timesteps", "1e8"]).total_timesteps == 10**8


def test_every_flag_binds_an_argument_that_exists() -> None:
    for flag in flags.FLAGS:
        value = flag.kind("1")
        config.load_config([], [], {flag.binding: (flag.name, value)})


def test_run_name_is_that_of_the_last_config() -> None:
    args = cli.parse(["train", "--configs", "base.gin", "deep/mine.gin"])
    assert flags.run_name_of(args) == "mine"
    assert flags.run_name_of(cli.parse(["train", "--run_name", "given"])) == "given"


# Mistakes


def test_unknown_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'trian': did you mean 'train'" in errors_of(capsys, "trian")


def test_unknown_flag_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not know '--epoch'; did you mean --epochs" in errors_of(
        capsys, "train", "--epoch", "3"
    )


def test_missing_config_is_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "no config file 'nowhere.gin'" in errors_of(capsys, "train", "--configs", "nowhere.gin")


def test_misspelt_binding_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = errors_of(capsys, "train", "--bind", "Experiment.batchsize = 3")
    assert "did you mean Experiment.batch_size" in text


def test_unknown_environment_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = errors_of(capsys, "oracle", "--envs", "Gridworld-Maze-9x8-v0")
    assert "'Gridworld-Maze-9x9-v0'" in text


def test_unknown_oracle_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = errors_of(capsys, "oracle", "--oracle", "memmory", "--envs", "gridworld")
    assert "did you mean 'memory'" in text


def test_training_without_environments_says_how_to_name_them(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    text = errors_of(capsys, "train")
    assert "train_envs" in text
    assert "--configs" in text


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--configs", "nowhere.gin", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> int:
        raise AttributeError("a bug")

    monkeypatch.setitem(
        command_line.COMMANDS, "doctor", command_line.Command("", lambda parser: None, broken)
    )
    with pytest.raises(AttributeError, match="a bug"):
        main(["doctor"])


def test_interrupt_is_told_and_has_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(
        command_line.COMMANDS, "doctor", command_line.Command("", lambda parser: None, interrupted)
    )
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_gin_notes_are_left_out_of_messages() -> None:
    @gin.configurable(module="tests")
    def refuses(*, a: int = 1) -> None:
        raise ValueError("a must be 2, got 1; set refuses.a")

    with pytest.raises(ValueError, match="In call to configurable") as caught:
        refuses()
    assert commands.message_of(caught.value) == "a must be 2, got 1; set refuses.a"


# config


def test_config_shows_values_with_their_origin(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write(folder / "a.gin", "# mine\nKnob.size = 1\n")
    assert main(["config", "a.gin", "--bind", "Knob.size = 2", "--seed", "5"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Knob.size", "2", "--bind", "(over", "a.gin:2)"] in lines
    assert ["Experiment.seed", "5", "--seed"] in lines


def test_config_shows_defaults_when_asked(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["config", "--bind", "Experiment.seed = 5", "--defaults"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Experiment.batch_size", "128", "default"] in lines
    assert ["Experiment.train_envs", "(required)", "default"] in lines


def test_config_text_can_be_loaded_again(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["config", "--text", "--bind", "Knob.size = [1, {'a': 'x'}]"]) == 0
    write(folder / "again.gin", capsys.readouterr().out)
    config.load_config(["again.gin"])
    assert Knob().size == [1, {"a": "x"}]


def test_config_finds_an_environment_that_does_not_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = errors_of(capsys, "config", "--bind", "Experiment.train_envs = ['Gridwrld-Maze']")
    assert "unknown environment 'Gridwrld-Maze'" in text


# oracle, train, eval, watch


def test_oracle_can_be_watched(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    argv = ["watch", "memory", "--env", "Gridworld-Room-9x9-v0", "--gif", "out.gif"]
    assert main(argv) == 0
    assert (folder / "out.gif").read_bytes().startswith(b"GIF89a")
    assert "won" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after `remdm train`."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "tiny.gin", TINY)
    argv = ["train", "--configs", str(folder / "tiny.gin"), "--ckpt_base_dir", str(folder)]
    assert main([*argv, "--seed", "3", "--json", str(folder / "final.json")]) == 0
    return folder / "tiny"


def test_training_leaves_a_config_that_repeats_it_and_a_table(trained: Path) -> None:
    config.load_config([trained / "config.gin"])
    assert config.bound_value("Experiment.seed") == 3
    assert config.bound_value("Experiment.epochs") == 2
    rows = json.loads((trained.parent / "final.json").read_text())["rows"]
    assert {row["policy"] for row in rows} >= {"random", "memory", "planner", "single_step"}
    assert (trained / "metrics.jsonl").is_file()


def test_training_again_with_another_config_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "--configs", str(trained / "config.gin"), "--run_name", "tiny"]
    text = errors_of(capsys, *argv, "--batch_size", "9")
    assert "Experiment.batch_size is 9 now, 8 there" in text


def test_eval_measures_what_training_left(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    argv = ["eval", str(trained), "--episodes", "2", "--seed", "50", "--json", "rows.json"]
    assert main([*argv, "--policies", "planner", "random"]) == 0
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert [(row["policy"], row["episodes"], row["first_seed"]) for row in rows] == [
        (policy, 2, 50) for policy in ("planner", "random") for _ in range(2)
    ]
    assert main([*argv, "--policies", "planner", "random"]) == 0
    assert json.loads((folder / "rows.json").read_text())["rows"] == rows


def test_trained_agent_can_be_watched(
    trained: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    argv = ["watch", str(trained), "--env", "Gridworld-Room-9x9-v0", "--gif", "out.gif"]
    assert main([*argv, "--denoise", "--png", "strip.png"]) == 0
    assert (folder / "out.gif").stat().st_size > 1000
    assert (folder / "strip.png").stat().st_size > 1000
    assert "plan 1: " in capsys.readouterr().out


# doctor


def test_doctor_finds_this_machine_sound_or_says_why(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code = main(["doctor", "--quick", "--json", "found.json"])
    found = json.loads((folder / "found.json").read_text())
    assert {"python", "torch", "disk", "numba", "packages"} <= {row["check"] for row in found}
    broken = [row for row in found if row["status"] == "broken"]
    assert code == (1 if broken else 0)
    assert all(row["fix"] for row in broken)


def test_doctor_reports_a_check_that_raises_as_broken() -> None:
    def raises() -> doctor.Finding:
        raise OSError("no such device")

    finding = doctor._guarded("disk", raises)
    assert (finding.status, finding.detail) == ("broken", "OSError: no such device")


def test_doctor_names_packages_that_are_not_as_pinned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "constraints.txt", "# pins\nnumpy==0.0.1\nnot-installed==1.0\n")
    monkeypatch.setattr(doctor, "CONSTRAINTS", folder / "constraints.txt")
    (finding,) = doctor.check_packages()
    assert finding.status == "note"
    assert "numpy" in finding.detail
    assert "not-installed" not in finding.detail


def test_module_and_version_answer_from_a_fresh_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "remdm", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("remdm ")


def interrupt_training(folder: Path, config_file: Path, after_epochs: int) -> tuple[int, str]:
    """Start `remdm train`, send Ctrl-C once so many epochs are in the log; code and output."""
    log = folder / "long/metrics.jsonl"
    argv = ["train", "--configs", str(config_file), "--ckpt_base_dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "remdm", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        lines = log.read_text().splitlines() if log.exists() else []
        if sum('"seconds"' in line for line in lines) >= after_epochs:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.05)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


@pytest.mark.slow
def test_interrupted_training_stops_cleanly_and_goes_on_where_it_stopped(folder: Path) -> None:
    recipe = write(folder / "long.gin", TINY.replace("epochs = 2", "epochs = 100000"))
    code, output = interrupt_training(folder, recipe, after_epochs=1)
    assert code == 130, output
    assert "the same command goes on from there" in output
    assert "Traceback" not in output
    stopped_at = read_state(list_checkpoints(folder / "long/ckpts")[-1])["progress"]
    code, output = interrupt_training(folder, recipe, after_epochs=stopped_at["epoch"] + 1)
    assert code == 130, output
    went_on_to = read_state(list_checkpoints(folder / "long/ckpts")[-1])["progress"]
    assert went_on_to["env_steps"] > stopped_at["env_steps"]
    epochs = [
        json.loads(line)["epoch"]
        for line in (folder / "long/metrics.jsonl").read_text().splitlines()
        if '"seconds"' in line
    ]
    assert epochs == list(range(len(epochs)))  # none twice, none left out
