"""`remdm train` with leases that run out after seconds, so that a test can wait for it."""

import argparse
from collections.abc import Sequence

from remdm.cli import user_errors as told
from remdm.cli.command_line import _logging_to_terminal
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from
from remdm.distributed.ownership import Ownership, role_folder
from remdm.distributed.transport import FileTransport, Transport
from remdm.experiment import Experiment

# Longer than a process that runs is kept from a core.
TTL_S = 4.0


class Impatient(Experiment):
    """Counts as dead a few seconds after its last sign of life."""

    def own(self) -> Ownership:
        """See `Experiment`."""
        name = self.role.name
        return Ownership([role_folder(self.folder.root, name)], name, ttl_seconds=TTL_S)

    def init_place(self, transport: Transport | None) -> None:
        """See `Experiment`."""
        if self.role.name == "collect":
            folder = self.disk_dataset.folder
            transport = FileTransport(self.folder, folder, ttl_seconds=TTL_S)
        super().init_place(transport)


def main(words: Sequence[str]) -> int:
    """As `remdm.cli.main` with `train` as its first word."""
    parser = argparse.ArgumentParser()
    add_common_flags(parser)
    with _logging_to_terminal(), told() as outcome:
        args = parser.parse_args(words[1:])
        load_from_flags(args)
        outcome.code = run_experiment(Impatient(args.run_name), args.json, role_from(args))
    return outcome.code
