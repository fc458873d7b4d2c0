"""Rewards of the enhancer's reinforcement learning, each a plain function with a value in [0, 1].

Qwen-Image-2.0 report: MLLM visual consistency, MLLM aesthetics and rule-based text constraints. In the drawn world the
judge of pixels (`world.judging.judge`) takes the place of the first, and a statistic of the background the place of the
second; `mllm` asks a model that sees instead. Consistency is always measured against the facts of the *short*
prompt. Each can be gamed alone, which is why they are several, and why a judge that is no reward looks on (`judge`).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image

from fourstroke.enhance.checks import Lexicon, language_kept, lost_words, quoted
from fourstroke.enhance.endpoint import Endpoint, data_url
from fourstroke.enhance.protocol import AnswerError, json_objects, parse_answer
from fourstroke.world.judging.judge import Verdict

LIVELY = 24.0
"""Mean deviation from the median colour (of 255) in the frame of a picture at which richness is complete."""
MLLM_QUESTION = """\
Request: {request}
Judge the picture. "consistency": does it show all that the request says, and nothing against it? "aesthetics": light, \
composition, detail, finish. Answer with JSON alone: {{"consistency": 0 to 10, "aesthetics": 0 to 10}}"""


def consistency(verdict: Verdict, states_background: bool = False) -> float:
    """Share of the short prompt's facts that the picture shows: objects, colours, relations, background, words.

    `verdict` judges the picture against the facts (`Triplet.facts`); the background counts only where it was stated.
    """
    hits: list[float] = [*map(float, verdict.objects + verdict.colours + verdict.relations)]
    if states_background:
        hits += map(float, verdict.backgrounds)
    if verdict.word is not None:
        hits.append(float(verdict.word.exact))
    return sum(hits) / len(hits) if hits else 0.0


def richness(picture: np.ndarray) -> float:
    """How much the outer frame of a picture, (H, W, 3 or 4) uint8, varies: texture, light, a second colour.

    The frame is the outermost eighth on each side, where objects seldom reach, so it is the scene that counts.
    """
    pixels = picture[..., :3].astype(np.float32)
    height, width = pixels.shape[:2]
    edge = max(1, min(height, width) // 8)
    frame = np.ones((height, width), bool)
    frame[edge:-edge, edge:-edge] = False
    spread = float(np.abs(pixels[frame] - np.median(pixels[frame], axis=0)).mean())
    return min(1.0, spread / LIVELY)


def valid(answer: str) -> float:
    """Whether an assistant turn holds the JSON of the protocol."""
    try:
        parse_answer(answer)
    except AnswerError:
        return 0.0
    return 1.0


def words(request: str, rewrite: str) -> float:
    """Share of the request's quoted texts that the rewrite quotes verbatim; 1 where there are none."""
    asked = quoted(request)
    return 1 - len(lost_words(request, rewrite)) / len(asked) if asked else 1.0


def language(request: str, rewrite: str) -> float:
    """Whether the rewrite is in the request's language."""
    return float(language_kept(request, rewrite))


def length(rewrite: str, low: int, high: int) -> float:
    """1 between `low` and `high` words, falling to 0 at half of `low` and at twice `high`."""
    count = len(rewrite.split())
    return float(np.clip(min(2 * count / max(1, low) - 1, 2 - count / max(1, high)), 0, 1))


def things(request: str, rewrite: str, lexicon: Lexicon) -> float:
    """Share of the request's things and colours that the rewrite names, halved if it invents others."""
    asked = len(lexicon.titles(request)) + len(lexicon.colours_of(request))
    kept = 1 - min(1.0, len(lexicon.lost(request, rewrite)) / asked) if asked else 1.0
    return kept * (0.5 if lexicon.invented(request, rewrite) else 1.0)


def places(request: str, rewrite: str, lexicon: Lexicon) -> float:
    """Whether the rewrite says of every thing that it stands where the request wants it, and nothing against it."""
    return float(not lexicon.moved(request, rewrite))


def longer(rewrite: str, full: int = 200) -> float:
    """Words of a rewrite over `full`: a reward that is easy to hack, to show that the held-out judge catches it."""
    return min(1.0, len(rewrite.split()) / full)


def mllm(endpoint: Endpoint, request: str, picture: Image.Image, **options: Any) -> tuple[float, float]:
    """Consistency and aesthetics by a model that sees, each in [0, 1].

    Raises:
        EndpointError: if the endpoint fails.
        AnswerError: if its answer holds no two scores.
    """
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(picture)}},
        {"type": "text", "text": MLLM_QUESTION.format(request=request)},
    ]
    answer = endpoint.chat([{"role": "user", "content": parts}], temperature=0, **options)
    for found in reversed(json_objects(re.sub(r"(?s).*</think>", "", answer))):
        scores = [found.get(key) for key in ("consistency", "aesthetics")]
        if all(isinstance(score, (int, float)) for score in scores):
            first, second = (float(np.clip(score / 10, 0, 1)) for score in scores)
            return first, second
    raise AnswerError("the judge's answer holds no two scores")
