"""Writing files and folders: each is whole or absent, and nobody's own are replaced.

A file or folder is written under a temporary name beside its place, flushed to the disk, and renamed. If that fails
(a full disk, an interrupt) what was there before is as it was, and the error names the path.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

PARTIAL = ".partial-"
"""In the names of files and folders that are not complete; a process that was killed leaves them behind."""
OLD = ".old"
"""Ends the name of a folder that makes room for its next version, which is complete by then."""


class WriteError(OSError):
    """A file or folder that could not be written; the message names it."""


class FolderError(ValueError):
    """A folder that holds something else than what would be written there; nothing in it was touched."""


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


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name, of the same suffix, whose file takes the place of `path` when the block ends well.

    Folders above it are made. Devices and pipes are written directly.

    Raises:
        WriteError: if it cannot be written; `path` is as it was.
    """
    shown = user_path(path)
    path = Path(os.path.realpath(shown))
    with _told(shown):
        if path.exists() and not path.is_file():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty sibling folder that takes the place of `folder` when the block ends well.

    What `folder` held is gone then: this is for places that are known to be ours; `model_folder` asks first.

    Raises:
        FolderError: if `folder` is a file.
        WriteError: if it cannot be written; `folder` is as it was.
    """
    shown = user_path(folder)
    folder = Path(os.path.realpath(shown))
    with _told(shown):
        if folder.exists() and not folder.is_dir():
            raise FolderError(f"{shown} is a file; choose a folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}{PARTIAL}", dir=folder.parent))
        try:
            yield partial
            for path in partial.rglob("*"):
                if path.is_file():
                    _flush(path)
            partial.chmod(0o755)
            _replace(folder, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def model_folder(folder: str | Path, file: str, key: str) -> Iterator[Path]:
    """`atomic_folder` for a folder of the user's choice: a new or empty one, or an earlier save of the same kind.

    Such a save is known by its `file`, a JSON object with `key`. It is replaced if it holds nothing of others.

    Raises:
        FolderError: if the folder holds something else; it is as it was.
        WriteError: if it cannot be written; it is as it was.
    """
    folder = check_replaceable(folder, file, key)
    with atomic_folder(folder) as partial:
        yield partial
        if foreign := sorted(map(str, _files(folder) - _files(partial))):
            raise FolderError(
                f"{folder} also holds {foreign[0]}{f' and {len(foreign) - 1} more' if foreign[1:] else ''}, which a "
                "save would delete; move it elsewhere, or choose another folder"
            )


def check_replaceable(folder: str | Path, file: str, key: str) -> Path:
    """The folder, expanded; raises FolderError if `model_folder` would refuse what it holds now."""
    folder = user_path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not has_key(folder / file, key):
        raise FolderError(f"{folder} is not empty and holds no earlier save; choose an empty or a new folder")
    return folder


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, indented, with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def save_image(image: Image, path: str | Path, **options: Any) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all; `options` are Pillow's."""
    with atomic_file(path) as partial:
        image.save(partial, **options)


def append_line(path: Path, line: str) -> None:
    """Append a line to a UTF-8 file, whole or not at all.

    Raises:
        WriteError: if it cannot be written; the file is as it was.
    """
    left = (line + "\n").encode()
    with _told(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            file.truncate(end)
            raise


def clear_partials(folder: Path) -> None:
    """Delete what a process that was killed left unfinished anywhere in a folder that nobody writes to.

    A folder that was about to be replaced when it was killed is back in its place.
    """
    for old in [*folder.rglob(f".*{PARTIAL}*{OLD}")]:
        place = old.name[1:].rpartition(PARTIAL)[0]
        if place and old.is_dir() and not old.with_name(place).exists():
            old.rename(old.with_name(place))
    for left in [*folder.rglob(f"*{PARTIAL}*")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def has_key(file: Path, key: str) -> bool:
    """Whether a file is a JSON object with this key."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and key in value


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of writing name `path` and the reason; those that name a file elsewhere are left as they are."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None or not _concerns(error, Path(os.path.realpath(path))):
            raise
        raise WriteError(f"cannot write {path}: {reason}") from error


def _concerns(error: Exception, path: Path) -> bool:
    """Whether the file that an error names, if it does, is `path`, a folder above it, or a temporary one."""
    named = getattr(error, "filename", None)
    return named is None or PARTIAL in str(named) or Path(os.path.realpath(named)) in (path, *path.parents)


def _reason(error: Exception) -> str | None:
    """What the operating system said, where an error is of its making.

    safetensors and tokenizers quote it in their text alone; torch raises an error of its own while it handles it.
    """
    if isinstance(error, WriteError):
        return str(error).rpartition(": ")[2]
    found = error.__context__ if isinstance(error, RuntimeError) else error
    if isinstance(found, OSError):
        return found.strerror or str(found)
    quoted = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(quoted[1])) if quoted else None


def _flush(path: Path) -> None:
    path.chmod(0o644)  # temporary files, and those of safetensors, are their owner's alone
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _replace(folder: Path, partial: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    old = partial.with_name(partial.name + OLD)
    folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _files(folder: Path) -> set[Path]:
    """What a folder holds, by relative names; empty folders do not count."""
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
