"""What a run plays to learn how good it is: validation levels on the way, test ones at the end."""

from collections.abc import Sequence
from pathlib import Path

from remdm.evaluation.kept_episodes import KeptEpisodes
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.report import write_report
from remdm.evaluation.rollout import EvalRow, Evaluation, evaluate_in
from remdm.evaluation.suite import evaluate_suite
from remdm.seeding import TEST_SEEDS, VALIDATION_SEEDS, torch_generator
from remdm.training import whole_state
from remdm.training.saved_run import SavedRun


class EvaluatedRun(SavedRun):
    """A run that plays levels it does not learn from, and keeps the weights that do best."""

    def evaluate_val(self) -> dict[str, float]:
        """Play the validation seeds of the training environments; keep the best weights.

        Raises:
            Stopped: If somebody asks to stop meanwhile; a resumed run validates anew.
        """
        progress = self.progress

        def tell(finished: int, total: int, won: int) -> None:
            self.bar.show(progress, f"validating {finished}/{total}")
            if self.accelerator.num_processes == 1:  # otherwise nobody may leave alone
                self.stop_if_asked()

        chance = torch_generator(self.seed, "validation", progress.epoch)
        played = evaluate_in(
            AgentPolicy(self.policy, chance, replan_every=self.val_replan_every),
            self.val_envs,
            episodes=self.val_episodes,
            first_seed=VALIDATION_SEEDS.start,
            max_episode_steps=self.val_step_cap,
            progress=tell,
        )
        means = played.means(self.reduce)
        score = means[f"val/{self.val_metric}"]
        self.keep_if_best(score)
        self.bar.note(**{f"val {self.val_metric.removesuffix('_rate')}": f"{score:.2f}"})
        told = {"val/episodes": float(self.val_episodes), **means, **self.judged(played)}
        return told | self.heldout_metrics(tell)

    def judged(self, played: Evaluation) -> dict[str, float]:
        """What else is to be told of a validation; a subclass says what.

        Args:
            played: The episodes of this process.
        """
        return {}

    def keep_if_best(self, score: float) -> None:
        """Keep the averaged weights unless some before scored higher by `val_tolerance`."""
        progress = self.progress
        first = progress.best_epoch < 0
        if first or score >= progress.best_score - self.val_tolerance:
            progress.best_score = score if first else max(progress.best_score, score)
            progress.best_epoch = progress.epoch
            if self.accelerator.is_main_process:
                self.must_own()
                whole_state.save_averaged(self, self.folder.best)

    def evaluate_test(
        self, policies: Sequence[str] | None = None, save_trajs_to: str | Path | None = None
    ) -> list[EvalRow]:
        """Play the test seeds with the best weights, beside chance and the oracle; write a report.

        Only the main process plays; the others return no rows.

        Args:
            policies: Names of rows to measure; all that there are when None.
            save_trajs_to: Folder of its own for all episodes, as demonstrations that others may
                look at, but not learn from; see `remdm.evaluation.kept_episodes`. None keeps none.

        Raises:
            ValueError: If anything else lies in that folder.
        """
        if not self.accelerator.is_main_process:
            return []
        keep = None
        if save_trajs_to is not None:
            keep = KeptEpisodes(Path(save_trajs_to), TEST_SEEDS.start)
        self.load_best()
        rows = evaluate_suite(
            self.policies,
            self.oracle,
            [*self.train_envs, *self.heldout_envs],
            policies=policies,
            episodes=self.test_episodes,
            first_seed=TEST_SEEDS.start,
            rows=self.val_rows,
            seed=self.seed,
            make_vec_env=self.make_vec_env,
            max_episode_steps=self.test_step_cap,
            shown=self.on_terminal,
            keep=keep,
        )
        if keep is not None:
            keep.announce()
        envs = self.train_envs, self.heldout_envs
        write_report(self.folder, rows, self.policy, *envs, max_steps=self.test_step_cap)
        self.publish()
        return rows
