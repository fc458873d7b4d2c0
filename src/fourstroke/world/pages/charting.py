"""Places charts: the marks in a box of their own, labels and numbers around it, in one size."""

from __future__ import annotations

from collections.abc import Sequence

from fourstroke.chance import pick
from fourstroke.world.pages.draft import Draft, Frame
from fourstroke.world.pages.graph import Align, Chart, place_of
from fourstroke.world.pages.marks import bar_boxes, slots
from fourstroke.world.pages.type import CrowdedError, Fitted

TEXT, GAP = 11, 3
"""Most pixels of a chart's text, and the space around it, on a page of 128."""


def place_chart(draft: Draft, frame: Frame, words: int, plain: bool = False) -> None:
    """A chart in a frame with about ``words`` labels and numbers, or with none if ``plain``."""
    rng = draft.rng
    kinds = ("bars", "bars", "pie", "line") if plain or draft.kind == "slide" else ("bars", "rows", "pie", "line")
    kind = pick(rng, kinds)
    kind = "bars" if kind == "line" and words < 6 and not plain else kind
    most = 4 if kind == "pie" else 6 if draft.unit > 1.5 else 5
    count = min(3 + int(rng.random() * 4), most) if plain else max(2, min(most, words // 2))
    if plain:
        _chart(draft, frame, kind, _values(draft, kind, count), (), ())
        return
    if kind == "line" or (kind == "bars" and rng.random() < 0.4):
        labels: Sequence[str] = draft.writer.series(count)
    else:
        labels = ["".join(draft.writer.phrase("label", 1, draft.case)) for _ in range(count)]
    values = _values(draft, kind, count)
    suffix = "%" if kind == "pie" or (max(values) < 100 and rng.random() < 0.5) else ""
    numbers = [f"{value}{suffix}" for value in values]
    place = {"bars": _columns, "rows": _rows, "pie": _pie, "line": _line}[kind]
    place(draft, frame, values, labels, numbers)


def _values(draft: Draft, kind: str, count: int) -> list[int]:
    """Values that differ enough to be told apart; those of a pie are per cents."""
    draws = [0.15 + draft.rng.random() for _ in range(count)]
    if kind == "pie":
        shares = [max(10, round(100 * draw / sum(draws))) for draw in draws]
        shares[shares.index(max(shares))] += 100 - sum(shares)
        return shares
    scale = pick(draft.rng, (80, 80, 40, 400))
    return [max(1, round(draw / 1.15 * scale)) for draw in draws]


def _chart(
    draft: Draft, frame: Frame, kind: str, values: Sequence[int], labels: Sequence[str], numbers: Sequence[str]
) -> Chart:
    """The marks alone, in the frame; a pie takes the largest disc in its middle."""
    one = kind == "line" or (kind != "pie" and draft.rng.random() < 0.5)
    colours = draft.colours(1 if one else len(values))
    if kind == "pie":
        side = min(frame.width, frame.height)
        left, top = frame.left + (frame.width - side) // 2, frame.top + (frame.height - side) // 2
        frame = Frame(left, top, left + side, top + side)
    if min(frame.width, frame.height) < 18 * draft.unit:
        raise CrowdedError
    chart = Chart(
        kind="bars" if kind == "rows" else kind,  # type: ignore[arg-type]
        values=tuple(float(value) for value in values),
        labels=tuple(labels),
        numbers=tuple(numbers),
        colours=colours * (len(values) if one and kind != "line" else 1),
        horizontal=kind == "rows",
        **place_of(frame, draft.width, draft.height),
    )
    draft.charts.append(chart)
    if kind in ("bars", "line"):
        thick = max(1, round(draft.unit))
        draft.accent("rule", (frame.left, frame.bottom, frame.right, frame.bottom + thick), draft.theme.ink)
    return chart


def _fitted(draft: Draft, texts: Sequence[str], width: int, height: int, bold: bool = False) -> list[Fitted]:
    font = draft.title_font if bold else draft.font
    return draft.same_size([[text] for text in texts], font, (width, height), 9 if draft.kind == "slide" else TEXT)


def _extent(texts: Sequence[Fitted]) -> tuple[int, int]:
    """How far the ink of lines of one size reaches above and below their baseline."""
    boxes = [text.typesets()[0].box for text in texts]
    return max(-box[1] for box in boxes), max(0, *(box[3] for box in boxes))


def _pair(
    draft: Draft,
    label: Fitted,
    number: Fitted,
    places: tuple[Frame, Frame],
    aligns: tuple[Align, Align],
    baselines: tuple[int, int],
) -> None:
    """Writes a label, then its number in the title's font."""
    draft.write(label.lines, "label", places[0], fitted=label, align=aligns[0], baseline=baselines[0])
    font = draft.title_font
    draft.write(number.lines, "number", places[1], fitted=number, align=aligns[1], font=font, baseline=baselines[1])


def _columns(draft: Draft, frame: Frame, values: Sequence[int], labels: Sequence[str], numbers: Sequence[str]) -> None:
    gap, slot = round(GAP * draft.unit), frame.width // len(values) - round(4 * draft.unit)
    under = _fitted(draft, labels, slot, frame.height // 4)
    over = _fitted(draft, numbers, slot, frame.height // 4, bold=True)
    (rise, fall), (high, _) = _extent(under), _extent(over)
    low = rise + fall
    box = Frame(frame.left, frame.top + high + gap, frame.right, frame.bottom - low - gap - round(draft.unit))
    chart = _chart(draft, box, "bars", values, labels, numbers)
    for i, (bar, (a, b)) in enumerate(zip(bar_boxes(chart, box), slots(box.left, box.right, len(values)), strict=True)):
        places = Frame(a, frame.bottom - low, b, frame.bottom), Frame(a, frame.top, b, bar[1])
        _pair(draft, under[i], over[i], places, ("center", "center"), (frame.bottom - fall, bar[1] - gap))


def _rows(draft: Draft, frame: Frame, values: Sequence[int], labels: Sequence[str], numbers: Sequence[str]) -> None:
    gap, slot = round(GAP * draft.unit), round(0.8 * frame.height / len(values))
    names = _fitted(draft, labels, round(0.42 * frame.width), slot)
    ends = _fitted(draft, numbers, frame.width // 4, slot, bold=True)
    left = frame.left + max(fitted.width for fitted in names) + gap
    right = frame.right - max(fitted.width for fitted in ends) - gap
    if right - left < 0.3 * frame.width:
        raise CrowdedError
    chart = _chart(draft, box := Frame(left, frame.top, right, frame.bottom), "rows", values, labels, numbers)
    for i, (bar, (a, b)) in enumerate(zip(bar_boxes(chart, box), slots(box.top, box.bottom, len(values)), strict=True)):
        end = Frame(bar[2] + gap, a, bar[2] + gap + ends[i].width, b)
        base = (a + b + names[i].above) // 2
        _pair(draft, names[i], ends[i], (Frame(frame.left, a, left - gap, b), end), ("left", "left"), (base, base))


def _pie(draft: Draft, frame: Frame, values: Sequence[int], labels: Sequence[str], numbers: Sequence[str]) -> None:
    gap = round(2 * GAP * draft.unit)
    tall = frame.height > 1.05 * frame.width
    disc, legend = frame.rows(1, 1, gap=gap) if tall else frame.columns(1, 1, gap=gap)
    chart = _chart(draft, disc, "pie", values, labels, numbers)
    rows = legend.inset(0, 0 if tall else legend.height * 0.5 * (1 - min(1.0, 0.22 * len(values))))
    mark = round(6 * draft.unit)
    slot = rows.height // len(values) - round(3 * draft.unit)
    ends = _fitted(draft, numbers, rows.width // 3, slot, bold=True)
    across = max(fitted.width for fitted in ends)
    names = _fitted(draft, labels, rows.width - mark - across - gap - round(2 * draft.unit), slot)
    for i, row in enumerate(rows.rows(*[1] * len(values), gap=round(2 * draft.unit))):
        top = (row.top + row.bottom - mark) // 2
        draft.accent("square", (row.left, top, row.left + mark, top + mark), chart.colours[i])
        name = Frame(row.left + mark + gap // 2, row.top, row.right - across, row.bottom)
        number, base = (
            Frame(row.right - across, row.top, row.right, row.bottom),
            (row.top + row.bottom + names[i].above) // 2,
        )
        _pair(draft, names[i], ends[i], (name, number), ("left", "right"), (base, base))


def _line(draft: Draft, frame: Frame, values: Sequence[int], labels: Sequence[str], numbers: Sequence[str]) -> None:
    gap, slot = round(GAP * draft.unit), frame.width // len(values) - round(4 * draft.unit)
    under = _fitted(draft, labels, slot, frame.height // 4)
    over = _fitted(draft, numbers, slot, frame.height // 4, bold=True)
    (rise, fall), (high, _) = _extent(under), _extent(over)
    low = rise + fall
    box = Frame(frame.left, frame.top + high + 2 * gap, frame.right, frame.bottom - low - gap - round(draft.unit))
    _chart(draft, box, "line", values, labels, numbers)
    for i, (a, b) in enumerate(slots(box.left, box.right, len(values))):
        places = Frame(a, frame.bottom - low, b, frame.bottom), Frame(a, frame.top, b, box.top)
        _pair(draft, under[i], over[i], places, ("center", "center"), (frame.bottom - fall, frame.top + high))
