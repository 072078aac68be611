"""Checks of a machine and an installation, as `remdm doctor` prints them.

Each check does the real thing in small: plays a level twice, compiles one, times a net. A check
that raises is reported as broken with the error's words, so that one trouble does not hide others.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from remdm._version import __version__

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
STYLES = {"ok": "green", "note": "yellow", "broken": "bold red", "skipped": "dim"}
ENV = "MiniHack-Room-Random-15x15-v0"
GB = 1e9
LEAST_DISK, GOOD_DISK = 0.5 * GB, 5 * GB

_LEVEL = """MAZE: "mylevel", ' '
FLAGS: noteleport
GEOMETRY: center, center
MAP
-----
|...|
-----
ENDMAP
STAIR: (1, 1), down
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        status: "ok", "note" (works, but), "broken" or "skipped".
        detail: What was found.
        fix: What to do about it; empty where nothing is wrong.
    """

    check: str
    status: str
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON writes it."""
        return asdict(self)


class _Unfit(Exception):
    """Something is broken: what, and what to do."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.detail, self.fix = detail, fix


def examine(*, speed: bool = True) -> list[Finding]:
    """Run all checks.

    Args:
        speed: Time environment, oracle and net as well; takes some seconds.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", check_python),
        ("torch", check_torch),
        ("disk", check_disk),
        ("numba", check_numba),
    ]
    findings = [*check_packages()]
    if _version("nle") and _version("minihack"):
        checks += [
            ("pkg_resources", check_pkg_resources),
            ("gymnasium pin", check_gymnasium_pin),
            ("level compiler", check_level_compiler),
            ("seeding", check_seeding),
        ]
        if speed:
            checks += [("env speed", time_env), ("label speed", time_labels)]
    else:
        fix = "pip install -e '.[minihack]' -c constraints.txt"
        findings.append(Finding("minihack", "skipped", "the minihack extra is not installed", fix))
    if speed:
        checks.append(("plan speed", time_plans))
    return [_guarded(name, check) for name, check in checks] + findings


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except _Unfit as trouble:
        return Finding(name, "broken", trouble.detail, trouble.fix)
    except Exception as error:
        return Finding(name, "broken", f"{type(error).__name__}: {error}", "see the error")


def check_python() -> Finding:
    """3.11 to 3.13."""
    found = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise _Unfit(f"Python {found}", "use Python 3.11, 3.12 or 3.13")
    return Finding("python", "ok", f"{found} on {platform.platform(terse=True)}")


def check_torch() -> Finding:
    """What torch computes on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Finding(
        "torch", "ok", f"{torch.__version__} on {device}, {torch.get_num_threads()} threads"
    )


def check_disk() -> Finding:
    """Room for shards and checkpoints in the working folder."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / GB:.1f} GB free in the working folder"
    fix = "make room, or set --ckpt_base_dir to another disk"
    if free < LEAST_DISK:
        raise _Unfit(detail, fix)
    return (
        Finding("disk", "ok", detail) if free > GOOD_DISK else Finding("disk", "note", detail, fix)
    )


def check_numba() -> Finding:
    """Compiled labels: without them the oracle is a hundred times slower."""
    import numba

    compiled = numba.njit(lambda x: x + 1)
    if compiled(1) != 2:
        raise _Unfit(f"numba {numba.__version__} computes wrong sums", "reinstall numba")
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return Finding("numba", "note", "compiling is off", "unset NUMBA_DISABLE_JIT")
    return Finding("numba", "ok", f"{numba.__version__} compiles")


def check_packages() -> Iterator[Finding]:
    """Required packages are there; versions differ from the pinned ones at most knowingly."""
    pins = _pins()
    missing, different = [], []
    for requirement in importlib.metadata.requires("remdm") or [] if _version("remdm") else []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement)[0]
        if _version(name) is None:
            missing.append(name)
    for name, pin in sorted(pins.items()):
        found = _version(name)
        if found is not None and found.split("+")[0] != pin:
            different.append(f"{name} {found} (pinned {pin})")
    install = "pip install -e '.[minihack]' -c constraints.txt"
    if missing:
        yield Finding("packages", "broken", f"missing: {', '.join(missing)}", install)
    elif different:
        yield Finding("packages", "note", f"not as pinned: {', '.join(different)}", install)
    else:
        yield Finding("packages", "ok", f"remdm {__version__}, {len(pins)} pinned versions agree")


def _pins() -> dict[str, str]:
    if not CONSTRAINTS.is_file():  # an installed wheel
        return {}
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.strip(): version.strip() for name, version in pairs}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_pkg_resources() -> Finding:
    """Minihack imports pkg_resources, which setuptools 81 removes."""
    found = _version("setuptools") or "missing"
    if importlib.util.find_spec("pkg_resources") is None:
        raise _Unfit(
            f"setuptools {found} has no pkg_resources, which minihack imports",
            "pip install 'setuptools<81'",
        )
    return Finding("pkg_resources", "ok", f"setuptools {found}")


