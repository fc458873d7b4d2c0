"""What this installation can do, what is missing for what, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement

from fourstroke.checkpoint import CheckpointError
from fourstroke.folder import find_model
from fourstroke.version import __version__

PACKAGE = "fourstroke"
USES = {
    "train": "training text encoders and small prompt enhancers",
    "data": "datasets of parquet files",
    "enhance": "training prompt enhancers: train enhance-sft, enhance-rl",
    "eval": "reading text in pictures (OCR), and eval reconstruction's photographs",
    "serve": "fourstroke serve: API and studio",
    "cluster": "several machines: serve --ray, data prepare --ray",
    "tensorboard": "run.tracker: {kind: tensorboard}",
    "wandb": "run.tracker: {kind: wandb}",
    "trackio": "run.tracker: {kind: trackio}",
    "gguf": "weights from .gguf files",
    "eight-bit": "optimizer.eight_bit: AdamW whose moments have 8 bits",
    "studies": "the plots of studies/",
    "test": "make test",
    "docs": "make docs",
    "dev": "make lint, and the studio in a browser",
}
"""What each extra is for."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the report."""

    name: str
    value: str
    good: bool = True
    """False where something is missing that some command needs."""
    mend: str | None = None
    """The command that brings it."""


def examine() -> list[Fact]:
    """Look around; loads no model."""
    facts = [
        Fact(name="fourstroke", value=__version__),
        Fact(name="python", value=platform.python_version()),
        Fact(name="torch", value=torch.__version__),
        Fact(name="transformers", value=importlib.metadata.version("transformers")),
        Fact(name="cpu", value=f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        _gpu(),
        _bundled(),
    ]
    return [*facts, *_extras()]


def _extras() -> list[Fact]:
    """What each optional part of the package needs, by the metadata of the installation."""
    try:
        about = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        said = f"{PACKAGE} runs from a folder and is not installed"
        return [Fact(name="extras", value=said, good=False, mend="make install")]
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist") or ()]
    facts = []
    for extra in about.get_all("Provides-Extra") or ():
        missing = [r for r in _needed(extra, requirements) if not _installed(r)]
        wanted = list(dict.fromkeys(f"{r.name}{_options(r)}{r.specifier}" for r in missing))
        use = USES.get(extra, extra)
        value = f"{use}; lacks {', '.join(dict.fromkeys(r.name for r in missing))}" if missing else use
        mend = pip(*wanted) if missing else None
        facts.append(Fact(name=f"[{extra}]", value=value, good=not missing, mend=mend))
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


def pip(*arguments: str) -> str:
    """A command that installs into the Python that runs this."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def _gpu() -> Fact:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        count = torch.cuda.device_count()
        half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        return Fact(name="gpu", value=f"{count} x {torch.cuda.get_device_name()}, {memory:.0f} GiB, {half}")
    if torch.backends.mps.is_available():
        return Fact(name="gpu", value="Apple's, for --device mps")
    if not Path("/dev/nvidia0").exists():
        return Fact(name="gpu", value="none: drawing and training run on the CPU in float32")
    if torch.version.cuda is None:
        value = f"there is one by NVIDIA, and torch {torch.__version__} is a build for CPUs"
        mend = pip("--force-reinstall", "torch>=2.11,<2.14")
        return Fact(name="gpu", value=value, good=False, mend=mend)
    value = f"there is one by NVIDIA, and torch, built for CUDA {torch.version.cuda}, does not reach it"
    return Fact(name="gpu", value=value, good=False, mend="nvidia-smi")


def _bundled() -> Fact:
    try:
        return Fact(name="model", value=str(find_model(None)))
    except CheckpointError as error:
        return Fact(name="model", value=str(error), good=False)
