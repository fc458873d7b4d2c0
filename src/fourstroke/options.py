"""Types of the command line's options: what argparse reads a word into, with errors of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from fourstroke.files import user_path
from fourstroke.seeds import MAX_SEED, check_seed


def seed_option(text: str) -> int:
    """A seed of pictures; raises ArgumentTypeError for another word."""
    try:
        return check_seed(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: a whole number from 0 to {MAX_SEED}") from None


def path_option(text: str) -> Path:
    """A path as users name it; raises ArgumentTypeError for one that is empty or in nobody's home."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def page_option(text: str) -> Path:
    """A page of HTML with figures beside it; raises ArgumentTypeError as `path_option`, and for the figures' name."""
    path = path_option(text)
    if path.suffix.lower() == ".json":
        raise argparse.ArgumentTypeError(
            f"{path}: name the page, such as {path.with_suffix('.html')}; JSON lies beside"
        )
    return path
