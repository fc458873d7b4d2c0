"""Pages are judged by what is read on them: on true pages nearly all, on others nearly nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fourstroke.pipeline import Output
from fourstroke.world.dataset import PosterData
from fourstroke.world.judging.pages import evaluate_pages, judge_page, judge_pages, page_prompts, summarise_pages, table
from fourstroke.world.pages import PageConfig, Pages, split_of_page, text_of

from .test_composition import Truth

CONFIG = PageConfig(width=384, height=384, scripts=("latin", "chinese"), words=(1, 16))


def said(page):
    """What a perfect reader reads."""
    return [line.text for line in page.lines]


def test_prompts_are_held_out_and_half_rich():
    prompts = page_prompts(CONFIG, 6)
    assert prompts == page_prompts(CONFIG, 6)
    assert {split_of_page(prompt.page) for prompt in prompts} == {"heldout"}
    assert np.mean([len(p.caption) for p in prompts[1::2]]) > 1.5 * np.mean([len(p.caption) for p in prompts[::2]])


def test_a_perfect_reader_finds_all_and_of_another_page_next_to_nothing():
    prompts = page_prompts(CONFIG, 20)
    blank = np.zeros((8, 8, 3), np.uint8)
    right = [judge_page(blank, p.page, lambda _, p=p: said(p.page)) for p in prompts]
    assert all(verdict.right and verdict.ned == 1.0 for verdict in right)
    joined = [judge_page(blank, p.page, lambda _, p=p: [text_of(block) for block in p.page.blocks]) for p in prompts]
    assert all(verdict.right and verdict.ned == 1.0 for verdict in joined)
    others = [*prompts[1:], prompts[0]]
    wrong = [judge_page(blank, p.page, lambda _, q=q: said(q.page)) for p, q in zip(prompts, others, strict=True)]
    shares = summarise_pages(prompts, wrong)["all"]
    assert shares["words_exact"]["value"] < 0.1
    assert shares["words_ned"]["value"] < 0.5
    nothing = judge_page(blank, prompts[0].page, lambda _: [])
    assert not any(nothing.words)
    assert nothing.ned == 0.0


def test_only_what_the_caption_quotes_is_asked():
    prompts = page_prompts(CONFIG, 60)
    counts = [(len(p.asked.blocks), len(p.page.blocks), len(p.asked.words), len(p.page.words)) for p in prompts]
    assert all(asked == there and words == all_words for asked, there, words, all_words in counts[1::2])
    assert all(asked >= 1 for asked, *_ in counts)
    assert any(asked < there and words < all_words for asked, there, words, all_words in counts[::2])
    blank = np.zeros((8, 8, 3), np.uint8)
    for prompt in prompts:
        quoted = prompt.caption.split('"')[1::2]
        assert {text_of(block) for block in prompt.asked.blocks} == set(quoted) & set(map(text_of, prompt.page.blocks))
        assert judge_page(blank, prompt.asked, lambda _, quoted=quoted: quoted).right


def test_a_word_counts_as_often_as_it_is_there():
    page = next(p.page for p in page_prompts(CONFIG, 30) if p.page.script == "latin")
    twice = replace(page, lines=(page.lines[0], page.lines[0]))
    words = len(page.lines[0].text.split())
    read = judge_page(np.zeros((8, 8, 3), np.uint8), twice, lambda _: [page.lines[0].text.upper() + "!"])
    assert sum(read.words) == words == len(read.words) / 2


def test_a_line_that_was_broken_is_read_alone_but_another_spelling_is_not(monkeypatch):
    page = next(p.page for p in page_prompts(CONFIG, 30) if p.page.script == "latin")
    page, text, alone = replace(page, lines=page.lines[:1]), page.lines[0].text, []
    monkeypatch.setattr(
        "fourstroke.world.judging.pages.read_alone", lambda *_: alone.append(1) or text.replace(" ", "_")
    )
    for seen, right, looks in (([text[:2], text[3:]], True, 1), ([], True, 1), (["Q" + text[1:]], False, 0)):
        alone.clear()
        monkeypatch.setattr("fourstroke.world.judging.pages.read_lines", lambda *_, seen=seen: seen)
        assert (judge_page(np.zeros((64, 64, 3), np.uint8), page).right, len(alone)) == (right, looks)


def test_posters_on_the_lattice_are_read():
    """Where detection takes columns of characters for lines, or letters together with the picture above them."""
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    kinds = (0.7, 0.08, 0.08, 0, 0.04, 0.1)
    config = PageConfig(kinds=kinds, scripts=("latin", "cyrillic", "chinese"), things=72, snap=16)
    pages = [Pages(config).page(seed, "heldout") for seed in (75, 81, 156, 180, 199)]
    pictures = [Pages(config).render(page) for page in pages]
    assert all(judge_page(picture, page).right for picture, page in zip(pictures, pages, strict=True))
    assert not any(judge_page(picture, page).right for picture, page in zip(pictures[1:], pages[:-1], strict=True))


def test_scores_are_given_by_script_and_by_number_of_words():
    prompts = page_prompts(CONFIG, 24)
    blank = np.zeros((8, 8, 3), np.uint8)
    verdicts = [judge_page(blank, p.page, lambda _, p=p: said(p.page) if p.page.script == "latin" else [])
                for p in prompts]  # fmt: skip
    found = summarise_pages(prompts, verdicts)
    assert found["latin"]["words_exact"]["value"] == 1.0
    assert found["chinese"]["words_exact"]["value"] == 0.0
    assert found["latin"]["pages"] + found["chinese"]["pages"] == found["all"]["pages"] == 24
    assert sum(row["pages"] for name, row in found.items() if "words" in name) == 24


def test_true_pages_are_read():
    pytest.importorskip("rapidocr", reason="RapidOCR is not installed: pip install fourstroke[eval]")
    prompts = page_prompts(CONFIG, 12)
    pictures = [Pages(CONFIG).render(prompt.page) for prompt in prompts]
    found = summarise_pages(prompts, judge_pages(prompts, pictures))
    assert found["all"]["words_exact"]["value"] > 0.85
    assert found["all"]["words_ned"]["value"] > 0.92
    bare = [Pages(CONFIG).render(prompt.asked) for prompt in prompts]  # what was not asked may be missing
    assert summarise_pages(prompts, judge_pages(prompts, bare))["all"]["words_exact"]["value"] > 0.85
    turned = summarise_pages(prompts, judge_pages(prompts, [*pictures[1:], pictures[0]]))
    assert turned["all"]["words_exact"]["value"] < 0.1


def test_a_model_is_measured(tmp_path, monkeypatch):
    prompts = page_prompts(CONFIG, 4)
    texts = {prompt.caption: prompt.page for prompt in prompts}

    class Pressman(Truth):
        def __call__(self, captions, **options):
            self.asked = captions
            pictures = [Image.fromarray(Pages(CONFIG).render(texts[caption])[..., :3]) for caption in captions]
            return Output(pictures, captions, [0] * len(captions))

    pages = iter(prompts)
    monkeypatch.setattr("fourstroke.world.judging.pages.read_lines", lambda pixels, script: said(next(pages).page))
    result = evaluate_pages(Pressman([]), data=PosterData(pages=CONFIG), n=4, sheet=tmp_path / "sheet.png")
    assert result["pages"]["all"]["words_exact"]["value"] == 1.0
    assert "100.0 %" in table(result)
    assert (tmp_path / "sheet.png").stat().st_size > 0
