"""Baselines of about a second in a gridworld."""

from pathlib import Path

from remdm import config
from remdm.baselines.baseline import Baseline
from remdm.cli import main
from remdm.experiment import Experiment

ROOM, DARK = "Gridworld-Room-9x9-v0", "Gridworld-DarkRoom-9x9-v0"
BINDINGS = {
    "Experiment.train_envs": repr([ROOM]),
    "Experiment.heldout_envs": repr([DARK]),
    "Experiment.total_timesteps": "200",
    "Experiment.val_episodes": "2",
    "Experiment.val_rows": "2",
    "Experiment.val_step_cap": "12",
    "Experiment.test_episodes": "3",
    "Experiment.test_step_cap": "12",
    "Baseline.validations": "2",
    "EgoEncoder.channels": "4",
    "EgoEncoder.cell_dim": "4",
    "EgoEncoder.num_blocks": "0",
    "PlannerFeatures.width": "8",
    "PlannerFeatures.token_dim": "4",
    "PlannerFeatures.features_dim": "16",
    "ReinforcementLearning.ppo": "{'n_epochs': 1, 'n_steps': 32}",
    "ReinforcementLearning.dqn": "{'buffer_size': 300, 'learning_starts': 40}",
    "ReinforcementLearning.ppo_rnn": "{'n_epochs': 1, 'n_steps': 32}",
    "BehaviourCloning.updates": "6",
    "BehaviourCloning.batch_size": "16",
    "SequenceModelling.updates": "6",
    "SequenceModelling.batch_size": "4",
    "DecisionTransformer.width": "16",
    "DecisionTransformer.num_layers": "1",
    "DecisionTransformer.num_heads": "2",
    "DecisionTransformer.context_len": "4",
}


def arguments(base: Path, algorithm: str, *more: str, **changed: str) -> list[str]:
    """A command line of `remdm baseline`; `BINDINGS` with `__` for the dot may be changed."""
    values = BINDINGS | {name.replace("__", "."): text for name, text in changed.items()}
    binds = [word for name, text in values.items() for word in ("--bind", f"{name} = {text}")]
    config_file = base / "empty.gin"
    config_file.write_text("# Nothing but bindings.\n")
    named = ["--configs", str(config_file), "--ckpt_base_dir", str(base)]
    return ["baseline", "--algo", algorithm, *named, *binds, *more]


def trained(base: Path, algorithm: str, *more: str, **changed: str) -> Path:
    """The run folder of seed 0 after the command, which must end well."""
    assert main(arguments(base, algorithm, *more, **changed)) == 0
    return base / f"baseline_{algorithm}_seed0"


def opened(base: Path, algorithm: str, **changed: str) -> Baseline:
    """A baseline that is not trained, with its configuration loaded."""
    values = BINDINGS | {"Baseline.algorithm": repr(algorithm)}
    values |= {"Experiment.ckpt_base_dir": repr(str(base))}
    values |= {name.replace("__", "."): text for name, text in changed.items()}
    config.load_config([], [f"{name} = {text}" for name, text in values.items()])
    return Baseline(Experiment("run"))
