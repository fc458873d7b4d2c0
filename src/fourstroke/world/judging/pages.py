"""Whether pictures of pages say what was asked: words read by RapidOCR, by script and by how many there are.

As text-rendering benchmarks count, of what the caption quotes: words that are there exactly, and NED, the similarity
of each line of the page to the line of the picture that is most like it. The reader of whole pictures joins and splits
letters that stand wide apart, and takes in what touches them: a line that it does not give is read once more by
itself, in its place.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourstroke import progress
from fourstroke.data.sample import DatasetConfig
from fourstroke.data.sheet import contact_sheet
from fourstroke.device import Device
from fourstroke.evaluate.data import find_data
from fourstroke.evaluate.reading import read_alone, read_lines, similarity
from fourstroke.evaluate.statistics import Share, share
from fourstroke.files import save_image
from fourstroke.folder import find_model
from fourstroke.pipeline import Pipeline
from fourstroke.progress import OnPicture
from fourstroke.world.find import pages_of
from fourstroke.world.graph import Split
from fourstroke.world.judging.composition import SHEET_PICTURES, draw, plain
from fourstroke.world.judging.judge import opaque
from fourstroke.world.judging.kinds import Captions
from fourstroke.world.pages.caption import quote
from fourstroke.world.pages.graph import KINDS, Page, TextLine, pixel_box, text_of, word_count
from fourstroke.world.pages.pages import PageConfig, Pages

NUMBERS = ((1, 3), (4, 10), (11, 25), (26, 10_000))
"""Fewest and most words of the groups that scores are given for."""
TWO_LINES = "posters of two lines"
AROUND = 0.2
"""How much more than a line is looked at around it, in heights of its box."""


@dataclass(frozen=True, kw_only=True)
class PagePrompt:
    """A page with the caption that asks for it; `seed` is also that of the noise."""

    seed: int
    page: Page
    caption: str
    transparent: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.page.width, self.page.height

    @property
    def asked(self) -> Page:
        """The page with the texts that the caption quotes: short ones leave some to the one who draws."""
        lines = tuple(line for block in self.page.blocks if quote(text_of(block)) in self.caption for line in block)
        text = _plain("".join(line.text for line in lines))
        return replace(self.page, lines=lines, words=tuple(word for word in self.page.words if _plain(word) in text))


@dataclass(frozen=True, kw_only=True)
class PageVerdict:
    """What of a page is read in a picture."""

    words: tuple[bool, ...]
    """Whether each word and number is there; neither case nor punctuation counts."""
    ned: float
    """Mean over lines of the similarity to the most alike line that was read, 0 to 1."""

    @property
    def right(self) -> bool:
        """Whether all words are there."""
        return all(self.words)


def judge_page(image: np.ndarray, page: Page, read: Callable[[np.ndarray], Sequence[str]] | None = None) -> PageVerdict:
    """Read a picture (H, W, 3 or 4) uint8 and compare it with the page.

    Args:
        read: in place of `evaluate.reading`; it sees the whole picture alone.

    Raises:
        ValueError: if what reads the page's script is needed and not installed.
    """
    pixels = opaque(image)
    seen = list(read(pixels) if read else read_lines(pixels, page.script))
    alone = [] if read else _read_each(pixels, page, seen)
    chinese = page.script == "chinese"
    asked = [_plain(word) for word in page.words] if chinese else [w for line in page.lines for w in _words(line.text)]
    there, found = _count(seen, page) | _count(alone, page), []
    for word in asked:
        found.append(there[word] > 0)
        there[word] -= 1
    texts = [_plain(text_of(block)) for block in page.blocks] + [_plain(line.text) for line in page.lines]
    lines, blocks = [_plain(line) for line in (*seen, *alone)], len(page.blocks)
    alike = [max((similarity(line, text) for line in lines), default=0.0) for text in texts]
    best, place = [], blocks
    for index, block in enumerate(page.blocks):  # a text that was broken may be read as one line or as several
        each = alike[place : place + len(block)]
        place += len(block)
        best.append(max(alike[index], sum(each) / len(each)))
    return PageVerdict(words=tuple(found), ned=sum(best) / len(best) if best else math.nan)


def _read_each(pixels: np.ndarray, page: Page, seen: Sequence[str]) -> list[str]:
    """The page's lines as they were seen or, where none of those seen can be it, as they are read alone in their place.

    A line of as many letters, most of them the same, is the page's one in another spelling: no second reading mends it.
    """
    left, found = Counter(map(_plain, seen)), []
    for line in page.lines:
        plain = _plain(line.text)
        text = next((text for text in seen if _is_spelling(_plain(text), plain)), None)
        if left[plain]:
            left[plain] -= 1
            text = line.text
        elif text is None:
            text = read_alone(_cut_out(pixels, line), page.script)
        found.append(line.text if _plain(text) == plain else text)
    return found


def _is_spelling(text: str, asked: str) -> bool:
    return text != asked and len(text) == len(asked) and similarity(text, asked) > 0.5


def _cut_out(pixels: np.ndarray, line: TextLine) -> np.ndarray:
    """A line and a little around it."""
    left, top, right, bottom = pixel_box(line, pixels.shape[1], pixels.shape[0])
    more = max(1, round(AROUND * (bottom - top)))
    return pixels[max(0, top - more) : bottom + more, max(0, left - more) : right + more]


def _count(lines: Sequence[str], page: Page) -> Counter[str]:
    """How often words are there; in Chinese, which has no spaces, those of the page."""
    if page.script != "chinese":
        return Counter(word for line in lines for word in _words(line))
    text = _plain("".join(lines))
    return Counter({word: text.count(word) for word in map(_plain, page.words)})


def page_prompts(
    config: PageConfig, n: int, captions: Captions = "mixed", split: Split = "heldout"
) -> list[PagePrompt]:
    """The prompts of the first n held-out pages that can be drawn; `mixed` words even ones shortly, odd ones richly."""
    pages = Pages(config)
    prompts: list[PagePrompt] = []
    for seed in range(4 * n):
        try:
            page = pages.page(seed, split)
        except ValueError:
            continue
        rich = captions == "rich" or (captions == "mixed" and len(prompts) % 2 == 1)
        prompts.append(PagePrompt(seed=seed, page=page, caption=pages.caption(page, rich, seed)))
        if len(prompts) == n:
            break
    return prompts


def summarise_pages(prompts: Sequence[PagePrompt], verdicts: Sequence[PageVerdict]) -> dict[str, dict[str, Any]]:
    """`words_exact` and `words_ned` with intervals, by the groups of `group_pages`."""
    found = {}
    for name, indices in group_pages(prompts).items():
        chosen = [verdicts[index] for index in indices]
        exact = share([sum(v.words) for v in chosen], [len(v.words) for v in chosen])
        ned = share([v.ned for v in chosen], [1] * len(chosen))
        if exact is not None and ned is not None:
            found[name] = {"words_exact": plain(exact), "words_ned": plain(ned), "pages": len(chosen)}
    return found


def group_pages(prompts: Sequence[PagePrompt]) -> dict[str, list[int]]:
    """All pages, those of each script, by the number of words, of each kind, and posters of two lines; by index."""
    groups: dict[str, list[int]] = {"all": list(range(len(prompts)))}
    for script in sorted({prompt.page.script for prompt in prompts}):
        groups[script] = [i for i, prompt in enumerate(prompts) if prompt.page.script == script]
    for least, most in NUMBERS:
        inside = [i for i, prompt in enumerate(prompts) if least <= word_count(prompt.page) <= most]
        groups[f"{least} to {most} words" if most < NUMBERS[-1][1] else f"{least} words and more"] = inside
    for kind in KINDS:
        groups[f"{kind}s"] = [i for i, prompt in enumerate(prompts) if prompt.page.kind == kind]
    groups[TWO_LINES] = [i for i in groups["posters"] if len(prompts[i].page.lines) == 2]
    return {name: indices for name, indices in groups.items() if indices}


def evaluate_pages(
    model: Pipeline | str | Path | None = None,
    *,
    data: DatasetConfig | Path | None = None,
    n: int = 100,
    captions: Captions = "mixed",
    steps: int | None = None,
    guidance: float | None = None,
    batch: int = 8,
    device: Device | None = None,
    sheet: Path | None = None,
) -> dict[str, Any]:
    """Draw n held-out pages with a model and read them; arguments as of `evaluate_composition`."""
    folder = None if isinstance(model, Pipeline) else find_model(model)
    pipe = model if isinstance(model, Pipeline) else Pipeline.from_pretrained(folder, device=device)
    source = find_data(data, folder, pipe.info.name) if data is None or isinstance(data, Path) else data
    prompts = page_prompts(pages_of(source), n, captions)
    start = time.perf_counter()
    pictures = draw(pipe, prompts, steps=steps, guidance=guidance, batch=batch, on_picture=progress.pictures("drawing"))
    seconds = (time.perf_counter() - start) / len(prompts)
    verdicts = judge_pages(prompts, pictures, progress.pictures("reading"))
    if sheet is not None:
        texts = [f"{sum(v.words)} of {len(v.words)} words, NED {v.ned:.2f}" for v in verdicts[:SHEET_PICTURES]]
        save_image(contact_sheet(pictures[:SHEET_PICTURES], texts, columns=min(4, len(texts))), sheet)
    shares = summarise_pages(prompts, verdicts)
    return {"model": pipe.info.name, "n": len(prompts), "seconds_per_picture": seconds} | {"pages": shares}


def judge_pages(
    prompts: Sequence[PagePrompt], pictures: Sequence[np.ndarray], on_picture: OnPicture | None = None
) -> list[PageVerdict]:
    """The verdict on each picture."""
    verdicts = []
    for prompt, picture in zip(prompts, pictures, strict=True):
        verdicts.append(judge_page(picture, prompt.asked))
        if on_picture is not None:
            on_picture(len(verdicts), len(prompts))
    return verdicts


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate_pages` as lines of text."""
    lines = [
        f"{result['model']}: {result['n']} held-out pages, {result['seconds_per_picture']:.2f} s a picture",
        f"{'':<20} {'pages':>5} {'words':>7}   {'95 %':^13}   {'NED':>5}",
    ]
    for name, row in result["pages"].items():
        exact, ned = (Share(**row[key]) for key in ("words_exact", "words_ned"))
        spread = f"{100 * exact.low:>5.1f} – {100 * exact.high:>5.1f}"
        lines.append(f"{name:<20} {row['pages']:>5} {100 * exact.value:>5.1f} %   {spread}   {ned.value:>5.3f}")
    return "\n".join(lines)


def _words(line: str) -> list[str]:
    """Words and numbers of a line, without case and without what stands around them."""
    return [word for part in line.split() if (word := _plain(part))]


def _plain(text: str) -> str:
    """Letters and digits alone, without case; points and colons within numbers stay."""
    kept = re.sub(r"(?<=\d)[.:,](?=\d)", "·", text.casefold())
    return re.sub(r"[^\w·]|_", "", kept)
