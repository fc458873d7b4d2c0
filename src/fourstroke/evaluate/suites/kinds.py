"""`fourstroke eval prompts`: its options, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fourstroke.evaluate.evaluations import Option
from fourstroke.evaluate.suites.suite import Language
from fourstroke.options import seed_option
from fourstroke.ranges import Count, NonNegative, check_ranges


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Draw a suite of prompts in the layout that its official scorer reads."""

    kind: ClassVar[str] = "prompts"
    suite: Annotated[str, Option("its name, or a file of prompts", flag="SUITE_OR_FILE")]
    source: Annotated[Path, Option("the suite's download: a folder, or a file of it")] | None = None
    out: Annotated[Path, Option("folder for the pictures; one that holds a part of them is gone on with")] = Path(
        "drawn"
    )
    language: Annotated[Language, Option("of the prompts, where a suite has several")] = "en"
    n: Annotated[Count, Option("prompts, evenly over the suite (default: all)")] | None = None
    repeats: Annotated[Count, Option("pictures of each prompt (default: the suite's own number)")] | None = None
    seed: Annotated[int, Option("of the first picture; all others follow from it", read=seed_option)] = 0
    enhance: Annotated[bool, Option("draw all twice: into OUT/plain, and rewritten into OUT/enhanced")] = False
    width: Annotated[Count, Option("pixels (default: the suite's, else the model's own)")] | None = None
    height: Annotated[Count, Option("pixels (default: the suite's, else the model's own)")] | None = None
    steps: Annotated[Count, Option("denoising steps (default: the model's own)")] | None = None
    guidance: Annotated[NonNegative, Option("guidance scale (default: the model's own)")] | None = None
    batch: Annotated[Count, Option("pictures drawn together")] = 8
    processes: Annotated[Count, Option("that draw at a time")] = 1
    ray: Annotated[str, Option("draw on a Ray cluster that sees the same files: host:port, auto, or local")] | None = (
        None
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw what is not there yet."""
        from fourstroke.evaluate.suites.draw import DrawOptions
        from fourstroke.evaluate.suites.drawers import Look
        from fourstroke.evaluate.suites.run import draw_suite

        look = Look(width=self.width, height=self.height, steps=self.steps, guidance=self.guidance)
        options = DrawOptions(
            suite=self.suite,
            source=self.source,
            out=self.out,
            model=model,
            device=device,
            language=self.language,
            n=self.n,
            repeats=self.repeats,
            seed=self.seed,
            batch=self.batch,
            look=look,
            enhance=self.enhance,
        )
        return draw_suite(options, self.processes, self.ray)

    def report(self, result: dict[str, Any]) -> str:
        """Where pictures are, what is missing and why, and how the official scorer is started."""
        lines = []
        for folder, told in result["folders"].items():
            missing = f", {told['missing']} missing" if told["missing"] else ""
            lines.append(f"{folder}: {told['pictures']} pictures{missing}")
            if told["as_asked"]:
                lines.append(f"  {told['as_asked']} of prompts that the enhancer left as they were")
            lines += [f"  {count} not drawn: {why}" for why, count in told["refused"].items()]
            lines.append(f"  official scorer: {result['scorer'][folder]}")
        return "\n".join(lines)
