"""Posters, slides and infographics: what stands where."""

from __future__ import annotations

from fourstroke.chance import pick
from fourstroke.world.pages.charting import place_chart
from fourstroke.world.pages.draft import Draft, Frame, Valign
from fourstroke.world.pages.graph import Align, Role
from fourstroke.world.pages.type import CAPITAL, Fitted


def compose_poster(draft: Draft) -> None:
    """Title, picture and subtitle; the picture between, above, below or beside the words."""
    rng, ratio = draft.rng, draft.width / draft.height
    title_words = min(1 + int(rng.random() * 3), max(1, draft.words - 1))
    title = draft.writer.phrase("title", title_words, draft.title_case)
    texts: list[tuple[Role, tuple[str, ...]]] = []
    left = draft.words - len(title)
    if left > 0:
        subtitle = draft.writer.phrase("subtitle", min(left, 5), draft.case)
        texts.append(("subtitle", subtitle))
        left -= len(subtitle)
    for role in ("date", "place"):
        if left > 1 and draft.unit > 1.2:
            text = draft.writer.phrase(role, min(left, 3), draft.case)
            texts.append((role, text))
            left -= len(text)
    beside = rng.random() < (0.85 if ratio > 1.3 else 0.3 if ratio > 0.9 else 0)
    arrangement = "beside" if beside else pick(rng, ("between", "between", "above", "below"))
    if arrangement == "beside":
        _beside(draft, title, texts)
    else:
        _stacked(draft, arrangement, title, texts)


