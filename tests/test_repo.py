"""Rules of the house that a machine can check."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gin import config as gin_config

import remdm
from remdm import config, gin_names
from tests.tiny_runs import TINY_PPO

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "remdm"
OURS = ("remdm", "tests", "examples", "benchmarks", "gin_configs", "docs", ".ci")
PYTHON_FILES = sorted(p for folder in OURS for p in (ROOT / folder).rglob("*.py"))
TEXT_FILES = sorted(
    [
        *PYTHON_FILES,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *(ROOT / "gin_configs").rglob("*.gin"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "setup.py",
        ROOT / "constraints.txt",
        ROOT / "Makefile",
        ROOT / ".ci/run",
    ]
)
GIN_FILES = sorted((ROOT / "gin_configs").rglob("*.gin"))
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
OPTIONAL = ("wandb", "nle", "minihack", "jax", "craftax", "ray", "stable_baselines3", "sb3_contrib")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


# Imports


def test_import_of_the_package_is_light() -> None:
    loaded = loaded_after("import remdm")
    assert loaded.isdisjoint({*OPTIONAL, "torch", "numpy", "numba", "gin", "matplotlib"})


@pytest.mark.parametrize(
    "statement", ["from remdm import Experiment", "import remdm.cli", "import remdm.envs.minihack"]
)
def test_optional_packages_are_only_imported_on_demand(statement: str) -> None:
    assert loaded_after(statement).isdisjoint(OPTIONAL)


def test_command_line_starts_without_torch() -> None:
    assert "torch" not in loaded_after("import remdm.cli")


def test_public_names_resolve_and_are_all_there_is() -> None:
    for name in remdm.__all__:
        assert getattr(remdm, name) is not None
    assert sorted(remdm.__all__) == [
        "BaseAgent",
        "DiffusionPlannerAgent",
        "DiskTrajDataset",
        "Experiment",
        "MemoryOracle",
        "MixtureOfDatasets",
        "Oracle",
        "PlanVecEnv",
        "PlannerEnv",
        "PolicyAgent",
        "RLDataset",
        "__version__",
        "load_config",
        "make_env",
    ]
    with pytest.raises(AttributeError, match="no attribute 'Expriment'"):
        _ = remdm.Expriment


def imports_of(path: Path) -> set[str]:
    """Every module of ours that a file imports, anywhere in it, except for type checking."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in ast.walk(node):
                child.only_for_types = True  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if hasattr(node, "only_for_types"):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.split(".")[0] == "remdm"}


FOUNDATION = (
    "tokens", "maps", "registry", "seeding", "config", "gin_text", "ranks", "stretch", "_version",
)  # fmt: skip
ALLOWED = {
    "diffusion": (*FOUNDATION, "diffusion"),
    "nets": (*FOUNDATION, "nets", "data.batch"),
    # A dataset labels with an oracle, of which it knows the contract.
    "data": (*FOUNDATION, "data", "oracles.contract"),
    "envs": (*FOUNDATION, "envs"),
    "oracles": (*FOUNDATION, "oracles", "envs"),
}


@pytest.mark.parametrize("room", ALLOWED)
def test_dependencies_point_one_way(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for name in imports_of(path):
            inner = name.removeprefix("remdm").removeprefix(".")
            fits = any(f"{inner}.".startswith(f"{allowed}.") for allowed in ALLOWED[room])
            # `from remdm.x import y` is seen as both remdm.x and remdm.x.y.
            parents = [allowed for allowed in ALLOWED[room] if allowed.startswith(f"{inner}.")]
            assert not inner or fits or parents, f"{name_of(path)} imports {name}"


def test_only_the_command_line_knows_the_experiment() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem in ("__main__", "experiment") or path.parent.name == "cli":
            continue
        assert "remdm.experiment" not in imports_of(path), name_of(path)


# Files


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_file_has_a_vague_name() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}
    assert [name_of(p) for p in PYTHON_FILES if p.stem in vague or p.parent.name in vague] == []


@pytest.mark.parametrize("path", TEXT_FILES, ids=name_of)
def test_file_is_ascii_and_holds_nothing_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    if path == Path(__file__):
        return
    found = re.search(
        r"(?<![\w.])/(work|home|root|opt|tmp)/|--index-url|index-url|find-links", text
    )
    assert found is None, found
    assert re.search(r"\b(TODO|FIXME|XXX)\b", text) is None


