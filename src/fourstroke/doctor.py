"""What this installation can do: versions, devices, extras, bundled models."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from packaging.requirements import Requirement

from fourstroke.checkpoint import CheckpointError
from fourstroke.folder import find_model
from fourstroke.version import __version__

PACKAGE = "fourstroke"


@dataclass(frozen=True)
class Fact:
    """One line of the report; `good` is false where something is missing that some command needs."""

    name: str
    value: str
    good: bool = True


def examine() -> list[Fact]:
    """Look around; loads no model."""
    facts = [
        Fact("fourstroke", __version__),
        Fact("python", platform.python_version()),
        Fact("torch", torch.__version__),
        Fact("transformers", importlib.metadata.version("transformers")),
        Fact("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        _gpu(),
        _bundled(),
    ]
    return [*facts, *_extras()]


def _extras() -> list[Fact]:
    """What each optional part of the package needs, by the metadata of the installation."""
    try:
        about = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return [Fact("extras", f"{PACKAGE} runs from a folder and is not installed: run `make install` there", False)]
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist") or ()]
    facts = []
    for extra in about.get_all("Provides-Extra") or ():
        missing = [f"{r.name}{_options(r)}{r.specifier}" for r in _needed(extra, requirements) if not _installed(r)]
        command = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        facts.append(Fact(f"[{extra}]", f"mend with: {command}" if missing else "installed", not missing))
    return facts


def _needed(extra: str, requirements: Sequence[Requirement]) -> Iterator[Requirement]:
    """What an extra adds; one that takes in others of the package adds theirs."""
    for requirement in requirements:
        marker = requirement.marker
        if marker is None or not marker.evaluate({"extra": extra}) or marker.evaluate({"extra": ""}):
            continue
        if requirement.name == PACKAGE:
            for other in sorted(requirement.extras):
                yield from _needed(other, requirements)
        else:
            yield requirement


def _options(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _installed(requirement: Requirement) -> bool:
    """Whether the package is there in a version that will do; its own extras are not looked into."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _gpu() -> Fact:
    if not torch.cuda.is_available():
        return Fact("gpu", "none: drawing and training run on the CPU in float32")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Fact("gpu", f"{torch.cuda.get_device_name()}, {memory:.0f} GiB")


def _bundled() -> Fact:
    try:
        return Fact("model", str(find_model(None)))
    except CheckpointError as error:
        return Fact("model", str(error), good=False)