def compose_slide(draft: Draft) -> None:
    """A title over two to four bullets and a small chart, beside or below them."""
    rng, unit, ratio = draft.rng, draft.unit, draft.width / draft.height
    room = draft.words - 2
    count = max(2, min(4, room // 2, 2 + int(rng.random() * 3)))
    title = draft.writer.phrase("topic", max(1, min(3, draft.words - 2 * count)), draft.title_case)
    room = draft.words - len(title)
    chart_words = 2 * min(4, (room - 2 * count) // 3) if draft.unit > 1.3 and rng.random() < 0.75 else 0
    each = max(1, (room - chart_words) // count)
    bullets = [draft.writer.phrase("bullet", min(8, each), draft.case) for _ in range(count)]
    head, body = draft.page.rows(0.27 if ratio < 1.6 else 0.3, 0.73)
    align: Align = pick(rng, ("left", "left", "center"))
    body = _head(draft, title, head, body, align)
    if ratio < 0.85:
        texts, chart = body.rows(0.5, 0.5, gap=5 * unit)
    else:
        texts, chart = body.columns(*((0.66, 0.34) if draft.words > 20 else (0.6, 0.4)), gap=6 * unit)
    _bullets(draft, bullets, texts)
    if rng.random() < 0.2 and not chart_words:
        draft.picture(chart, 0.6)
    else:
        spare = max(0.0, chart.height - (1.4 if chart_words else 1.0) * chart.width)
        place_chart(draft, chart.inset(0, spare / 2), chart_words, plain=not chart_words)


def compose_infographic(draft: Draft) -> None:
    """A title over one chart with labels and numbers, two where there is room."""
    rng, ratio = draft.rng, draft.width / draft.height
    title = draft.writer.phrase("topic", min(3, max(1, draft.words - 6)), draft.title_case)
    room = draft.words - len(title)
    head, body = draft.page.rows(0.25 if ratio < 1.6 else 0.3, 0.75)
    body = _head(draft, title, head, body, draft.align)
    if room >= 14 and rng.random() < 0.6:
        parts = body.rows(1, 1, gap=9 * draft.unit) if ratio < 1.1 else body.columns(1, 1, gap=10 * draft.unit)
        for part in parts:
            place_chart(draft, part, room // 2)
    else:
        place_chart(draft, body, max(4, room))


def _head(draft: Draft, title: tuple[str, ...], head: Frame, body: Frame, align: Align) -> Frame:
    """Writes the title over a band, a rule, beside a bar, or plainly; returns what it leaves of the body."""
    m, unit, theme = draft.margin, draft.unit, draft.theme
    body = Frame(body.left + m, body.top + round(3 * unit), body.right - m, body.bottom - m)
    style = pick(draft.rng, ("band", "rule", "bar", "plain") if align == "left" else ("band", "rule", "plain"))
    frame = Frame(head.left + m, head.top + m, head.right - m, head.bottom - round(3 * unit))
    ink = theme.title
    if style == "band":
        draft.accent("band", head, theme.band)
        frame, ink = head.inset(m, 0.2 * head.height), theme.on_band
        body = Frame(body.left, body.top + round(5 * unit), body.right, body.bottom)
    if style == "bar":
        draft.accent("band", (m, frame.top, m + round(3 * unit), frame.bottom), draft.colours(1)[0])
        frame = Frame(m + round(7 * unit), frame.top, frame.right, frame.bottom)
    lines = 2 if draft.width < 1.5 * draft.height else 1
    draft.write(title, "title", frame, most=18, font=draft.title_font, ink=ink, align=align, max_lines=lines)
    if style == "rule":
        thick = max(1, round(1.3 * unit))
        draft.accent("rule", (m, head.bottom, head.right - m, head.bottom + thick), draft.colours(1)[0])
        body = Frame(body.left, body.top + thick + round(2 * unit), body.right, body.bottom)
    return body


def _bullets(draft: Draft, bullets: list[tuple[str, ...]], frame: Frame) -> None:
    """Lines below each other with a mark before each."""
    unit, rows = draft.unit, frame.rows(*[1] * len(bullets), gap=3 * draft.unit)
    indent = round(9 * unit)
    room = (frame.width - indent, round(0.85 * min(row.height for row in rows)))
    fitted = draft.same_size(bullets, draft.font, room, 15, 2 if unit < 1.4 else 4)
    mark, colour = pick(draft.rng, ("bullet", "square")), draft.colours(1)[0]
    capital = round(CAPITAL * fitted[0].pixels)
    for words, row, found in zip(bullets, rows, fitted, strict=True):
        place = Frame(row.left + indent, row.top, row.right, row.bottom)
        written = draft.write(words, "bullet", place, align="left", fitted=found)
        side = max(3, round(0.5 * capital))
        baseline = written.top - found.typesets()[0].box[1]
        top = baseline - (capital + side) // 2
        draft.accent(mark, (row.left, top, row.left + side, top + side), colour)


def _beside(draft: Draft, title: tuple[str, ...], texts: list[tuple[Role, tuple[str, ...]]]) -> None:
    inner = draft.page.inset(draft.margin)
    one, other = inner.columns(1, 1, gap=7 * draft.unit)
    left = draft.rng.random() < 0.5
    words, place = (one, other) if left else (other, one)
    ink = None
    if draft.rng.random() < 0.4:
        edge = (words.right + place.left) // 2 if left else (place.right + words.left) // 2
        band = (0, 0, edge, draft.height) if left else (edge, 0, draft.width, draft.height)
        draft.accent("band", band, draft.theme.band)
        ink = draft.theme.on_band
    tall = draft.width < 1.1 * draft.height
    if tall:
        words = words.inset(0, 0.1 * words.height)
    _words(draft, words, title, texts, ink, 4)
    _with_disc(draft, place, 0.9)


def _stacked(draft: Draft, arrangement: str, title: tuple[str, ...], texts: list[tuple[Role, tuple[str, ...]]]) -> None:
    """Title, picture and other words below each other."""
    unit, m = draft.unit, draft.margin
    inner = draft.page.inset(m)
    lower = 0.13 + 0.09 * (len(texts) - 1) if texts else 0.0
    band = draft.rng.random() < 0.45
    if not band and draft.rng.random() < 0.35:
        draft.accent("frame", draft.page.inset(max(2, m // 2)), draft.theme.title)
        inner = inner.inset(2 * unit)
    gap = 6 * unit if band else 4 * unit
    if arrangement == "between":
        head, place, *tail = inner.rows(*(0.28, 0.72 - lower, *([lower] if texts else [])), gap=gap)
        if band:
            draft.accent("band", (0, 0, draft.width, head.bottom + m // 2), draft.theme.band)
        _words(draft, head, title, [], draft.theme.on_band if band else None, 2)
        _with_disc(draft, place, 0.8)
        if tail:
            _lower(draft, tail[0], texts, None)
        return
    shares = (0.3 + lower, 0.7 - lower)
    words, place = inner.rows(*shares, gap=gap) if arrangement == "below" else inner.rows(*shares[::-1], gap=gap)[::-1]
    if band:
        box = (
            (0, 0, draft.width, words.bottom + m // 2)
            if arrangement == "below"
            else (0, words.top - m // 2, draft.width, draft.height)
        )
        draft.accent("band", box, draft.theme.band)
    if arrangement == "below":
        _words(draft, words, title, texts, draft.theme.on_band if band else None, 2)
        _with_disc(draft, place, 0.8)
    else:
        _with_disc(draft, place, 0.8)
        _words(draft, words, title, texts, draft.theme.on_band if band else None, 2)


def _words(
    draft: Draft,
    frame: Frame,
    title: tuple[str, ...],
    texts: list[tuple[Role, tuple[str, ...]]],
    ink: str | None,
    max_lines: int,
) -> None:
    """The title above the other words, in the middle of a frame, with a rule between now and then."""
    if not texts:
        draft.write(title, "title", frame, font=draft.title_font, ink=ink or draft.theme.title, max_lines=max_lines)
        return
    share = 0.62 if len(texts) == 1 else 0.5
    head, tail = frame.rows(share, 1 - share, gap=8 * draft.unit)
    written = draft.write(
        title, "title", head, font=draft.title_font, ink=ink or draft.theme.title, max_lines=max_lines, valign="bottom"
    )
    if draft.rng.random() < 0.45 and (ink is None or draft.theme.band == "white"):
        width = round(pick(draft.rng, (0.25, 0.5, 1.0)) * (written.right - written.left))
        middle = (written.left + written.right - width) // 2
        start = {"left": written.left, "center": middle, "right": written.right - width}[draft.align]
        top = head.bottom + round(3.2 * draft.unit)
        draft.accent("rule", (start, top, start + width, top + max(1, round(1.4 * draft.unit))), draft.colours(1)[0])
    _lower(draft, tail, texts, ink, "top")


def _lower(
    draft: Draft, frame: Frame, texts: list[tuple[Role, tuple[str, ...]]], ink: str | None, valign: Valign = "middle"
) -> None:
    """Smaller words, in one size."""
    rows = frame.rows(*[1] * len(texts), gap=2.5 * draft.unit)
    room = (frame.width, round((0.8 if len(texts) > 1 else 1) * min(row.height for row in rows)))
    found: list[Fitted] = draft.same_size([words for _, words in texts], draft.font, room, 14, 2)
    for (role, words), row, fitted in zip(texts, rows, found, strict=True):
        draft.write(words, role, row, ink=ink, fitted=fitted, valign=valign)


def _with_disc(draft: Draft, frame: Frame, most: float) -> None:
    """A picture, before a disc now and then."""
    side = min(frame.width, frame.height)
    if draft.rng.random() < 0.25 and side > 0.3 * min(draft.width, draft.height):
        x, y = (frame.left + frame.right - side) // 2, (frame.top + frame.bottom - side) // 2
        draft.accent("disc", (x, y, x + side, y + side), draft.colours(1)[0])
        frame = Frame(x, y, x + side, y + side).inset(0.16 * side)
    draft.picture(frame, most)
