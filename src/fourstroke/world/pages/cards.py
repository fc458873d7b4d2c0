"""Menus, tickets and signs: what stands where."""

from __future__ import annotations

from fourstroke.chance import pick
from fourstroke.world.pages.draft import Draft, Frame
from fourstroke.world.pages.graph import Role
from fourstroke.world.pages.type import CrowdedError


def compose_menu(draft: Draft) -> None:
    """A name over three to six dishes with prices, leaders between them, a picture on top now and then."""
    rng, unit, m, theme = draft.rng, draft.unit, draft.margin, draft.theme
    count = max(3, min(6, (draft.words - 1) // 2, 3 + int(rng.random() * 4)))
    title = draft.writer.phrase("menu", max(1, min(3, draft.words - 2 * count)), draft.title_case)
    each = max(1, (draft.words - len(title)) // count - 1)
    items = [draft.writer.phrase("item", min(5, each), draft.case) for _ in range(count)]
    prices = [draft.writer.price() for _ in range(count)]
    frame = draft.page.inset(m)
    style = pick(rng, ("frame", "band", "plain", "plain"))
    if style == "frame":
        draft.accent("frame", draft.page.inset(max(2, m // 2)), theme.title)
        frame = frame.inset(3 * unit)
    if draft.width > 1.25 * draft.height and rng.random() < 0.6:
        place, frame = frame.columns(0.36, 0.64, gap=6 * unit)
        draft.picture(place, 0.7)
    elif draft.height > 1.2 * draft.width and rng.random() < 0.6 and style != "band":
        place, frame = frame.rows(0.24, 0.76, gap=4 * unit)
        draft.picture(place, 0.4)
    head, body = frame.rows(0.24, 0.76, gap=7 * unit)
    ink = theme.title
    if style == "band":
        left = head.left - m // 2 if draft.pictures else 0
        draft.accent("band", (left, 0, draft.width, head.bottom + round(2 * unit)), theme.band)
        ink = theme.on_band
    draft.write(title, "title", head, most=20, font=draft.title_font, ink=ink, max_lines=2)
    if style != "band" and rng.random() < 0.6:
        top = head.bottom + round(3 * unit)
        draft.accent("rule", (head.left, top, head.right, top + max(1, round(unit))), draft.colours(1)[0])
    rows = body.rows(*[1] * count, gap=2 * unit)
    room = round(0.8 * min(row.height for row in rows))
    costs = draft.same_size([[price] for price in prices], draft.font, (body.width // 3, room), 12)
    across = max(fitted.width for fitted in costs)
    gap = round(6 * unit)
    dishes = draft.same_size(items, draft.font, (body.width - across - gap, room), 12, 1 if unit < 1.4 else 2)
    pixels = min(dishes[0].pixels, costs[0].pixels)
    if max(dishes[0].pixels, costs[0].pixels) > 1.3 * pixels:
        raise CrowdedError
    leaders, thick = rng.random() < 0.5, max(1, round(unit))
    ink = pick(rng, (theme.ink, theme.title))
    for row, item, price, dish, cost in zip(rows, items, prices, dishes, costs, strict=True):
        written = draft.write(item, "bullet", row, align="left", fitted=dish)
        baseline = written.top - dish.typesets()[0].box[1]
        place = Frame(row.right - across, row.top, row.right, row.bottom)
        found = draft.write([price], "price", place, align="right", fitted=cost, ink=ink, baseline=baseline)
        if leaders and found.left - written.right > 4 * gap // 3:
            ends = written.right + gap // 2, found.left - gap // 2
            draft.accent("dots", (ends[0], baseline - thick, ends[1], baseline), theme.ink)


def compose_ticket(draft: Draft) -> None:
    """A panel with event, place and date, and a stub with seat and price beyond a dashed line."""
    rng, unit, theme = draft.rng, draft.unit, draft.theme
    seat_words = 2 if draft.words < 9 else 4
    event = draft.writer.phrase("event", max(1, min(3, draft.words - 4 - seat_words)), draft.title_case)
    left = draft.words - len(event) - seat_words
    texts: list[tuple[Role, tuple[str, ...]]] = []
    if left >= 2:
        texts.append(("place", draft.writer.phrase("place", min(2, left - 1), draft.case)))
        left -= len(texts[-1][1])
    texts.append(("date", draft.writer.phrase("date", max(1, min(3, left)), draft.case)))
    seat = draft.writer.phrase("seat", seat_words, draft.case)
    if len(seat) > 2:  # row and number stay together
        seat = tuple(" ".join(seat[i : i + 2]) for i in range(0, len(seat), 2))
    dark = rng.random() < 0.6
    panel = draft.page.inset(0.5 * draft.margin, 0.5 * draft.margin)
    if draft.height > 0.8 * draft.width and draft.height < 1.3 * draft.width:
        panel = panel.inset(0, 0.12 * draft.height)
    ink = title_ink = theme.on_band
    if dark:
        draft.accent("panel", panel, theme.band)
    else:
        ink, title_ink = theme.ink, theme.title
        draft.accent("frame", panel, theme.title)
    wide = draft.width > 0.8 * draft.height
    inner = panel.inset(6 * unit, 6 * unit)
    gap = 11 * unit
    main, stub = inner.columns(0.68, 0.32, gap=gap) if wide else inner.rows(0.68, 0.32, gap=gap)
    thick = max(1, round(unit))
    if wide:
        middle = (main.right + stub.left) // 2
        draft.accent(
            "dashes", (middle, panel.top + round(4 * unit), middle + thick, panel.bottom - round(4 * unit)), ink
        )
    else:
        middle = (main.bottom + stub.top) // 2
        draft.accent(
            "dashes", (panel.left + round(4 * unit), middle, panel.right - round(4 * unit), middle + thick), ink
        )
    if not wide and draft.rng.random() < 0.6 and draft.height > 1.3 * draft.width:
        place, main = main.rows(0.36, 0.64, gap=4 * unit)
        draft.picture(place, 0.5)
    shares = (0.52, 0.48)
    head, tail = main.rows(*shares, gap=6 * unit)
    draft.write(event, "title", head, most=24, font=draft.title_font, ink=title_ink, max_lines=3)
    rows = tail.rows(*[1] * len(texts), gap=3 * unit)
    room = (tail.width, round(0.85 * min(row.height for row in rows)))
    for (role, words), row, fitted in zip(
        texts, rows, draft.same_size([words for _, words in texts], draft.font, room, 13, 1), strict=True
    ):
        draft.write(words, role, row, fitted=fitted, ink=ink)
    draft.write(seat, "seat", stub, most=16, font=draft.title_font, ink=ink, align="center", max_lines=4)


def compose_sign(draft: Draft) -> None:
    """A board with one to four lines in the middle, the first the largest, or all in one size."""
    rng, unit, theme = draft.rng, draft.unit, draft.theme
    left, texts = draft.words, [draft.writer.phrase("sign", min(3, draft.words), draft.title_case)]
    left -= len(texts[0])
    most = 4 if draft.unit > 1.4 else 3
    while left > 0 and len(texts) < most:
        role = "hours" if len(texts) >= 1 and rng.random() < 0.5 else "sign"
        texts.append(draft.writer.phrase(role, min(3, left), draft.case if len(texts) > 1 else draft.title_case))
        left -= len(texts[-1])
    board = draft.page.inset(0.7 * draft.margin)
    if len(texts) < 3 and draft.width < 1.5 * draft.height:
        board = board.inset(0, 0.18 * draft.height)
    draft.accent("panel", board, theme.band)
    if rng.random() < 0.7:
        draft.accent("frame", board.inset(2.5 * unit), theme.on_band)
    frame = board.inset(9 * unit, 8 * unit)
    same = rng.random() < 0.3
    draft.align = draft.align if rng.random() < 0.4 else "center"
    shares = [1.0 if same or i else 1.6 for i in range(len(texts))]
    rows = frame.rows(*shares, gap=6 * unit)
    if same:
        room = (frame.width, round(0.9 * min(row.height for row in rows)))
        found = draft.same_size(texts, draft.title_font, room, 40, 2)
        for i, (words, row, fitted) in enumerate(zip(texts, rows, found, strict=True)):
            draft.write(
                words, "subtitle" if i else "title", row, font=draft.title_font, ink=theme.on_band, fitted=fitted
            )
        return
    head, *tail = rows
    written = draft.write(texts[0], "title", head, font=draft.title_font, ink=theme.on_band, max_lines=2)
    if not tail:
        return
    room = (frame.width, round(0.9 * min(row.height for row in tail)))
    for words, row, fitted in zip(texts[1:], tail, draft.same_size(texts[1:], draft.font, room, 16), strict=True):
        draft.write(words, "subtitle", row, ink=theme.on_band, fitted=fitted)
    if rng.random() < 0.5:
        top = head.bottom + round(2.5 * unit)
        draft.accent("rule", (written.left, top, written.right, top + max(1, round(unit))), theme.on_band)
