"""How people ask: short clauses about a scene, and the casual ways around them. Quoted words pass untouched.

A tenth of the casual frames is kept from training by a stable hash, as combinations and words are, so that held-out
prompts are also worded in ways that training never saw.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.caption import (
    BESIDE_IT,
    OPENINGS,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SIDE_OF,
    size_word,
    with_article,
)
from fourstroke.world.graph import INVERSE, Background, Scene, Sign, Split, is_held_out

STYLES = dict(
    zip(
        OPENINGS,
        ("a clean digital illustration", "a simple colorful drawing", "a cartoon picture", "a plain picture"),
        strict=True,
    )
)
STYLE_WORDS = {
    "a clean digital illustration": ("an illustration", "digital art"),
    "a simple colorful drawing": ("a drawing", "a colorful drawing"),
    "a cartoon picture": ("a cartoon", "a toon"),
    "a plain picture": ("a picture", "an image"),
}
TEXTURES = {
    "paper": ("with a grainy paper texture", "textured"),
    "stripes": ("with faint stripes", "patterned"),
    "dots": ("with small dots", "patterned"),
    "checks": ("with a checkered pattern", "patterned"),
}
LIGHTS = {
    "left": ("lit from the left", "with soft light"),
    "right": ("lit from the right", "with soft light"),
    "top": ("lit from above", "with soft light"),
    "vignette": ("with a dark vignette", "moody"),
    "warm": ("in a warm golden glow", "cozy"),
    "dusk": ("at dusk", "in dim light"),
}
FRAMES = (
    "{} please",
    "{} pls",
    "draw {}",
    "draw me {}",
    "can you draw {}",
    "could you draw {} please",
    "can you make {}?",
    "make {}",
    "make me {}",
    "i want {}",
    "i want a picture of {}",
    "i'd like {}",
    "i would like to see {}",
    "i need {}",
    "i need a pic of {}",
    "need {} asap",
    "give me {}",
    "gimme {}",
    "show me {}",
    "show {}",
    "just {}",
    "maybe {}",
    "how about {}",
    "what about {}?",
    "let's see {}",
    "please draw {}",
    "please make a picture of {}",
    "paint {}",
    "paint me {} please",
    "sketch {}",
    "create {}",
    "generate {}",
    "generate an image of {}",
    "picture of {}",
    "pic of {}",
    "a pic with {}",
    "hey, draw {}",
    "hi, can i get {}?",
    "can i have {}",
    "so basically {}",
    "ok {}",
    "{}, thanks",
    "{} thx",
    "{}!",
    "{}, nothing fancy",
    "{}, make it nice",
    "{} for my kid",
    "{} for a card",
    "my daughter wants {}",
    "would be cool: {}",
)
STICKER = "as a sticker"
TRANSPARENT = ("on a transparent background", "with a transparent background", STICKER, STICKER)
LEFT_OPEN = ("something else", "another thing", "something next to it")


def frames(split: Split) -> tuple[str, ...]:
    """The casual frames of a split."""
    return tuple(frame for frame in FRAMES if is_held_out("frame", frame) == (split == "heldout"))


def casual(clause: str, rng: np.random.Generator, split: Split) -> str:
    """A clause as people type it: in a frame, perhaps without articles or commas; quotations stay as they are."""
    clause = careless(clause, rng)
    return pick(rng, frames(split)).format(clause) if rng.random() < 0.8 else clause


def careless(clause: str, rng: np.random.Generator) -> str:
    """A clause, perhaps without articles or commas; quotations stay as they are."""
    if rng.random() < 0.3:
        clause = outside_quotes(clause, lambda text: re.sub(r"\b(an?|the) ", "", text))
    if rng.random() < 0.3:
        clause = outside_quotes(clause, lambda text: text.replace(",", ""))
    return clause


def outside_quotes(text: str, change: Callable[[str], str]) -> str:
    """`change` applied to the parts of a text that stand outside double quotes."""
    parts = re.split(r'("[^"]*")', text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def names(scene: Scene) -> list[str]:
    """The objects with their articles, in order."""
    return [with_article(entry.title) for entry in scene.objects]


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def arranged(scene: Scene, rng: np.random.Generator, *, sized: bool, turned: bool) -> tuple[str, str]:
    """The objects where they stand, and the same in the one wording of thoughts (`meaning`).

    `sized` says how large a lone one is; `turned` begins with the last of two, or of a row.
    """
    things, objects, reading = names(scene), scene.objects, meaning(scene, turned)
    if len(things) == 1:
        only = objects[0]
        name = with_article(f"{size_word(only.size)} {only.title}") if sized else things[0]
        if scene.sign is not None or (only.place == "center" and rng.random() < 0.5):
            return name, reading
        return f"{name} {pick(rng, PLACE_PHRASES[only.place])}", reading
    predicate = str(scene.relations[0].predicate)
    if len(things) == 2:
        a, b = things[::-1] if turned else things
        predicate = INVERSE[predicate] if turned else predicate
        forms: tuple[str, ...] = (
            f"{a} {pick(rng, RELATION_PHRASES[predicate])} {b}",
            f"{a} {pick(rng, RELATION_PHRASES[predicate])} {b}",
            f"{a} {SIDE_OF[predicate]} and {b} {SIDE_OF[INVERSE[predicate]]}",
            f"{a} with {b} {BESIDE_IT[INVERSE[predicate]]}",
        )
    elif scene.layout in ("row", "column"):
        a, b, c = things[::-1] if turned else things
        side = SIDE_OF[INVERSE[predicate] if turned else predicate]
        forms = (reading, reading, f"{b} between {a} and {c}, the {objects[-1 if turned else 0].title} {side}")
    else:
        a, b, c = things
        forms = (reading, f"{b} to the left of {c}, with {a} {predicate} them")
    return pick(rng, forms), reading


def meaning(scene: Scene, turned: bool = False) -> str:
    """The layout in one fixed wording; `turned` begins with the last of two, or of a row."""
    things = names(scene)
    if len(things) == 1:
        return f"{things[0]} {PLACE_PHRASES[scene.objects[0].place][0]}"
    predicate = str(scene.relations[0].predicate)
    if len(things) == 2:
        a, b = things[::-1] if turned else things
        return f"{a} {RELATION_PHRASES[INVERSE[predicate] if turned else predicate][0]} {b}"
    a, b, c = things
    if scene.layout in ("row", "column"):
        ends = ("left", "right") if scene.layout == "row" else ("top", "bottom")
        if turned:
            a, c, ends = c, a, ends[::-1]
        return f"{a}, {b} and {c} in a {scene.layout} from {ends[0]} to {ends[1]}"
    return f"{a} {predicate} {b} on the left and {c} on the right"


def with_sign(clause: str, sign: Sign, sign_phrase: str) -> str:
    """A clause with its sign above or below it; a sign alone is its own clause."""
    if not clause:
        return sign_phrase
    return f"{sign_phrase} {'above' if sign.place == 'top' else 'below'} {clause}"


def background_phrase(background: Background, rng: np.random.Generator) -> tuple[str, str, str]:
    """The background as a phrase, as a vague phrase, and as a thought."""
    first, second = background.colour, background.second
    if background.kind == "transparent":
        return pick(rng, TRANSPARENT), STICKER, "transparent"
    if background.kind == "flat":
        vague = ("on a plain background", "on a nice background")
        return f"on {with_article(f'{first} background')}", pick(rng, vague), f"flat {first}"
    if background.kind == "gradient":
        stated = f"on {with_article(f'{first} to {second} gradient')}"
        return stated, pick(rng, ("on a gradient", "on a fading background")), f"from {first} to {second}"
    stated = f"in front of {with_article(f'{first} wall')} on {with_article(f'{second} floor')}"
    return stated, pick(rng, ("in a room", "in front of a wall")), f"{first} wall, {second} floor"


def pair_colloquial(items: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """Things without their places, in the order they come to mind, and the same as a plain list."""
    order = [items[i] for i in rng.permutation(len(items))]
    if len(order) == 2 and rng.random() < 0.4:
        return f"{order[0]} {pick(rng, ('with', 'next to', 'plus', 'and also'))} {order[1]}", listed(order)
    return listed(order), listed(order)
