"""Reading configuration: precedence, includes, and errors that say where and what to write."""

from pathlib import Path

import gin
import pytest

from remdm import config
from remdm.config import ConfigError, load_config
from tests.configurables import Gadget, Widget, origins, values, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Precedence


def test_code_default_holds_where_nothing_is_bound() -> None:
    load_config()
    assert Widget("a").size == 1


def test_later_files_win_then_bindings_then_flags(folder: Path) -> None:
    write(folder / "a.gin", "Widget.size = 2\nWidget.ratio = 2.0\nWidget.note = 'a'\n")
    write(folder / "b.gin", "Widget.ratio = 3.0\nWidget.note = 'b'\nWidget.kind = 'b'\n")
    load_config(
        ["a.gin", "b.gin"],
        ["Widget.note = 'bind'", "Widget.kind = 'bind'"],
        {"Widget.kind": ("--kind", "flag")},
    )
    made = Widget("x")
    assert (made.size, made.ratio, made.note, made.kind) == (2, 3.0, "bind", "flag")
    assert origins() == {
        "Widget.size": "a.gin:1",
        "Widget.ratio": "b.gin:1",
        "Widget.note": "--bind",
        "Widget.kind": "--kind",
    }


def test_origin_lists_what_was_overruled(folder: Path) -> None:
    write(folder / "a.gin", "\nWidget.size = 2\n")
    load_config(["a.gin"], ["Widget.size = 3"], {"Widget.size": ("--size", 4)})
    (binding,) = config.current_bindings()
    assert binding.overruled == ("a.gin:2", "--bind")


def test_load_config_starts_afresh() -> None:
    load_config([], ["Widget.size = 2"])
    load_config([], ["Widget.ratio = 2.0"])
    assert values() == {"Widget.ratio": "2.0"}


def test_failed_load_keeps_the_previous_configuration() -> None:
    load_config([], ["Widget.size = 2"])
    with pytest.raises(ConfigError):
        load_config([], ["Widget.ratio = 1.0", "Widget.nonsense = 3"])
    assert values() == {"Widget.size": "2"}


def test_bindings_made_before_loading_are_refused_instead_of_lost() -> None:
    gin.bind_parameter("Widget.size", 3)
    with pytest.raises(ConfigError, match=r"Widget\.size bound before load_config"):
        load_config()


def test_blocks_macros_comments_and_wrapped_values_are_read(folder: Path) -> None:
    write(
        folder / "a.gin",
        """
        SIZE = 8  # cells
        Widget:
            size = %SIZE
            items = [
                1,  # one
                {'a': (2,), 'b': -3.5},
            ]
            note = 'k=v, \\'quoted\\''
        """,
    )
    load_config(["a.gin"])
    made = Widget("x")
    assert (made.size, made.items, made.note) == (8, [1, {"a": (2,), "b": -3.5}], "k=v, 'quoted'")


