"""torchrun for programs that say themselves what went wrong: an interrupt or a failure ends without a traceback.

Takes torchrun's own options: `python -m fourstroke.parallel.launch --standalone --nproc-per-node 2 -m …`.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch() -> int:
    """Run torchrun with the words of this process; returns the exit code, that of the first process that failed."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        main()
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        code: int = failed.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    return 0


if __name__ == "__main__":
    sys.exit(launch())
