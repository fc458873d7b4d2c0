"""`fourstroke eval report`: one page of all that evaluations can say of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fourstroke.evaluate.evaluations import Option, PageFile
from fourstroke.ranges import Count, NonNegative, check_ranges
from fourstroke.registry import find, kinds

if TYPE_CHECKING:
    from fourstroke.evaluate.report.runner import Column


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """All tables, curves and unpicked pictures of a model as one page, and as JSON."""

    kind: ClassVar[str] = "report"
    of: Annotated[str, Option("folder or hub id, or the name of a bundled model", flag="MODEL")]
    n: Annotated[Count, Option("held-out prompts of each chapter, or of each of its arms")] = 200
    steps: Annotated[Count, Option("denoising steps (default: the model's own)")] | None = None
    guidance: Annotated[NonNegative, Option("guidance scale (default: the model's own)")] | None = None
    beside: tuple[Annotated[str, Option("MODEL[:steps=40,guidance=2] in a further column; may be repeated")], ...] = ()
    data: Annotated[Path, Option("a dataset's YAML (default: the model's own)")] | None = None
    chapters: tuple[Annotated[str, Option("one of the chapters alone; may be repeated", flag="chapter")], ...] = ()
    logs: tuple[
        Annotated[Path, Option("a run whose curves are shown; may be repeated (default: MODEL/run/*)", flag="log")], ...
    ] = ()
    show: Annotated[Count, Option("pictures of each chapter that are shown: the first, not picked")] = 16
    batch: Annotated[Count, Option("pictures drawn together; does not change them")] = 8
    out: PageFile = Path("report.html")

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        """Draw, judge and write; what a run before left in the folder beside the page is not done again."""
        from fourstroke.evaluate.data import find_data
        from fourstroke.evaluate.report.page import page, read_logs
        from fourstroke.evaluate.report.report import Report, make_report, open_report
        from fourstroke.evaluate.report.runner import Column
        from fourstroke.files import write_json, write_text

        if model is not None:
            raise ValueError("the model is named without an option: leave --model out")
        chosen = [find("chapters", name)() for name in self.chapters or sorted(kinds("chapters"))]
        first = Column(model=self.of, steps=self.steps, guidance=self.guidance)
        columns = [first, *(self._beside(words) for words in self.beside)]
        data = find_data(self.data, first.folder, first.info.name)
        curves = read_logs(self.logs or sorted(first.folder.glob("run/*/")))
        folder = self.out.parent / f"{self.out.stem}-files"
        report = open_report(columns, chosen, data, self.n, folder, self.batch, device)

        def write(report: Report) -> None:
            write_text(self.out, page(report, curves, self.show))
            write_json(self.out.with_suffix(".json"), report.plain())

        make_report(report, write)
        return {"page": str(self.out), **report.plain()}

    def report(self, result: dict[str, Any]) -> str:
        """The first row of each chapter, and where the page is."""
        from fourstroke.evaluate.report.page import table

        return f"{table(result)}\n{result['page']}"

    def _beside(self, words: str) -> Column:
        """A further column as the command line names it."""
        from fourstroke.evaluate.report.runner import Column
        from fourstroke.recipe import build, put_value

        name, _, options = words.rpartition(":") if "=" in words.rpartition(":")[2] else (words, "", "")
        tree: dict[str, Any] = {"model": name}
        for option in filter(None, options.split(",")):
            key, equal, value = option.partition("=")
            if not equal:
                raise ValueError(f"--beside {words}: {option!r} should read key=value")
            put_value(tree, key.strip(), value, f"--beside {words}")
        return build(Column, tree, f"--beside {words}")
