"""Trainings of experts that PPO is bound to."""

from pathlib import Path

from remdm.experts.training import ExpertTraining


def trained(folder: Path) -> Path:
    """Train to the end; the folder of the expert."""
    training = ExpertTraining(folder)
    assert training.run()
    return training.expert_folder
