"""What commands do to the terminal: libraries are kept quiet, warnings and errors are one line."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def quiet() -> None:
    """Keep transformers' loading bars away; ours tell more."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def say_warnings() -> None:
    """One line for a warning of ours, as for an error."""
    from fourstroke.enhance.enhancer import EnhancerWarning
    from fourstroke.memory import MemoryWarning
    from fourstroke.pipeline import NoEffectWarning

    ours = EnhancerWarning, MemoryWarning, NoEffectWarning
    show = warnings.showwarning

    def plainly(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if issubclass(category, ours):
            print(f"fourstroke: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = plainly
    warnings.simplefilter("always", EnhancerWarning)
    warnings.simplefilter("always", MemoryWarning)
    warnings.simplefilter("default", NoEffectWarning)  # once, however many prompts


def one_line(error: BaseException) -> str:
    """An error as the one line that users see."""
    return " ".join(str(error).split()) or type(error).__name__
