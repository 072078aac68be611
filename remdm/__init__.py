"""remdm: planners that write whole action plans by masked diffusion and learn them from an oracle."""

from remdm._version import __version__ as __version__
