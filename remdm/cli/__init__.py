"""The command line: `remdm train`, `remdm eval` and the others, a module each.

Examples share `remdm.cli.flags` and `remdm.cli.commands`.
"""

from remdm.cli.command_line import main, parse, user_errors

__all__ = ["main", "parse", "user_errors"]
