"""Where an adapter is: a file, a folder that holds one, or one on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fourstroke.checkpoint import CheckpointError
from fourstroke.files import user_path
from fourstroke.folder import ADAPTER, ADAPTER_WEIGHTS, from_hub

SUFFIX = ".safetensors"
NAMES = (ADAPTER_WEIGHTS, "adapter_model.safetensors", "adapter_config.json")
"""What diffusers and PEFT call the files of an adapter."""


@dataclass(frozen=True)
class LoraSource:
    """An adapter as a command names it; a name of None is that of the file."""

    file: str
    strength: float = 1.0
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> LoraSource:
        """Read `[NAME=]FILE[:STRENGTH]`; a file whose whole name looks like this is taken for what it is."""
        if user_path(text).exists():
            return cls(text)
        match = re.fullmatch(r"(?:(?P<name>[\w-]+)=)?(?P<file>.+?)(?::(?P<strength>[+-]?[0-9.]+))?", text)
        assert match is not None  # any text has a file
        try:
            return cls(match["file"], float(match["strength"] or 1), match["name"])
        except ValueError:
            raise ValueError(f"{text}: {match['strength']} is no strength; write FILE:0.8") from None

    @property
    def called(self) -> str:
        """The name in use: the one given, or that of the file or folder, with hyphens for what a name cannot have."""
        return self.name or re.sub(r"[^\w-]+", "-", Path(self.file).name.removesuffix(SUFFIX)).strip("-") or "lora"


def find_lora(name: str | Path) -> Path:
    """The safetensors file of an adapter.

    Args:
        name: a file; a folder with one adapter (a student's folder too); a hub id, `owner/name` or
            `owner/name/file.safetensors`.

    Raises:
        CheckpointError: there is no such file, or a folder holds several.
    """
    path, words = user_path(name), str(name).split("/")
    if path.is_file():
        return path
    if path.is_dir():
        return _one(path if not (path / ADAPTER).is_dir() else path / ADAPTER)
    if isinstance(name, str) and words[0] not in ("", ".", "..", "~"):
        repository, file = "/".join(words[:2]), "/".join(words[2:])
        if file.endswith(SUFFIX):
            found = from_hub(repository, [file, str(Path(file).with_name(NAMES[2]))]) / file
            if found.is_file():
                return found
            raise CheckpointError(f"{repository} on the hub has no {file}")
        if len(words) == 2 and not file and not name.endswith(SUFFIX):
            return _one(from_hub(repository, list(NAMES)), f"; name one, as in {repository}/style{SUFFIX}")
    raise CheckpointError(f"no adapter at {name}; name a {SUFFIX} file, a folder with one, or a hub id like owner/name")


def _one(folder: Path, hint: str = "") -> Path:
    for name in NAMES[:2]:
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) == 1:
        return files[0]
    found = f"holds {len(files)} adapters" if files else "holds no adapter"
    raise CheckpointError(f"{folder} {found}{hint or f'; name the {SUFFIX} file'}")
