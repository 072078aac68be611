"""The tables for people who come from the published planners: what they name exists."""

import argparse
import re
from pathlib import Path

import pytest

from remdm import config, gin_names
from remdm.cli.command_line import parsers
from remdm.training.metric_names import ALIKE

ROOT = Path(__file__).parent.parent
MINIHACK = ROOT / "docs/minihack_keys.md"
TABLES = [MINIHACK, ROOT / "docs/craftax_keys.md"]
BINDING = re.compile(r"\b([A-Z][A-Za-z]+)\.([a-z_]+)\b")
# Keys and flags of the published MiniHack planner's README.
PUBLISHED = re.findall(
    r"\S+",
    """
    --algo --blind-global --checkpoint --config --data --des --envs --episodes --mode --n-seeds
    --no-ema --no-warm-start --output --seeds --wandb-artifact aux_loss_weight buffer_capacity
    checkpoint_eval_episodes checkpoint_every_timesteps collect_episodes_per_env
    collect_num_workers collect_output curriculum_preseed curriculum_queue_size dagger_batch_size
    dagger_grad_clip dagger_lr diffusion_steps_collect diffusion_steps_eval dropout
    efficiency_multiplier ema_decay episodes_per_iteration eta eval_episodes_per_env
    global_gate_init grad_steps_per_iteration id_eval_every_timesteps label_smoothing
    loss_weight_clip n_embd n_global_tokens n_head n_layer noise_schedule num_collection_workers
    num_diffusion_steps offline_batch_size offline_buffer_capacity
    offline_checkpoint_every_grad_steps offline_eval_every_grad_steps offline_grad_clip
    offline_log_every offline_lr offline_total_grad_steps ood_eval_every_timesteps
    physics_aware_sampling remask_strategy replan_every seed seq_len temperature top_k
    torch_compile total_timesteps use_amp use_importance_weighting use_wandb wandb_project
    wandb_resume_id weight_decay
    """,
)


def rows(path: Path) -> list[list[str]]:
    """The cells of all table rows, heads left out."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("there",) and set("".join(row)) - set("-: ")]


def snippets(path: Path) -> list[str]:
    """What the tables put between backticks in their last column: of this project."""
    return [code for row in rows(path) for code in re.findall(r"`([^`]+)`", row[-1])]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_binding_named_in_a_table_of_keys_exists(path: Path) -> None:
    text = path.read_text()
    named = {found for code in snippets(path) for found in BINDING.findall(code)}
    named.discard(("Class", "argument"))  # any
    assert len(named) > 30
    for owner, argument in sorted(named):
        gin_names.check_argument(gin_names.find_configurable(owner), argument)
    for owner in sorted(set(re.findall(r"@(\w+)", text))):
        gin_names.find_configurable(owner)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_binding_with_a_value_can_be_read(path: Path) -> None:
    whole = re.compile(rf"{BINDING.pattern} = [^ .].*")
    texts = [code for code in snippets(path) if whole.fullmatch(code) and " x " not in code]
    assert len(texts) > 10
    for text in texts:
        with config.gin_sandbox():
            config.load_config([], [text])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_config_file_named_in_a_table_of_keys_exists(path: Path) -> None:
    named = set(re.findall(r"\b[a-z_]+\.gin\b", path.read_text())) - {"config.gin"}  # of a run
    assert named
    assert {name for name in named if not (ROOT / "gin_configs" / name).is_file()} == set()


def known_flags() -> dict[str, set[str]]:
    """Flags of every command."""
    _, commands = parsers()

    def of(parser: argparse.ArgumentParser) -> set[str]:
        found = {text for action in parser._actions for text in action.option_strings}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found = found.union(*map(of, action.choices.values()))
        return found

    return {name: of(parser) for name, parser in commands.items()}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_command_and_flag_named_in_a_table_of_keys_exists(path: Path) -> None:
    known = known_flags()
    theirs = {word for row in rows(path) for word in re.findall(r"--[a-z_]+", row[0])}
    every = set.union(theirs, *known.values())
    for code in snippets(path):
        flags = set(re.findall(r"(?<!\S)--[A-Za-z_]+", code))
        if code.startswith("remdm "):
            assert flags <= known[code.split()[1]], code
        elif code.startswith("--"):
            assert flags <= every, code


def test_every_key_and_flag_of_the_published_minihack_planner_is_answered() -> None:
    there = " ".join(cell for row in rows(MINIHACK) for cell in row[:-1])
    named = {word for code in re.findall(r"`([^`]+)`", there) for word in code.split()}
    assert [key for key in PUBLISHED if key not in named] == []


def test_every_metric_that_is_translated_is_in_the_table() -> None:
    text = MINIHACK.read_text().split("## Metrics")[1]
    for own, theirs in ALIKE.items():
        for name in (own, *theirs):
            assert f"`{name}`" in text, name