@pytest.mark.parametrize(
    "path", [p for p in PYTHON_FILES if p.is_relative_to(PACKAGE)], ids=name_of
)
def test_package_writes_nothing_unasked_and_pickles_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    compiled = [
        function
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any("njit" in ast.unparse(decorator) for decorator in function.decorator_list)
    ]
    inside = {id(node) for function in compiled for node in ast.walk(function)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    assert "print" not in names
    attributes = [node for node in calls if isinstance(node.func, ast.Attribute)]
    for node in attributes:
        text = ast.unparse(node.func)
        if text == "torch.load":
            assert "weights_only=True" in ast.unparse(node)
        assert text not in ("pickle.dump", "pickle.load")
        # Compiled code has a generator of its own, which only it can seed.
        assert text != "np.random.seed" or id(node) in inside


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_example_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert ast.get_docstring(ast.parse(text))
    assert 'if __name__ == "__main__":' in text


def test_makefile_and_constraints_are_as_the_readme_says() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("train", "test", "lint", "bench"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in constraints
    assert any(re.fullmatch(r"setuptools==(\d|[1-7]\d|80)\..*", line) for line in constraints)


def test_version_is_in_the_changelog_or_unreleased() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{remdm.__version__}]" in changelog or "## [Unreleased]" in changelog


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_code_blocks_of_the_documents_parse(path: Path) -> None:
    for block in code_blocks(path, "python"):
        compile(block, name_of(path), "exec")
    for block in code_blocks(path, "gin"):
        with config.gin_sandbox():
            config.load_config(
                [], [line for line in block.splitlines() if re.match(r"[\w/.]+ *=", line)]
            )
    for block in code_blocks(path, "bash"):
        done = subprocess.run(["bash", "-n"], input=block, text=True, check=False)
        assert done.returncode == 0, block


# Configuration


@pytest.mark.parametrize("path", GIN_FILES, ids=name_of)
def test_config_file_says_what_it_is_and_loads(path: Path) -> None:
    assert path.read_text().startswith("#")
    config.load_config([path])


# What `remdm train` takes; experts and baselines have loops and tests of their own.
OTHER_LOOPS = ("_expert", "_baselines")
RECIPES = [p for p in GIN_FILES if p.stem != "smoke" and not p.stem.endswith(OTHER_LOOPS)]


def blank_expert(folder: Path, env_name: str) -> Path:
    """An expert that has learnt nothing, for recipes that need one."""
    from remdm.envs.craftax.game import load_game
    from remdm.experts.checkpoint import save_expert
    from remdm.experts.nets import POLICIES
    from remdm.experts.policy import blank_params

    game = load_game(env_name)
    params = blank_params(POLICIES["ppo"](len(game.action_names), 8), 8, game.codec.flat_size)
    facts = {"algorithm": "ppo", "env_name": env_name, "width": 8}
    return save_expert(folder, facts, params)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_starts_and_uses_all_it_binds(path: Path, tmp_path: Path) -> None:
    binds = []
    if path.stem.startswith("minihack"):
        pytest.importorskip("nle")
        config.load_config([path])
        if config.bound_value("Experiment.buffer_dir") is not None:
            binds.append(f"Experiment.buffer_dir = {str(tmp_path / 'demonstrations')!r}")
        if config.bound_value("Experiment.start_from") is not None:
            binds.append("Experiment.start_from = None")  # a run that is not here
        config.clear_config()
    if path.stem.startswith("craftax"):
        pytest.importorskip("craftax")
        config.load_config([path])
        (game,) = config.bound_value("Experiment.train_envs")
        binds = [f"ExpertOracle.expert = {str(tmp_path / 'expert')!r}"]
        if config.bound_value("ExpertOracle.training_type") is not None:
            binds += TINY_PPO
        else:
            blank_expert(tmp_path / "expert", game)
        config.clear_config()
    folder = {"Experiment.ckpt_base_dir": ("--ckpt_base_dir", str(tmp_path))}
    config.load_config([path, "smoke"], binds, folder)
    experiment = remdm.Experiment("smoke")
    experiment.start()
    try:
        config.check_bindings()
    finally:
        experiment.close()


def import_everything() -> None:
    for module in pkgutil.walk_packages(remdm.__path__, "remdm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def own_configurables() -> list[gin_config.Configurable]:
    import_everything()
    return [
        configurable
        for selector, configurable in gin_config._REGISTRY.items()
        if selector.startswith("remdm.")
    ]


def test_every_configurable_is_found_by_its_name_without_an_import() -> None:
    names = {configurable.name for configurable in own_configurables()}
    assert names == set(gin_names.own_configurables())


def test_arguments_of_configurables_are_inferred_or_knobs() -> None:
    for configurable in own_configurables():
        denied = set(configurable.denylist or ())
        for spec in gin_names._specs(configurable):
            optional = set(spec.args[len(spec.args) - len(spec.defaults or ()) :])
            assert optional <= denied, (
                f"{configurable.name}: {optional - denied} must be keyword-only or in the denylist"
            )
            without = set(spec.kwonlyargs) - set(spec.kwonlydefaults or ())
            assert without <= denied, f"{configurable.name}: {without} have no default"


def test_package_passes_knobs_of_configurables_to_nobody() -> None:
    """An explicit keyword would hide the binding, and be missing from the saved config."""
    knobs = {c.name: set(gin_names.bindable_arguments(c)) for c in own_configurables()}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "diffusion":  # a sampler preset is a full set of numbers
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                passed = {keyword.arg for keyword in node.keywords}
                hidden = passed & knobs.get(node.func.id, set())
                assert not hidden, f"{name_of(path)}:{node.lineno} passes {hidden}"


def test_every_configurable_documents_its_knobs() -> None:
    for configurable in own_configurables():
        wrapped = configurable.wrapped
        text = inspect.getdoc(wrapped) or ""
        for base in inspect.getmro(wrapped) if inspect.isclass(wrapped) else ():
            text += (inspect.getdoc(base.__dict__.get("__init__")) or "") + (base.__doc__ or "")
        for argument in gin_names.bindable_arguments(configurable):
            assert re.search(rf"\b{argument}\b", text), f"{configurable.name}.{argument}"
