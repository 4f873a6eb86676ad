"""`python -m subsel` is the command `subsel`."""

import sys

from subsel.cli import main

if __name__ == "__main__":
    sys.exit(main())
