"""Rich captions in English: several sentences that leave out nothing that is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.caption import PLACE_PHRASES, RELATION_PHRASES, size_word, with_article
from fourstroke.world.captions.english import fields_of, noun_of
from fourstroke.world.captions.saying import Thing, fill, kind_of, one_of, things_of
from fourstroke.world.captions.wordings import Wordings, choose_wording
from fourstroke.world.graph import Scene, Sign

TEXTURES = {
    "plain": ("no texture", "no texture at all"),
    "paper": ("the fine grain of paper", "a grainy paper texture"),
    "stripes": ("a pattern of faint vertical stripes", "a subtle pattern of vertical stripes"),
    "dots": ("a regular grid of small faint dots", "a subtle pattern of dots"),
    "checks": ("a faint checkered pattern", "a subtle checkerboard texture"),
}
LIGHTS = {
    "even": ("even, bright light", "even light"),
    "left": ("soft light from the left that leaves the right side darker", "light from the left"),
    "right": ("soft light from the right that leaves the left side darker", "light from the right"),
    "top": ("soft light from above that fades towards the bottom", "light from the top"),
    "vignette": ("a dark vignette in the corners", "a vignette that darkens the edges"),
    "warm": ("a warm golden glow", "warm, golden light"),
    "dusk": ("the dim bluish light of dusk", "dim, blue evening light"),
}
STYLES = {
    "flat": ("a flat", "a flat, simple"),
    "3d": ("a glossy 3D", "a glossy 3D"),
    "clip-art": ("a clip-art", "a clip-art"),
    "rendered": ("a rendered", "a rendered"),
}


def describe(scene: Scene, rng: np.random.Generator, wordings: Wordings) -> str:
    """Things with sizes, places, numbers and styles, then what is behind them, its texture and the light."""

    def say(kind: str, fields: dict[str, str]) -> str:
        sentence = fill(choose_wording(rng, "en-rich", kind, wordings), fields)
        return sentence[0].upper() + sentence[1:]

    kind = kind_of(scene)
    things = things_of(scene)
    sentences = [say(kind, fields_of(scene, kind, rng, always=True) | {"picture": _picture(scene, rng)})]
    sentences += [say("number", _number(thing, rng)) for thing in things if thing.number > 1]
    if any(thing.scale for thing in things) and len(things) > 1:
        larger, smaller = max(things, key=lambda thing: thing.size), min(things, key=lambda thing: thing.size)
        sentences.append(say("compared", {"larger": noun_of(larger), "smaller": noun_of(smaller)}))
    elif len(things) == 1:
        size = size_word(things[0].size)
        sentences.append(say("size", {"the": _the(things[0]), "is": _is(things[0]), "size": size}))
    if kind in ("line", "corners"):
        relation = pick(rng, scene.relations)
        subject, other = (scene.objects[index].title for index in (relation.subject, relation.object))
        rel = pick(rng, RELATION_PHRASES[relation.predicate])
        sentences.append(say("relation", {"a": f"the {subject}", "rel": rel, "b": f"the {other}"}))
    if scene.sign is not None:
        sentences.append(say("letters", _letters(scene.sign, rng)))
    styles = {entry.style for entry in scene.objects if entry.kind == "sprite"}
    if len(styles) == 1 and all(entry.kind == "sprite" for entry in scene.objects):
        sentences.append(say("style", {"style": pick(rng, STYLES[styles.pop()])}))
    behind = _behind(scene, rng, say)
    first = len(sentences) if rng.random() < 0.7 else 1
    return " ".join(sentences[:first] + behind + sentences[first:])


def _picture(scene: Scene, rng: np.random.Generator) -> str:
    if scene.background.kind == "transparent":
        return one_of(rng, "this sticker", "the sticker")
    return one_of(rng, "this picture", "the picture", "this image", "the image")


def _the(thing: Thing) -> str:
    return f"the {noun_of(thing)}"


def _is(thing: Thing) -> str:
    return "is" if thing.number == 1 else "are"


def _number(thing: Thing, rng: np.random.Generator) -> dict[str, str]:
    word = {2: "two", 3: "three", 4: "four"}[thing.number]
    form = {"row": "in a row", "column": "one below the other", "cluster": "close together"}[thing.form]
    return {"n": word, "many": noun_of(thing), "form": form}


def _letters(sign: Sign, rng: np.random.Generator) -> dict[str, str]:
    script = {"latin": "Latin", "cyrillic": "Cyrillic", "chinese": "Chinese"}[sign.script]
    letters = "characters" if sign.script == "chinese" else "letters"
    place = pick(rng, PLACE_PHRASES[sign.place])
    font = with_article(sign.font)
    return {"ink": sign.ink, "font": font, "board": sign.board, "place": place, "script": script, "letters": letters}


def _behind(scene: Scene, rng: np.random.Generator, say: Callable[[str, dict[str, str]], str]) -> list[str]:
    background = scene.background
    if background.kind == "transparent":
        return [say("transparent soft" if background.edge == "soft" else "transparent", {})]
    first, second = str(background.colour), str(background.second)
    fields = {"first": first, "second": second, "a_first": with_article(first), "a_second": with_article(second)}
    texture = {"texture": pick(rng, TEXTURES[background.texture])}
    light = {"light": pick(rng, LIGHTS[background.light])}
    return [say(background.kind, fields), say("texture", texture), say("light", light)]
