"""What a run leaves on disk and takes up again: checkpoints, the best and the published weights."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from remdm._version import __version__
from remdm.agent import BaseAgent
from remdm.artifacts import local_folder, policy_name, publish_artifact
from remdm.data.plain_json import counted, one_line
from remdm.distributed.publication import PublicationError, Publisher
from remdm.envs.contract import EnvKind
from remdm.envs.making import make_env
from remdm.training import checkpoint, whole_state
from remdm.training.assembly import PLANNER
from remdm.training.interrupt import Stopped
from remdm.training.logged_run import LoggedRun
from remdm.training.rewinding import rewind
from remdm.training.run_folder import find_checkpoint
from remdm.training.tracking import any_process


class SavedRun(LoggedRun):
    """A run that can be saved, published and resumed."""

    def init_checkpoints(self) -> None:
        """Go on from the newest checkpoint; if there is none, make one to go back to.

        Where `resume` is a number, those after more epochs are set aside before.
        """
        if self.accelerator.is_main_process:
            rewind(self.folder, self.resume if isinstance(self.resume, int) else None)
        self.accelerator.wait_for_everyone()
        # One process looks: on a network disk, another may see less.
        newest = self.from_main(lambda: whole_state.newest_checkpoint(self.folder.checkpoints))
        if newest is None:
            self.metrics_log.rewind(0)
            if self.start_from is not None:
                _, begin = find_checkpoint(local_folder(self.start_from))
                self.load_checkpoint_from_path(begin, resume_training_state=False)
            self.save_checkpoint()
        else:
            self.load_checkpoint_from_path(newest)
        if not self.role.alone or self.always_load_latest:
            # Others wait for the first weights, and older ones may be of a time that is given up.
            self.write_latest_policy()

    def save_checkpoint(self) -> None:
        """Write the whole state of the run, so that it can go on as if it had not stopped."""
        self.must_own()
        whole_state.save_run(self, self.folder.checkpoints)
        if self.accelerator.is_main_process:
            root = self.folder.checkpoints
            checkpoint.remove_old(root, self.keep_last_ckpts, self.keep_every_ckpts)
            self.publish_checkpoint(root / whole_state.checkpoint_name(self.progress))
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self, epoch: int, resume_training_state: bool = True) -> None:
        """Load the checkpoint written after `epoch` epochs; see `load_checkpoint_from_path`."""
        path = self.folder.checkpoints / checkpoint.epoch_name(epoch)
        self.load_checkpoint_from_path(path, resume_training_state)

    def load_checkpoint_from_path(self, path: Path, resume_training_state: bool = True) -> None:
        """Load a checkpoint folder.

        Args:
            path: Folder of one checkpoint.
            resume_training_state: Go on with this run from there; otherwise only take the averaged
                weights, of any run, as the start of this one.

        Raises:
            CheckpointError: If it is missing, damaged, of another format, action set or model.
        """
        whole_state.load_run(self, path, resume=resume_training_state)

    def load_agents(self, path: Path, *, averaged: bool = True) -> dict[str, BaseAgent]:
        """Agents that act by the weights of a checkpoint; needs no `start`.

        Args:
            path: Folder of a checkpoint, or of the best or the latest weights.
            averaged: The averaged weights; otherwise those that were trained.

        Raises:
            CheckpointError: If it is missing, damaged, of another format, action set or model, or
                holds averaged weights only.
        """
        with contextlib.closing(make_env(self.train_envs[0])) as env:
            agents = self.make_agents(EnvKind.of(env))
            names = env.action_names
        for agent in agents.values():
            agent.eval().requires_grad_(False)
        whole_state.load_acting(agents, path, names, averaged=averaged)
        return agents

    def load_best(self) -> None:
        """Let the agents act by the best weights; by the present ones where none was chosen."""
        if self.progress.best_epoch >= 0:
            whole_state.load_acting(self.policies, self.folder.best, self.kind.action_names)

    def write_latest_policy(self) -> None:
        """Publish the averaged weights for other processes."""
        if self.accelerator.is_main_process:
            self.must_own()
            weights = {name: t.publish().state_dict() for name, t in self.trainers.items()}
            Publisher(self.folder.latest).publish(weights, self._published_facts())

    def _published_facts(self) -> dict[str, Any]:
        """What others should know of published weights."""
        return {
            "remdm_version": __version__,
            "action_names": list(self.kind.action_names),
            "plan_horizon": self.agent.plan_horizon,
            "epoch": self.progress.epoch,
            "env_steps": self.progress.env_steps,
            "updates": self.trainers[PLANNER].updates,
        }

    def read_latest_policy(self) -> None:
        """Act by the published weights, if there are any that are newer than those of now.

        Raises:
            PublicationError: If they are damaged, or do not fit.
        """
        version = self.subscriber.version()
        if version is None or version == self.acting_version:
            return
        like: dict[str, dict[str, Tensor]] = {
            name: policy.state_dict() for name, policy in self.policies.items()
        }
        published = self.subscriber.read(like)
        if published is None:
            return
        self._check_published(published.facts)
        for name, policy in self.policies.items():
            policy.load_state_dict(published.weights[name])
        self.acting_version = published.version
        self.acting_updates = int(published.facts["updates"])
        self.acting_epoch = int(published.facts["epoch"])
        self.acting_env_steps = int(published.facts["env_steps"])

    def _check_published(self, facts: Mapping[str, Any]) -> None:
        own = self._published_facts()
        for name in ("remdm_version", "action_names", "plan_horizon"):
            if facts.get(name) != own[name]:
                raise PublicationError(
                    f"weights in {self.folder.latest} were published with {name} "
                    f"{one_line(str(facts.get(name)), 200)}, here it is {own[name]}; give all "
                    "processes of a run the same remdm and the same configuration"
                )
        for name in ("epoch", "updates", "env_steps"):
            counted(facts, name)

    def publish_artifacts(self) -> None:
        """Hand the last and the best weights to W&B, where it follows the run."""
        if "wandb" not in self.trackers or not self.accelerator.is_main_process:
            return
        followed = self.accelerator.get_tracker("wandb", unwrap=True)
        whole_state.save_averaged(self, self.folder.last)
        for folder, best in ((self.folder.last, False), (self.folder.best, True)):
            if folder.is_dir():
                name = policy_name(self.train_envs[0], best=best)
                self.tell(f"published {publish_artifact(followed, folder, name)}")

    def stop_if_asked(self) -> None:
        """Raise `Stopped` if somebody asked to stop; processes agree, so all must call this.

        Raises:
            Stopped: If so.
            LeaseLost: If another process has taken over the run.
        """
        if self.owned and self.accelerator.is_main_process and self.ownership.lost:
            self.must_own()
        if any_process(self.accelerator, self.stop.requested):
            raise Stopped