# Errors name the place and the nearest name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wigdet.size = 3", r"nothing configurable is called 'Wigdet': did you mean Widget"),
        ("Widget.sizes = 3", r"no argument 'sizes': did you mean Widget\.size"),
        ("Widget.label = 'x'", r"Widget\.label is worked out by the program"),
        ("build_gadget.size = 2", r"build_gadget\.size is worked out by the program"),
        ("OwnSubWidget.sise = 2", r"no argument 'sise': did you mean OwnSubWidget\.size"),
        ("Widget.kind = @Gadgte", r"called 'Gadgte': did you mean Gadget"),
        ("Widget.kind = Gadget", r"'Gadget' is no value; text needs quotes \('Gadget'\), a class"),
        ("Widget.kind = true", r"'true' is no value; write True"),
        ("Widget.ratio = inf", r"write %INF"),
        ("Widget.size = 2 * 3", r"gin does no arithmetic"),
        ("Widget.items = [1, 2", r"not closed"),
        ("Widget.size 3", r"expected ':' or '='"),
        ("size = 3", r"'size' names no class: did you mean .*Widget\.size"),
        ("Widget.size = %SIZ", r"uses %SIZ, which is nowhere defined"),
        ("Widget.kind = @eval/Gadget", r"worker processes cannot be sent"),
        ("from __gin__ import dynamic_registration", r"dynamic registration is not supported"),
        ("import no_such_module_anywhere", r"no module called 'no_such_module_anywhere'"),
    ],
)
def test_mistake_in_a_file_is_reported_with_file_line_and_fix(
    folder: Path, text: str, expected: str
) -> None:
    write(folder / "run.gin", "# header\nGadget.weight = 1.0\n" + text + "\n")
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(["run.gin"])
    assert str(caught.value).startswith("run.gin:3: ") or "not closed" in expected
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Widget.sizes=3", r"--bind 'Widget\.sizes=3': .*did you mean Widget\.size"),
        ("Widget.size", r"--bind must be 'Class\.argument = value', got 'Widget\.size'"),
        ("import os  # = ", r"only 'Class\.argument = value' can stand here"),
        ("include 'a=b.gin'", r"only 'Class\.argument = value' can stand here"),
    ],
)
def test_mistake_in_a_bind_is_reported(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config([], [text])


def test_ambiguous_name_lists_the_candidates() -> None:
    for module in ("left", "right"):
        gin.configurable("Twin", module=module)(type("Twin", (Gadget,), {}))
    with pytest.raises(ConfigError, match=r"'Twin' could be any of left\.Twin, right\.Twin"):
        load_config([], ["Twin.size = 3"])
    load_config([], ["left.Twin.size = 3"])


def test_missing_file_names_the_nearest_one(folder: Path) -> None:
    write(folder / "minihack_fast.gin", "")
    with pytest.raises(ConfigError, match=r"no config file 'minihack_fsat.gin' in .*minihack_fast"):
        load_config(["minihack_fsat.gin"])


def test_binary_file_is_an_error(folder: Path) -> None:
    (folder / "a.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.gin: a config file must be text"):
        load_config(["a.gin"])


def test_argument_bound_twice_in_a_file_is_an_error(folder: Path) -> None:
    write(folder / "a.gin", "Widget.size = 1\nWidget.ratio = 1.0\nWidget.size = 2\n")
    with pytest.raises(ConfigError, match=r"a\.gin:3: Widget\.size is bound already at a\.gin:1"):
        load_config(["a.gin"])


def test_flag_value_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"--kind: .*cannot be written"):
        load_config([], [], {"Widget.kind": ("--kind", object())})


# Includes


def test_include_is_found_beside_the_including_file(folder: Path) -> None:
    write(folder / "deep/parts/size.gin", "Widget.size = 5\n")
    write(folder / "deep/run.gin", "include 'parts/size.gin'\nWidget.ratio = 1.0\n")
    load_config(["deep/run.gin"])
    assert Widget("x").size == 5


def test_include_is_found_in_the_project_configs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder / "project/base.gin", "Widget.size = 6\n")
    monkeypatch.setattr("remdm.gin_reading.PROJECT_CONFIGS", folder / "project")
    write(folder / "mine/run.gin", "include 'base.gin'\n")
    load_config(["mine/run.gin"])
    assert Widget("x").size == 6
    load_config(["base"])
    assert Widget("x").size == 6
    assert not caplog.records  # plain gin logs an error for every place it tries in vain


def test_file_overrules_what_it_includes(folder: Path) -> None:
    write(folder / "base.gin", "Widget.size = 1\n")
    write(folder / "run.gin", "include 'base.gin'\nWidget.size = 2\n")
    load_config(["run.gin"])
    assert Widget("x").size == 2


def test_binding_above_an_include_is_an_error_instead_of_lost(folder: Path) -> None:
    write(folder / "base.gin", "Widget.size = 1\n")
    write(folder / "run.gin", "Widget.size = 2\ninclude 'base.gin'\n")
    with pytest.raises(ConfigError, match=r"run\.gin:2: includes come first"):
        load_config(["run.gin"])


def test_missing_include_names_the_including_line(folder: Path) -> None:
    write(folder / "run.gin", "\ninclude 'nowhere.gin'\n")
    with pytest.raises(ConfigError, match=r"run\.gin:2: no config file 'nowhere\.gin'"):
        load_config(["run.gin"])


def test_circular_includes_are_an_error(folder: Path) -> None:
    write(folder / "a.gin", "include 'b.gin'\n")
    write(folder / "b.gin", "include 'a.gin'\n")
    with pytest.raises(ConfigError, match=r"circle: a\.gin -> b\.gin -> a\.gin"):
        load_config(["a.gin"])
