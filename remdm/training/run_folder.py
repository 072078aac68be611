"""The folder of a run: what lies where, and whether it belongs to the present configuration."""

from dataclasses import dataclass
from pathlib import Path

from remdm import config


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below one run's folder.

    Attributes:
        root: The folder itself.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The configuration that repeats the run."""
        return self.root / "config.gin"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints to resume from."""
        return self.root / "ckpts"

    @property
    def best(self) -> Path:
        """Folder of the checkpoint that validation chose."""
        return self.root / "best"

    @property
    def latest(self) -> Path:
        """Folder of the weights published for other processes."""
        return self.root / "latest"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """Tables, curves and pictures."""
        return self.root / "report"

    def claim(self, *, resume: str) -> None:
        """Make the folder, or see that what is in it may be gone on with.

        Args:
            resume: "auto" goes on with an existing run, "must" insists on one, "never" refuses.

        Raises:
            ValueError: If there is a run and `resume` forbids it, there is none and it must be, or
                the run was made with another configuration.
        """
        if resume not in ("auto", "must", "never"):
            raise ValueError(
                f"resume must be 'auto', 'must' or 'never', got {resume!r}; set Experiment.resume."
            )
        exists = self.config.exists()
        if exists and resume == "never":
            raise ValueError(
                f"{self.root} holds a run already; choose another --run_name, or set "
                "Experiment.resume = 'auto' to go on with it."
            )
        if not exists and resume == "must":
            raise ValueError(f"there is no run to resume in {self.root} (Experiment.resume='must')")
        if exists:
            differences = config.config_differences(self.config)
            if differences:
                listed = "\n  ".join(differences)
                raise ValueError(
                    f"{self.root} holds a run with another configuration:\n  {listed}\n"
                    "choose another --run_name, or go back to the old values; nothing was changed."
                )
        self.root.mkdir(parents=True, exist_ok=True)
        if not exists:
            config.save_config(self.config)
