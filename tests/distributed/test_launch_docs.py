"""The commands of docs/distributed.md exist, and its SLURM job does what it says."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from remdm.cli.command_line import parsers
from tests.distributed.processes import HANGS_S, ROOT
from tests.test_repo import code_blocks

DOCUMENT = ROOT / "docs/distributed.md"
SHELL = code_blocks(DOCUMENT, "bash")
(PYTHON,) = code_blocks(DOCUMENT, "python")
(SBATCH,) = (block for block in SHELL if block.startswith("#!/bin/bash"))


def options(command: str) -> set[str]:
    _, commands = parsers()
    return {text for action in commands[command]._actions for text in action.option_strings}


def lines() -> list[str]:
    joined = "\n".join(SHELL).replace("\\\n", " ")
    return [line for line in joined.splitlines() if not line.startswith("#")]


def test_all_flags_of_remdm_in_the_commands_exist():
    found = 0
    for line in lines():
        for command, flags in re.findall(r"\bremdm (launch|train)\b(.*)", line):
            typed = set(re.findall(r"--[a-z_]+", flags))
            assert typed <= options(command), line
            found += len(typed)
    assert found > 20


def test_flags_that_are_kept_in_arrays_exist():
    arrays = re.findall(r"^ *(?:if .*then )?(?:RUN|others)=\((.*?)\)", SBATCH, re.MULTILINE)
    typed = {flag for array in arrays for flag in re.findall(r"--[a-z_]+", array)}
    assert {"--configs", "--learners", "--labellers"} <= typed <= options("launch")


def test_flags_of_the_submitit_example_exist():
    constants = [
        node.value for node in ast.walk(ast.parse(PYTHON)) if isinstance(node, ast.Constant)
    ]
    typed = {value for value in constants if isinstance(value, str) and value.startswith("--")}
    assert {"--collectors", "--first_index"} <= typed <= options("launch")


def test_the_job_asks_to_be_requeued_and_warned():
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", SBATCH, re.MULTILINE))
    assert "requeue" in asked
    grace = re.search(r"--grace_seconds (\d+)", SBATCH)
    warned = re.fullmatch(r"B:TERM@(\d+)", asked["signal"])
    assert grace is not None
    assert warned is not None
    assert int(grace[1]) < int(warned[1])


COMMANDS = {
    "scontrol": 'if [ "$1" = show ]; then echo a b c; else echo "$*" >> "$LOG/requeued"; fi',
    "srun": 'touch "$LOG/started-$BASHPID"; exec "{python}" -c "{step}"',
}
STEP = """
import os, signal, sys, time
from pathlib import Path
log = Path(os.environ['LOG'])
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), sys.exit(130)))
(log / f'ready-{os.getpid()}').touch()
while not (log / 'DONE').exists(): time.sleep(0.01)
"""


def job(folder: Path) -> subprocess.Popen[bytes]:
    """The job's shell, with commands of SLURM that only write down what they are asked."""
    for name, text in COMMANDS.items():
        path = folder / name
        path.write_text(
            "#!/bin/bash\n" + text.replace("{python}", sys.executable).replace("{step}", STEP)
        )
        path.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(folder),
        "SCRATCH": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[a-c]",
    }
    process = subprocess.Popen(["bash", "-c", SBATCH], env=env)
    end = time.monotonic() + HANGS_S
    while len(list(folder.glob("ready-*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def test_the_job_waits_for_its_steps_and_is_requeued_when_its_time_is_over(tmp_path):
    process = job(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANGS_S) == 130
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_the_job_of_a_finished_run_is_not_requeued(tmp_path):
    process = job(tmp_path)
    (tmp_path / "DONE").touch()
    assert process.wait(HANGS_S) == 0
    assert not (tmp_path / "requeued").exists()
