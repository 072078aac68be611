"""A configuration in use: saved, compared, subclassed, sent to workers, checked for dead bindings.

Each test names the trap of plain gin that it closes.
"""

import contextlib
import math
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gin
import pytest

from remdm import config
from remdm.config import ConfigError, load_config
from tests.configurables import (
    DecoratedSubWidget,
    Gadget,
    OwnSubWidget,
    PlainSubWidget,
    Widget,
    origins,
    values,
    write,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Saving


def test_saved_config_loaded_alone_gives_the_same_values(folder: Path) -> None:
    write(folder / "base.gin", "SIZE = 4\nWidget.size = %SIZE\nWidget.kind = @Gadget\n")
    load_config(
        ["base.gin"],
        [
            "Widget.ratio = %INF",
            "Gadget.weight = %NAN",
            "eval/Gadget.size = 9",
            "Widget.note = 'a = b # c\\n%d @x'",
        ],
        {"Widget.items": ("--items", ["long text number " + str(i) for i in range(20)])},
    )
    before = Widget("x")
    config.save_config(folder / "config.gin")
    saved = values()
    load_config(["config.gin"])
    after = Widget("x")
    assert values() == saved
    assert vars(before) == vars(after)
    assert after.ratio == math.inf
    assert math.isnan(Gadget().weight)
    with gin.config_scope("eval"):
        assert Gadget().size == 9


def test_saving_twice_gives_the_same_bytes(folder: Path) -> None:
    load_config([], ["Widget.items = {'b': 1, 'a': [2, (3,)]}", "Gadget.size = 2"])
    config.save_config(folder / "one.gin")
    load_config(["one.gin"])
    config.save_config(folder / "two.gin")
    assert (folder / "one.gin").read_bytes() == (folder / "two.gin").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["one.gin", "two.gin"]


def test_class_bound_from_python_is_saved_where_gin_drops_it(folder: Path) -> None:
    gin.bind_parameter("Widget.kind", Gadget)
    gin.bind_parameter("Widget.ratio", math.inf)
    assert "Gadget" not in gin.config_str()
    assert "ratio" not in gin.config_str()
    config.save_config(folder / "config.gin")
    config.clear_config()
    load_config(["config.gin"])
    assert Widget("x").kind is Gadget
    assert Widget("x").ratio == math.inf


@pytest.mark.parametrize("value", [lambda: 3, {1, 2}, Path("x"), object(), [1, {"a": max}]])
def test_value_that_cannot_be_saved_is_an_error_naming_the_binding(
    folder: Path, value: Any
) -> None:
    gin.bind_parameter("Widget.kind", value)
    with pytest.raises(ConfigError, match=r"Widget\.kind: .*cannot be written into a config"):
        config.save_config(folder / "config.gin")
    assert list(folder.iterdir()) == []


def test_saved_config_imports_what_it_needs(folder: Path) -> None:
    write(
        folder / "own_module.py", "import gin\n@gin.configurable\ndef own(*, a=1):\n    return a\n"
    )
    write(folder / "run.gin", "import own_module\nown.a = 5\nLinearBeta.first = 0.25\n")
    script = """
        from remdm import config
        config.load_config(['run.gin'])
        config.save_config('config.gin')
    """
    again = """
        from remdm import config
        config.load_config(['config.gin'])
        import own_module
        from remdm.training.beta import LinearBeta
        print(own_module.own(), LinearBeta().first)
    """
    run_python(folder, script)
    assert "import own_module" in (folder / "config.gin").read_text()
    assert run_python(folder, again) == "5 0.25"


def run_python(folder: Path, script: str) -> str:
    """Run a script in a fresh process that starts in `folder`."""
    project = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{project}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_config_dict_keeps_numbers_and_text_that_hold_equals_signs() -> None:
    load_config([], ["Widget.note = 'a=b=c'", "Widget.size = 3", "Widget.kind = @Gadget"])
    assert config.config_dict() == {
        "Widget.kind": "@Gadget",
        "Widget.note": "a=b=c",
        "Widget.size": 3,
    }


# Another configuration in the same run folder


def test_differences_to_a_saved_config_are_listed(folder: Path) -> None:
    load_config([], ["Widget.size = 1", "Widget.ratio = 0.1", "Gadget.size = 2"])
    config.save_config(folder / "config.gin")
    assert config.config_differences(folder / "config.gin") == []
    load_config([], ["Widget.size = 2", "Widget.ratio = 0.1", "Widget.note = 'n'"])
    assert config.config_differences(folder / "config.gin", ignore=["Gadget.size"]) == [
        "Widget.note is 'n' now, not bound there",
        "Widget.size is 2 now, 1 there",
    ]
    assert values()["Widget.size"] == "2"  # comparing leaves the present one alone


# Bindings without effect


def test_used_bindings_are_not_reported() -> None:
    load_config([], ["SIZE = 3", "Widget.size = %SIZE", "Widget.kind = @Gadget()", "Gadget.size=2"])
    Widget("x")
    assert config.unused_bindings() == []
    config.check_bindings()


def test_unused_binding_names_the_class_that_was_used_instead() -> None:
    load_config([], ["Gadget.size = 3"])
    Widget("x")
    with pytest.raises(ConfigError, match=r"Gadget\.size \(--bind\): .*Did you mean Widget\.size"):
        config.check_bindings()
    config.check_bindings(allow=["Gadget"])


def test_unused_bindings_of_a_class_nobody_made_are_one_sentence(folder: Path) -> None:
    write(folder / "mine.gin", "Widget.size = 3\nWidget.ratio = 0.1\n")
    load_config(["mine.gin"], ["Widget.note = 'mine'", "Gadget.size = 2", "Gadget.weight = 1.0"])
    Gadget()
    with pytest.raises(ConfigError) as caught:
        config.check_bindings(allow=["Gadget"])
    _, *lines = str(caught.value).splitlines()
    assert lines == [
        "  Widget (3 bindings, --bind, mine.gin): nothing in this run used it."
        " Did you mean Gadget.size or Gadget.weight?",
    ]


def test_unused_macro_is_reported() -> None:
    load_config([], ["SIZE = 3"])
    (complaint,) = config.unused_bindings()
    assert str(complaint) == "SIZE (--bind): no value in use refers to this macro."


def test_binding_hidden_by_an_explicit_argument_is_reported() -> None:
    load_config([], ["Widget.size = 3"])
    assert Widget("x", size=4).size == 4
    (complaint,) = config.unused_bindings()
    assert "the program passes size to Widget itself" in complaint.reason


def test_binding_made_after_its_object_is_reported() -> None:
    load_config()
    Widget("x")
    gin.bind_parameter("Widget.size", 3)
    (complaint,) = config.unused_bindings()
    assert str(complaint).startswith("Widget.size (code): Widget was made before this was bound")


def test_scoped_binding_counts_as_used_only_in_its_scope() -> None:
    load_config([], ["eval/Widget.size = 3"])
    Widget("x")
    assert len(config.unused_bindings()) == 1
    with gin.config_scope("eval"):
        assert Widget("x").size == 3
    assert config.unused_bindings() == []


# Subclasses


@pytest.mark.parametrize("cls", [PlainSubWidget, DecoratedSubWidget, OwnSubWidget])
def test_subclass_receives_the_bindings_of_its_base(cls: type[Widget]) -> None:
    load_config([], ["Widget.size = 3", "Widget.note = 'base'"])
    made = cls("x")
    assert (made.size, made.note) == (3, "base")
    assert config.unused_bindings() == []


def test_subclass_bindings_win_over_those_of_the_base() -> None:
    load_config([], ["Widget.size = 3", "DecoratedSubWidget.size = 4", "OwnSubWidget.size = 5"])
    assert [c("x").size for c in (PlainSubWidget, DecoratedSubWidget, OwnSubWidget)] == [3, 4, 5]


def test_subclass_with_own_constructor_has_own_arguments() -> None:
    load_config([], ["OwnSubWidget.extra = 9", "Widget.size = 2"])
    made = OwnSubWidget("x")
    assert (made.extra, made.size) == (9, 2)


def test_subclass_in_a_script_receives_the_bindings_of_its_base(folder: Path) -> None:
    script = """
        from remdm.config import load_config
        from remdm.training.beta import LinearBeta
        load_config([], ['LinearBeta.first = 0.125'])
        class Mine(LinearBeta):
            pass
        print(Mine().first)
    """
    assert run_python(folder, script) == "0.125"


# References


def test_class_reference_is_the_class_itself_and_can_be_pickled() -> None:
    load_config([], ["Widget.kind = @Gadget"])
    kind = Widget("x").kind
    assert kind is Gadget
    assert pickle.loads(pickle.dumps(kind)) is Gadget


def test_scoped_reference_makes_an_object_with_the_bindings_of_the_scope() -> None:
    load_config([], ["Widget.kind = @eval/Gadget()", "eval/Gadget.size = 4"])
    made = Widget("x").kind
    assert type(made) is Gadget
    assert made.size == 4


# Late imports, sandboxes, other processes


def test_configurable_imported_after_loading_is_registered_and_works() -> None:
    load_config([], ["Widget.size = 3"])

    @gin.configurable(module="tests.late")
    def imported_late(*, a: int = 1) -> int:
        return a

    assert imported_late() == 1
    assert Widget("x").size == 3


def test_own_configurable_is_found_without_an_import_line(folder: Path) -> None:
    script = """
        import sys
        from remdm.config import load_config
        assert 'remdm.training.beta' not in sys.modules
        load_config([], ['LinearBeta.first = 0.125'])
        from remdm.training.beta import LinearBeta
        print(LinearBeta().first)
    """
    assert run_python(folder, script) == "0.125"


def test_sandbox_has_its_own_configuration_and_restores_the_outer_one() -> None:
    load_config([], ["Widget.size = 3"])
    Widget("x")
    with contextlib.suppress(RuntimeError), config.gin_sandbox():
        load_config([], ["Widget.size = 4"])
        assert Widget("x").size == 4
        raise RuntimeError
    assert Widget("x").size == 3
    assert origins() == {"Widget.size": "--bind"}
    assert config.unused_bindings() == []


def _size_in_worker(text: str | None) -> tuple[int, Any]:
    if text is not None:
        config.apply_worker_config(text)
    made = Widget("x")
    return made.size, made.kind


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
# A fork of a process with threads warns; the child here does nothing but answer.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_bindings_reach_worker_processes(method: str) -> None:
    load_config([], ["Widget.size = 3", "Widget.kind = @Gadget"])
    with multiprocessing.get_context(method).Pool(1) as pool:
        plain = pool.apply(_size_in_worker, (None,))
        told = pool.apply(_size_in_worker, (config.config_for_workers(),))
    assert plain == ((3, Gadget) if method == "fork" else (1, None))  # the trap itself
    assert told == (3, Gadget)


def test_worker_drops_bindings_of_classes_it_cannot_see_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config.apply_worker_config("OnlyInTheScript.size = 3\nWidget.size = 4\n")
    assert Widget("x").size == 4
    assert "OnlyInTheScript" in caplog.text
