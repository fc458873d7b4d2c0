"""Posters on a lattice of latents: a word each for title and subtitle, a picture in a square; one letter a latent.

As scenes are on one (`world.snap`), so that a network that has learnt to write signs finds the same letters here.
"""

from __future__ import annotations

from fourstroke.chance import pick
from fourstroke.world.pages.draft import Draft, Frame
from fourstroke.world.pages.graph import Align, Role
from fourstroke.world.pages.phrases import Case
from fourstroke.world.pages.type import FONTS, CrowdedError
from fourstroke.world.snap import LATENT, PITCHES, SQUARES, growth_of

ROWS = 2
"""Rows of latents from one line of text to the next."""


def compose_poster_on_lattice(draft: Draft) -> None:
    """A title, mostly a subtitle, and a picture between, above or below them, with a band now and then.

    Raises:
        CrowdedError: if a text is longer than a row, or the page has no room.
    """
    rng, rows = draft.rng, draft.height // LATENT
    fonts = FONTS[draft.script]
    font = "monospaced" if "monospaced" in fonts else pick(rng, sorted(fonts))
    square = SQUARES[1] * growth_of(draft.width, draft.height)
    deep = square // LATENT
    texts: list[tuple[Role, str]] = [("title", _line(draft, "title", draft.title_case))]
    if draft.words > 1 and rng.random() < 0.75:
        texts.append(("subtitle", _line(draft, "subtitle", draft.case)))
    arrangement = pick(rng, ("between", "between", "above", "below"))
    if arrangement == "between":
        places, top = [1, rows - 2], (rows - deep + 1 - (len(texts) - 1)) // 2
    elif arrangement == "above":
        places, top = [deep, deep + ROWS], 0
    else:
        places, top = [1, 1 + ROWS], rows - deep
    places = places[: len(texts)]
    clear = {"between": top >= ROWS, "above": True, "below": places[-1] < top}[arrangement]
    if places[-1] > rows - 2 or not clear:
        raise CrowdedError
    ink = draft.theme.title
    if rng.random() < 0.35:
        ends = {"between": (0, 40), "above": (square - 6, draft.height), "below": (0, draft.height - square + 6)}
        draft.accent("band", (0, ends[arrangement][0], draft.width, ends[arrangement][1]), draft.theme.band)
        ink = draft.theme.on_band
    align: Align = pick(rng, ("center", "center", "left"))
    columns = draft.width // LATENT
    taken = [len(text) * PITCHES[draft.script][0] // LATENT for _, text in texts]
    first = int(max(taken) < columns)
    for (role, text), width, row in zip(texts, taken, places, strict=True):
        start = (columns - width) // 2 if align == "center" else first
        plain = role == "subtitle" and arrangement == "between"  # below the picture there is no band
        draft.write_on_lattice(text, role, start, row, font=font, ink=draft.theme.ink if plain else ink, align=align)
    left = LATENT * ((columns - deep) // 2 if align == "center" else first)
    frame = Frame(left, top * LATENT, left + square, top * LATENT + square)
    draft.picture(frame.inset(LATENT / 8))


def _line(draft: Draft, role: Role, case: Case) -> str:
    """One or two words that fit a row."""
    words = draft.writer.phrase(role, 1 if role == "title" else 2, case)
    text = ("" if draft.script == "chinese" else " ").join(words)
    if len(text) * PITCHES[draft.script][0] > draft.width:
        raise CrowdedError
    return text
