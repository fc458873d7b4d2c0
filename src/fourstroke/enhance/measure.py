"""Measures rewrites by their text: many requests answered in batches, and what their answers keep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from fourstroke.enhance import protocol
from fourstroke.enhance.checks import Lexicon, language_kept, lost_words
from fourstroke.enhance.local import EnhancerConfig, LocalModel
from fourstroke.evaluate.statistics import Share, share


def answers(
    model: LocalModel,
    requests: Sequence[str],
    system_prompt: str,
    config: EnhancerConfig,
    *,
    images: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    batch: int = 32,
) -> list[str]:
    """The raw turns of a model on many requests, in batches; greedy ones are those of one request at a time.

    `images` holds those of each request as `data:` URLs; None is none at all.

    Nobody waits for them, so `max_seconds` is not looked at.
    """
    config = replace(config, max_seconds=sys.float_info.max)
    found: list[str] = []
    for start in range(0, len(requests), batch):
        part = range(start, min(start + batch, len(requests)))
        conversations = [protocol.messages(requests[i], system_prompt, images[i] if images else ()) for i in part]
        found += model.complete_many(conversations, config, seed + start)
    return found


def rewrites(turns: Sequence[str]) -> list[str | None]:
    """What each turn rewrote; None where it holds no answer."""
    found: list[str | None] = []
    for turn in turns:
        try:
            found.append(protocol.parse_answer(turn).prompt)
        except protocol.AnswerError:
            found.append(None)
    return found


def text_scores(requests: Sequence[str], given: Sequence[str | None], lexicon: Lexicon) -> dict[str, Share | None]:
    """Shares of requests: valid JSON; quoted words, language, things, what is said of them and places kept;
    nothing invented. Invalid: lost.
    """
    pairs = list(zip(requests, given, strict=True))
    hits = {
        "valid": [text is not None for _, text in pairs],
        "words_kept": [text is not None and not lost_words(r, text) for r, text in pairs],
        "language_kept": [text is not None and language_kept(r, text) for r, text in pairs],
        "things_kept": [text is not None and not lexicon.lost(r, text) for r, text in pairs],
        "facts_kept": [text is not None and not lexicon.altered(r, text) for r, text in pairs],
        "places_kept": [text is not None and not lexicon.moved(r, text) for r, text in pairs],
        "nothing_invented": [text is not None and not lexicon.invented(r, text) for r, text in pairs],
    }
    return {name: share([float(hit) for hit in row], [1] * len(row)) for name, row in hits.items()}
