"""Files and folders as users name them."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """A path as a user names it, with `~` and `~user` replaced.

    Raises:
        ValueError: for an empty path, or one in the home of a user that there is not.
    """
    if not str(path).strip():
        raise ValueError("the path is empty; name a file or folder")
    found = os.path.expanduser(path)
    if found.startswith("~") and os.sep in found:
        raise ValueError(f"{path} begins with the home folder of a user that is not here; write the whole path")
    return Path(found)
