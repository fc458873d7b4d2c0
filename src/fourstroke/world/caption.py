"""Says what a scene shows, shortly or richly. Whatever a caption states is true of the scene.

Short captions always name the objects with their colours, their relations, a place off the centre, the words of a
sign and a transparent background; the rest they may leave out. Rich captions leave out nothing that is drawn.
"""

from __future__ import annotations

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.graph import INVERSE, Object, Scene, Sign
from fourstroke.world.sprites import FACES

LARGE, SMALL = 0.56, 0.36
SILENT_H, SPOKEN_U = ("hourglass",), ("unicorn", "ukulele")

RELATION_PHRASES = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "above"),
    "below": ("below", "under", "beneath"),
}
SIDE_OF = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
BESIDE_IT = {"left of": "to its left", "right of": "to its right", "above": "above it", "below": "below it"}
PLACE_PHRASES = {
    "center": ("in the center", "in the middle"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
}
TEXTURE_SENTENCES = {
    "paper": ("It has the fine grain of paper.", "A grainy paper texture covers it."),
    "stripes": ("Faint vertical stripes run through it.", "It has a subtle pattern of vertical stripes."),
    "dots": ("Small faint dots cover it in a regular grid.", "It has a subtle pattern of dots."),
    "checks": ("A faint checkered pattern covers it.", "It has a subtle checkerboard texture."),
    "plain": ("It is smooth and plain.", "It has no texture."),
}
LIGHT_SENTENCES = {
    "even": ("The light is even and bright.", "Even light fills the picture."),
    "left": ("Soft light comes from the left, and the right side is darker.", "The scene is lit from the left."),
    "right": ("Soft light comes from the right, and the left side is darker.", "The scene is lit from the right."),
    "top": ("Soft light falls from above, and it gets darker towards the bottom.", "The scene is lit from the top."),
    "vignette": ("The corners fade into a dark vignette.", "A vignette darkens the edges of the picture."),
    "warm": ("A warm golden glow lies over the scene.", "Warm golden light glows in the middle."),
    "dusk": ("It is dusk, and the light is dim and bluish.", "Dim blue evening light covers everything."),
}
TRANSPARENT_SENTENCES = (
    "It is cut out with clean edges, and the background is transparent.",
    "There is nothing behind it: the background is fully transparent.",
)
OPENINGS = (
    "A clean digital illustration of",
    "A simple colorful drawing of",
    "A cartoon picture showing",
    "This picture shows",
)
STYLES = (
    "The style is simple and playful, with clear outlines.",
    "It is drawn as a clean, cartoon-like illustration.",
    "The drawing is crisp, colorful and minimal.",
)


def category_of(scene: Scene) -> str:
    """``Text`` for a sign, ``Complex Text`` for one among objects, ``Portrait`` for a lone face, or ``General``."""
    if scene.sign is not None:
        return "Complex Text" if len(scene.objects) > 1 else "Text"
    alone = len(scene.objects) == 1
    return "Portrait" if alone and scene.objects[0].kind == "sprite" and scene.objects[0].name in FACES else "General"


def describe_shortly(scene: Scene, rng: np.random.Generator) -> str:
    """One clause, as people type prompts."""
    text = _with_sign(scene, rng) if scene.sign is not None else _arranged(scene, rng)
    transparent = scene.background.kind == "transparent"
    if transparent and rng.random() < 0.4:
        return f"a sticker of {text}, transparent background"
    if transparent:
        return f"{text} on a transparent background"
    if len(text.split()) <= 10 and rng.random() < 0.75:
        return f"{text}{_joint(text)} {_background_phrase(scene, rng)}"
    return text


def describe_richly(scene: Scene, rng: np.random.Generator) -> str:
    """Several sentences: objects with sizes and places, relations, background, texture, light, style."""
    opening = "A sticker of" if scene.background.kind == "transparent" else pick(rng, OPENINGS)
    text = _with_sign(scene, rng, rich=True) if scene.sign is not None else _arranged(scene, rng, rich=True)
    sentences = [f"{opening} {text}.", *_details(scene, rng)]
    if scene.background.kind == "transparent":
        sentences.append(pick(rng, TRANSPARENT_SENTENCES))
    else:
        sentences.append(_background_sentence(scene, rng))
        if scene.background.texture != "plain" or rng.random() < 0.5:
            sentences.append(pick(rng, TEXTURE_SENTENCES[scene.background.texture]))
        sentences.append(pick(rng, LIGHT_SENTENCES[scene.background.light]))
    if rng.random() < 0.5 or len(" ".join(sentences).split()) < 26:
        sentences.append(pick(rng, STYLES))
    return " ".join(sentences)


def with_article(noun: str) -> str:
    """``a cat``, ``an apple``, ``an hourglass``, ``a unicorn``."""
    vowel = (noun[0] in "aeiou" and not noun.startswith(SPOKEN_U)) or noun.startswith(SILENT_H)
    return f"{'an' if vowel else 'a'} {noun}"


def size_word(size: float) -> str:
    """``large``, ``medium-sized`` or ``small``, by the share of the picture's shorter side."""
    return "large" if size >= LARGE else "small" if size < SMALL else "medium-sized"


def _arranged(scene: Scene, rng: np.random.Generator, rich: bool = False) -> str:
    """The objects in their layout; rich text gives the size of a lone object and of the first of a pair."""
    objects = scene.objects
    names = [with_article(entry.title) for entry in objects]
    if scene.layout == "alone":
        return _alone(scene, rng, rich)
    if scene.layout == "pair":
        return _pair(objects[0], scene.relations[0].predicate, objects[1], rng)
    a, b, c = names
    if scene.layout in ("row", "column"):
        first, last = ("left", "right") if scene.layout == "row" else ("top", "bottom")
        line = "in a row" if scene.layout == "row" else "in a column"
        ends = ("on the left", "on the right") if scene.layout == "row" else ("at the top", "at the bottom")
        return pick(
            rng,
            (
                f"{a}, {b} and {c} {line} from {first} to {last}",
                f"{c}, {b} and {a} {line} from {last} to {first}",
                f"{b} between {a} {ends[0]} and {c} {ends[1]}",
                f"{a} {ends[0]}, {b} in the middle and {c} {ends[1]}",
            ),
        )
    relation, lone, others = ("above", "top", "bottom") if scene.layout == "pyramid" else ("below", "bottom", "top")
    return pick(
        rng,
        (
            f"{a} {relation} {b} on the left and {c} on the right",
            f"{a} at the {lone}, {b} at the {others} left and {c} at the {others} right",
            f"{b} to the left of {c}, with {a} {relation} them",
        ),
    )


def _alone(scene: Scene, rng: np.random.Generator, rich: bool) -> str:
    only = scene.objects[0]
    name = with_article(f"{size_word(only.size)} {only.title}" if rich else only.title)
    if scene.sign is not None:
        return name
    place = pick(rng, PLACE_PHRASES[only.place])
    if rich or only.place != "center":
        return f"{name} {place}{pick(rng, ('', ' of the picture'))}"
    return pick(rng, (name, f"{name} {place}", f"a picture of {name}", f"one {only.title} {place}"))


def _pair(first: Object, predicate: str, second: Object, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        first, predicate, second = second, INVERSE[predicate], first
    a, b = with_article(first.title), with_article(second.title)
    return pick(
        rng,
        (
            f"{a} {pick(rng, RELATION_PHRASES[predicate])} {b}",
            f"{a} {pick(rng, RELATION_PHRASES[predicate])} {b}",
            f"{a} {SIDE_OF[predicate]} and {b} {SIDE_OF[INVERSE[predicate]]}",
            f"{a} and {b}, the {first.title} {SIDE_OF[predicate]}",
            f"{a} with {b} {BESIDE_IT[INVERSE[predicate]]}",
        ),
    )


def _with_sign(scene: Scene, rng: np.random.Generator, rich: bool = False) -> str:
    assert scene.sign is not None
    sign = _sign_phrase(scene.sign, rng, rich)
    if not scene.objects:
        return f"{sign} {pick(rng, PLACE_PHRASES[scene.sign.place])}" if rich else sign
    arranged = _arranged(scene, rng, rich)
    if len(scene.objects) > 1:
        return f"{sign} {SIDE_OF['above' if scene.sign.place == 'top' else 'below']}, and {arranged}"
    side, inverse = ("above", "below") if scene.sign.place == "top" else ("below", "above")
    return pick(rng, (f"{sign} {side} {arranged}", f"{arranged} {inverse} {sign}"))


def _sign_phrase(sign: Sign, rng: np.random.Generator, rich: bool) -> str:
    noun = with_article(f"{sign.board} {pick(rng, ('sign', 'board'))}")
    if rich:
        return f'{noun} with the word "{sign.word}" in {sign.ink} {sign.font} letters'
    return f'{noun} {pick(rng, ("that says", "saying", "with the word", "that reads"))} "{sign.word}"'


def _details(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Sentences on size and relation that the opening has not given."""
    objects = scene.objects
    if len(objects) == 2:
        first, second = objects if objects[0].size >= objects[1].size else objects[::-1]
        if first.size - second.size >= 0.04:
            return [f"The {first.title} is a little larger than the {second.title}."]
        return [f"Both are {size_word(min(first.size, second.size))} and about equally large."]
    if len(objects) == 3:
        relation = pick(rng, scene.relations)
        subject, other = objects[relation.subject].title, objects[relation.object].title
        phrase = pick(rng, RELATION_PHRASES[relation.predicate])
        return [f"All three are small. The {subject} is {phrase} the {other}."]
    return []


def _background_phrase(scene: Scene, rng: np.random.Generator) -> str:
    background = scene.background
    if background.kind == "flat":
        return f"on {with_article(str(background.colour))} background"
    if background.kind == "gradient":
        return f"on {with_article(f'{background.colour} to {background.second}')} gradient"
    wall, floor = with_article(f"{background.colour} wall"), with_article(f"{background.second} floor")
    return pick(rng, (f"in front of {wall} on {floor}", f"before {wall} above {floor}"))


def _background_sentence(scene: Scene, rng: np.random.Generator) -> str:
    background = scene.background
    first, second = background.colour, background.second
    if background.kind == "flat":
        return pick(rng, (f"The background is {first}.", f"Behind everything lies a flat {first} background."))
    if background.kind == "gradient":
        return pick(
            rng,
            (
                f"The background fades from {first} at the top to {second} at the bottom.",
                f"The background is a vertical gradient from {first} to {second}.",
            ),
        )
    return pick(
        rng,
        (
            f"The background has {with_article(f'{first} wall')} above {with_article(f'{second} floor')}.",
            f"The upper part of the background is {first}, the lower part is {second}.",
        ),
    )


def _joint(text: str) -> str:
    """A comma where the background would otherwise seem to belong to the last object only."""
    return "," if "," in text or " and " in text else ""
