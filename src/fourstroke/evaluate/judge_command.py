"""`fourstroke eval judge`: what judges say of a folder of drawn pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fourstroke.evaluate.evaluations import Option
from fourstroke.ranges import Count, check_ranges
from fourstroke.registry import kinds


@dataclass(frozen=True, kw_only=True)
class JudgeFolder:
    """What judges say of a folder of drawn pictures: words, questions, likeness, diversity, artefacts."""

    kind: ClassVar[str] = "judge"
    folder: Annotated[Path, Option("folder of drawn pictures", flag="DIR")]
    judges: tuple[
        Annotated[str, Option("NAME, NAME:key=value,key=value or a YAML file; may be repeated", flag="judge")], ...
    ] = ()
    endpoint: Annotated[str, Option("of a model that sees: an OpenAI-compatible server, http://host:port/v1")] = ""
    endpoint_model: Annotated[str, Option("the model it serves")] = ""
    cache: Annotated[Path, Option("answers, kept by content (default: in DIR/scores)")] | None = None
    name: Annotated[str, Option("of the files of scores (default: the judge's)")] = ""
    batch: Annotated[Count, Option("pictures at a time")] = 32

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.judges:
            raise ValueError(f"name a --judge: {', '.join(sorted(kinds('judges')))}")
        if self.name and len(self.judges) > 1:
            raise ValueError("--name is for one judge; with several, each has its own name")
        if bool(self.endpoint) != bool(self.endpoint_model):
            raise ValueError("an endpoint needs both --endpoint, its address, and --endpoint-model, what it serves")

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Judge, one judge after the other; what one has written stays if the next fails."""
        from fourstroke.evaluate.drawn import SCORES
        from fourstroke.evaluate.judge_options import ANSWERS, parse_judge
        from fourstroke.evaluate.judging import judge_folder

        if model is not None:
            raise ValueError("a folder of pictures is judged, no model: leave --model out")
        given: dict[str, Any] = {"cache": self.cache or self.folder / SCORES / ANSWERS, "device": device}
        if self.endpoint:
            given["endpoint"] = {"url": self.endpoint, "model": self.endpoint_model}
        judges = [parse_judge(words, given) for words in self.judges]
        return {
            "folder": str(self.folder),
            "judges": [judge_folder(self.folder, j, self.name, self.batch) for j in judges],
        }

    def report(self, result: dict[str, Any]) -> str:
        """Totals of each judge."""
        from fourstroke.evaluate.judging import table

        return "\n".join(map(table, result["judges"]))
