"""A trained expert as the oracle that planners learn from."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import gin
import numpy as np
from accelerate import PartialState

from remdm.artifacts import local_folder
from remdm.envs.contract import PlanVecEnv
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.experts.advised import BRANCHED, KINDS, AdvisedVecEnv
from remdm.experts.labels import Tutor, check_temperature
from remdm.experts.policy import Expert
from remdm.experts.training import EXPERT_FOLDER, ExpertTraining
from remdm.oracles.contract import Oracle
from remdm.oracles.recorded import recorded_plans
from remdm.registry import unknown_name_message
from remdm.training.checkpoint import CheckpointError


@gin.configurable(module="remdm")
class ExpertOracle(Oracle):
    """Plans by letting the expert live on in copies of the worlds.

    It goes along while episodes are played (see `AdvisedVecEnv`), and its labels are what it said
    then. Labels of another kind or temperature need another run.
    """

    name = "expert"
    version = 1

    def __init__(
        self,
        *,
        expert: str = gin.REQUIRED,
        training_type: Callable[[Path], ExpertTraining] | None = None,
        labels: str = BRANCHED,
        label_every: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Args:
            expert: Folder of a trained expert, or of its training, or "wandb:..." for an artifact.
            training_type: `@ExpertTraining` to train the expert first, in the folder `expert`, if
                that is not done yet; None for one that must be there.
            labels: "branched" for plans that the expert carries out in copies of the world;
                "actions" for its next action at every visited state, to be strung together by
                `DiskTrajDataset.target = "oracle_actions"`.
            label_every: Steps between branched plans; None makes one per executed chunk. Each
                costs as many steps of the world as a plan has tokens.
            temperature: Divides the expert's logits; 0 takes the likeliest action.

        Raises:
            ValueError: If a value makes no sense.
            CheckpointError: If there is no expert, or it is damaged.
        """
        if labels not in KINDS:
            raise ValueError(unknown_name_message("ExpertOracle.labels", labels, KINDS))
        if label_every is not None and label_every < 1:
            raise ValueError(
                f"label_every must be at least 1, got {label_every}; set ExpertOracle.label_every."
            )
        self.training = None if training_type is None else training_type(Path(expert))
        self.expert, self.temperature = expert, temperature
        self.labels, self.label_every = labels, label_every
        self.gives_plans = labels == BRANCHED
        check_temperature(temperature)
        if self.training is None:
            _ = self.tutor  # what is missing should not be found after an hour

    @cached_property
    def tutor(self) -> Tutor:
        """The expert; trained first, if it has to be.

        Raises:
            KeyboardInterrupt: If somebody stops the training; the next start goes on with it.
        """
        if self.training is None:
            return Tutor(_found(self.expert), temperature=self.temperature)
        with PartialState().main_process_first():
            finished = self.training.run()
        if not finished:
            raise KeyboardInterrupt
        return Tutor(Expert.load(self.training.expert_folder), temperature=self.temperature)

    def accompany(self, vec_env: PlanVecEnv, plan_horizon: int) -> PlanVecEnv:
        """See `Oracle.accompany`."""
        game = self.tutor.expert.runner.game.name
        if not isinstance(vec_env, CraftaxVecEnv) or vec_env.game.name != game:
            raise ValueError(
                f"the expert plays {game}, and the environments are "
                f"{', '.join(sorted(set(vec_env.env_names)))}; set Experiment.train_envs, or "
                "another ExpertOracle.expert."
            )
        return AdvisedVecEnv(
            vec_env, self.tutor, plan_horizon, kind=self.labels, label_every=self.label_every
        )

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What was written down while the expert looked on; see `Oracle.label`.

        Raises:
            ValueError: If it did not, or for shorter plans.
        """
        fix = "Collect with Experiment.oracle_type = @ExpertOracle and the same plan_horizon."
        return recorded_plans(observations, plan_horizon, fix)


def _found(reference: str) -> Expert:
    """The expert that `ExpertOracle.expert` names; an error says where to get one."""
    try:
        return Expert.load(expert_folder(reference))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Set ExpertOracle.expert to the folder of an expert, or train one there: "
            "remdm expert train --run_name NAME --configs craftax_classic_expert.gin"
        ) from error


def expert_folder(reference: str) -> Path:
    """The folder of an expert, given that, or the folder of its training, or an artifact."""
    folder = local_folder(reference)
    return folder / EXPERT_FOLDER if (folder / EXPERT_FOLDER).is_dir() else folder
