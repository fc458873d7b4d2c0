"""`fourstroke eval compare`: folders, models and endpoints side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fourstroke.evaluate.evaluations import Option, PageFile
from fourstroke.evaluate.suites.suite import Language
from fourstroke.options import seed_option
from fourstroke.ranges import Count, check_ranges


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Models side by side: scores with intervals, wins, the same seeds; as a page and as JSON."""

    kind: ClassVar[str] = "compare"
    entries: tuple[
        Annotated[str, Option("a folder of drawn pictures; with --suite a model, or openai:URL#MODEL", flag="A")], ...
    ]
    out: PageFile = Path("compare.html")
    show: Annotated[Count, Option("prompts whose pictures are shown, evenly over the suite")] = 24
    seeds: Annotated[Count, Option("pictures of each that are shown")] = 4
    suite: Annotated[str, Option("draw this with those that are no folder of pictures")] | None = None
    source: Annotated[Path, Option("the suite's download")] | None = None
    language: Annotated[Language, Option("of the suite's prompts")] = "en"
    n: Annotated[Count, Option("prompts of the suite (default: all)")] | None = None
    repeats: Annotated[Count, Option("pictures of each prompt (default: the suite's own number)")] | None = None
    seed: Annotated[int, Option("of the first picture", read=seed_option)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw what is to be drawn, compare, and write the page and the figures."""
        from fourstroke.evaluate.comparison import compare, read_entries
        from fourstroke.evaluate.comparison_page import page
        from fourstroke.files import write_json, write_text

        if model is not None:
            raise ValueError("models are named one after the other, as folders are: leave --model out")
        folders = [self._folder(entry, device) for entry in self.entries]
        entries = read_entries(folders)
        found = compare(entries)
        write_text(self.out, page(found, entries, self.show, self.seeds))
        write_json(self.out.with_suffix(".json"), found)
        return {"page": str(self.out), **found}

    def report(self, result: dict[str, Any]) -> str:
        """Scores, and where the page is."""
        from fourstroke.evaluate.comparison_page import table

        return f"{table(result)}\n{result['page']}"

    def _folder(self, entry: str, device: str | None) -> Path:
        """An entry's pictures, drawn beside the page if it is a model."""
        folder = Path(entry).expanduser()
        if folder.is_dir() and not (folder / "model_index.json").is_file():
            return folder
        if self.suite is None:
            raise ValueError(f"{entry} is no folder of drawn pictures; to draw with it as a model, name a --suite")
        from fourstroke.evaluate.suites.draw import DrawOptions
        from fourstroke.evaluate.suites.run import draw_suite
        from fourstroke.pictures import slug

        out = self.out.parent / f"{self.out.stem}-pictures" / slug(entry.rpartition("#")[2] or entry, 60)
        options = DrawOptions(
            suite=self.suite, source=self.source, out=out, model=entry, device=device, language=self.language,
            n=self.n, repeats=self.repeats, seed=self.seed,
        )  # fmt: skip
        draw_suite(options)
        return out
