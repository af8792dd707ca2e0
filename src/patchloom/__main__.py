"""``python -m patchloom``."""

import sys

from patchloom.cli import main

if __name__ == "__main__":
    sys.exit(main())
