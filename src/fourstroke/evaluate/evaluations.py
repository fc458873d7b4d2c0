"""What `fourstroke eval NAME` offers: kinds of evaluations, whose fields are the command's options.

Adding one is a frozen dataclass with `run` and `report` and a line that offers it, here or as an entry point. Modules
of such kinds import quickly, without torch: the command's help needs them.
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Union, get_args, get_origin

from fourstroke.options import page_option, path_option
from fourstroke.ranges import Count, check_ranges
from fourstroke.registry import find, kinds, offer

offer(
    "evaluations",
    compare="fourstroke.evaluate.compare_command:Compare",
    judge="fourstroke.evaluate.judge_command:JudgeFolder",
    reconstruction="fourstroke.evaluate.evaluations:Reconstruction",
    prompts="fourstroke.evaluate.suites.kinds:Prompts",
    report="fourstroke.evaluate.report.command:ReportCommand",
)


class Evaluation(Protocol):
    """A measurement of a model: a frozen dataclass of its options, the first line of its docstring is its help."""

    kind: ClassVar[str]

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Plain data; `model` is a folder or hub id, or None for the best bundled one; raises ValueError."""

    def report(self, result: dict[str, Any]) -> str:
        """What `run` returned, as lines of text for people."""


@dataclass(frozen=True)
class Option:
    """In `Annotated`: what `--help` says of a field.

    `flag` is its name on the command line, if it is another, and `read` makes a value of a word, if its type alone
    does not. A field without a default is no option: it is given by its place, a tuple's several words too.
    """

    told: str
    flag: str = ""
    read: Callable[[str], Any] | None = None


PageFile = Annotated[Path, Option("the page; a .json of the same name has all figures", read=page_option)]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """PSNR, SSIM, LPIPS, rFID and NED of autoencoders, or of folders of reconstructions."""

    kind: ClassVar[str] = "reconstruction"
    n: Annotated[Count, Option("pictures, of each dataset held-out ones (default: 200; all of --copies)")] | None = None
    data: tuple[Annotated[Path, Option("a dataset's YAML (default: the model's own); may be repeated")], ...] = ()
    images: Annotated[Path, Option("a folder, a picture or .tar shards in place of datasets")] | None = None
    copies: Annotated[Path, Option("a folder of reconstructions of --images by name, in place of a model's")] | None = (
        None
    )
    mode: Annotated[Literal["ned", "pixel", "all"], Option("what to measure of --copies: words, pixels, both")] = "all"
    size: Annotated[Count, Option("scale and cut --images to squares, as ImageNet's are measured")] | None = None
    save: Annotated[Path, Option("folder for reconstructions of --images; with --copies, for results.json")] | None = (
        None
    )
    peers: tuple[Annotated[Path, Option("an autoencoder beside it; may be repeated", flag="peer")], ...] = ()
    read: Annotated[bool, Option("read the words of both sides (needs RapidOCR)")] = False
    lpips: Annotated[Path, Option("folder or file of published LPIPS weights: measure it too")] | None = None
    inception: Annotated[Path, Option("file of pytorch-fid's Inception weights: measure rFID too")] | None = None
    sheet: Annotated[Path, Option("write originals, reconstructions and differences")] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.copies is not None and self.images is None:
            raise ValueError("--copies are measured against their originals: name these with --images")
        if self.copies is None and self.mode != "all":
            raise ValueError("--mode is for --copies; of a model --read adds NED")
        if self.read and self.mode == "pixel":
            raise ValueError("--mode pixel reads nothing: leave --read out, or choose --mode all")

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Measure."""
        if self.images is not None and self.copies is not None:
            from fourstroke.evaluate.copies import evaluate_copies

            if model is not None or self.peers or self.sheet or self.size or self.data:
                raise ValueError("--copies are there already: leave out --model, --peer, --data, --size and --sheet")
            both, names = (self.images, self.copies), ("mode", "lpips", "inception", "save", "n")
            return evaluate_copies(*both, device=device, **{name: getattr(self, name) for name in names})
        from fourstroke.evaluate.reconstruction import evaluate_reconstruction

        others = ("copies", "mode", *(["n"] if self.n is None else []))
        options = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in others}
        return evaluate_reconstruction(model, device=device, **options)

    def report(self, result: dict[str, Any]) -> str:
        """Means of each group of pictures."""
        from fourstroke.evaluate import copies, reconstruction

        return copies.table(result) if "copies" in result else reconstruction.table(result)


def add_evaluations(subjects: Any) -> None:
    """Add a command for each known evaluation to argparse's subparsers."""
    for name in sorted(kinds("evaluations")):
        evaluation = find("evaluations", name)
        summary = (evaluation.__doc__ or "").strip().splitlines()[0].removesuffix(".")
        command = subjects.add_parser(name, help=summary, description=summary)
        hints = typing.get_type_hints(evaluation, include_extras=True)
        for entry in fields(evaluation):
            _add_option(command, entry, hints[entry.name])


def from_options(arguments: argparse.Namespace) -> Evaluation:
    """The evaluation that was asked for; raises ValueError for an option out of its range."""
    kind = find("evaluations", arguments.what)
    given = {entry.name: getattr(arguments, entry.name) for entry in fields(kind) if hasattr(arguments, entry.name)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _add_option(command: argparse.ArgumentParser, entry: Field[Any], hint: Any) -> None:
    placed = entry.default is MISSING
    rest: dict[str, Any] = {} if placed else {"dest": entry.name, "default": argparse.SUPPRESS}
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is tuple:
        rest |= {"nargs": "+"} if placed else {"action": "append"}
        hint = get_args(hint)[0]
    told = Option("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        told = next((extra for extra in extras if isinstance(extra, Option)), told)
    default = "" if entry.default in (None, (), False, MISSING) else f" (default: {entry.default})"
    rest["help"] = told.told + default
    if hint is bool:
        rest["action"] = "store_true"
    elif get_origin(hint) is Literal:
        rest["choices"] = get_args(hint)
    else:
        rest["type"] = told.read or (path_option if hint is Path else hint)
    if placed:
        command.add_argument(entry.name, metavar=told.flag or entry.name.upper(), **rest)
    else:
        command.add_argument(f"--{told.flag or entry.name.replace('_', '-')}", **rest)
