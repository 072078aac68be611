"""`python -m remdm` is the same as `remdm`."""

import sys

from remdm.cli import main

if __name__ == "__main__":
    sys.exit(main())
