"""Knobs of an experiment that say what is minimised."""

from collections.abc import Sequence
from typing import Any

from remdm.training.comfort_settings import ComfortSettings


class ObjectiveSettings(ComfortSettings):
    """`ComfortSettings`, and what the agents minimise."""

    def __init__(
        self,
        run_name: str,
        *,
        objectives: Sequence[Any] | None = None,
        baseline_objectives: Sequence[Any] | None = None,
        **arguments: Any,
    ) -> None:
        """See `ExperimentSettings` and `ComfortSettings` for the others.

        Args:
        run_name: Name of the run and of its folder.
        objectives: What the planner minimises, as (@OwnLoss, (@KLToAverage, 0.1)); see
            `remdm.training.objectives`. Its own loss alone when None.
        baseline_objectives: The same for the agent of `baseline_agent_type`.
        arguments: Those of `ComfortSettings`.

        Raises:
            ValueError: If a value makes no sense.
        """
        super().__init__(run_name, **arguments)
        self.objectives, self.baseline_objectives = objectives, baseline_objectives
        if baseline_objectives is not None and self.baseline_agent_type is None:
            raise ValueError(
                "baseline_objectives are for a baseline, and there is none; set "
                "Experiment.baseline_agent_type or Experiment.baseline_objectives = None."
            )
