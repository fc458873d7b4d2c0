"""`python -m fourstroke` is the command `fourstroke`."""

from __future__ import annotations

import sys

from fourstroke.cli import main

if __name__ == "__main__":
    sys.exit(main())