def check_gymnasium_pin() -> Finding:
    """Nle names the one gymnasium that it works with."""
    from packaging.requirements import Requirement

    found = importlib.metadata.version("gymnasium")
    for text in importlib.metadata.requires("nle") or []:
        wanted = Requirement(text)
        if wanted.name == "gymnasium" and not wanted.specifier.contains(found):
            raise _Unfit(
                f"gymnasium {found}, but nle wants {wanted.specifier}",
                f"pip install 'gymnasium{wanted.specifier}'",
            )
    return Finding("gymnasium pin", "ok", f"gymnasium {found} is what nle wants")


def check_level_compiler() -> Finding:
    """A small level compiles, and a wrong one is refused."""
    from remdm.envs.level_compiler import LevelError, level_compiler

    compiler = level_compiler()
    compiler.compile(_LEVEL)
    try:
        compiler.compile(_LEVEL.replace("STAIR", "STARE"))
    except LevelError:
        return Finding("level compiler", "ok", "compiles levels, refuses mistakes")
    raise _Unfit("a level with a mistake compiled", "reinstall nle: its lev_comp is not sound")


def check_seeding() -> Finding:
    """The same seed gives the same level, another seed another one."""
    first, again, other = (_first_glyphs(seed) for seed in (7, 7, 8))
    if not np.array_equal(first, again):
        raise _Unfit("the same seed gave two different levels", "reinstall the pinned nle")
    if np.array_equal(first, other):
        raise _Unfit("different seeds gave the same level", "reinstall the pinned nle")
    return Finding("seeding", "ok", "levels follow from their seeds")


def _first_glyphs(seed: int) -> np.ndarray:
    from remdm.envs.making import make_env
    from remdm.maps import empty_observations

    env = make_env(ENV)
    try:
        out = empty_observations(env.observation_spec, ())
        env.reset(seed)
        env.observe(out)
        return out["glyphs"]
    finally:
        env.close()


def time_env() -> Finding:
    """Steps of one environment a second, observation and memory included."""
    from remdm.envs.making import make_env
    from remdm.maps import empty_observations

    env = make_env(ENV)
    try:
        out = empty_observations(env.observation_spec, ())
        rng = np.random.default_rng(0)
        actions = rng.integers(0, 8, 4000).tolist()
        env.reset(0)
        began, over = time.perf_counter(), False
        for seed, action in enumerate(actions):
            if over:
                env.reset(seed)
            result = env.step(action)
            env.observe(out)
            over = result.terminated or result.truncated
        rate = len(actions) / (time.perf_counter() - began)
    finally:
        env.close()
    return _speed("env speed", rate, 20_000, "steps/s in one process")


def time_labels() -> Finding:
    """Labels of the memory oracle a second, on states of one episode."""
    from remdm.envs.making import make_vec_env
    from remdm.evaluation.policies import OraclePolicy
    from remdm.evaluation.recording import record_episode
    from remdm.oracles.making import make_oracle

    oracle = make_oracle("memory")
    vec_env = make_vec_env([ENV])
    try:
        recording = record_episode(OraclePolicy(oracle), vec_env, 3)
    finally:
        vec_env.close()
    moments = [moment.observation for moment in recording.moments]
    observations = {key: np.stack([m[key] for m in moments]) for key in moments[0]}
    seconds = _seconds_per_call(lambda: oracle.label(observations, 16))
    return _speed("label speed", len(moments) / seconds, 30_000, "labels/s in one thread")


def time_plans() -> Finding:
    """Milliseconds a plan of an untrained default agent, alone and in a batch."""
    import torch

    from remdm.agent import DiffusionPlannerAgent
    from remdm.maps import NUM_ACTIONS, empty_observations, map_observation_spec

    spec = map_observation_spec(21, 79)
    agent = DiffusionPlannerAgent(spec, NUM_ACTIONS).eval()
    generator = torch.Generator().manual_seed(0)
    milliseconds = {}
    for batch in (1, 64):
        observations = empty_observations(spec, (batch,))
        seconds = _seconds_per_call(functools.partial(agent.plan, observations, generator))
        milliseconds[batch] = 1000 * seconds / batch
    return Finding(
        "plan speed",
        "ok",
        f"{milliseconds[1]:.1f} ms a plan alone, {milliseconds[64]:.2f} ms in a batch of 64 "
        "(untrained default net)",
    )


def _seconds_per_call(call: Callable[[], Any], least_seconds: float = 0.5) -> float:
    call()  # pays for compiling
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < least_seconds:
        call()
        calls += 1
    return (time.perf_counter() - began) / calls


def _speed(check: str, rate: float, expected: float, unit: str) -> Finding:
    detail = f"{rate:,.0f} {unit}"
    if rate >= expected:
        return Finding(check, "ok", detail)
    fix = f"{expected:,.0f} is usual; is something else running here?"
    return Finding(check, "note", detail, fix)


def print_findings(findings: list[Finding]) -> None:
    """A table of what was found, and one sentence at its end."""
    table = Table("", "check", "found", box=None, header_style="bold", pad_edge=False)
    for finding in findings:
        style = STYLES[finding.status]
        text = escape(finding.detail) + (f"\n[dim]{escape(finding.fix)}[/]" if finding.fix else "")
        table.add_row(f"[{style}]{finding.status}[/]", escape(finding.check), text)
    console = Console(highlight=False)
    console.print(table)
    broken = [finding.check for finding in findings if finding.status == "broken"]
    console.print(f"broken: {', '.join(broken)}" if broken else "nothing is broken")
