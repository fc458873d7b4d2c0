"""Short captions in Spanish: nouns with article or number, adjectives that agree, styles behind "de"."""

from __future__ import annotations

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.captions.saying import (
    StyleSaid,
    Thing,
    fill,
    kind_of,
    maybe,
    one_of,
    ordered,
    read_names,
    read_words,
    style_said,
)
from fourstroke.world.captions.wordings import Wordings, choose_wording
from fourstroke.world.graph import Scene

NUMBERS = {2: "dos", 3: "tres", 4: "cuatro"}
SIDES = {
    "left of": "a la izquierda",
    "right of": "a la derecha",
    "above": "arriba",
    "below": "abajo",
}
PHRASES = {
    "left of": "a la izquierda de",
    "right of": "a la derecha de",
    "above": "encima de",
    "below": "debajo de",
}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLACES = {
    "center": ("en el centro",),
    "left": ("a la izquierda", "en el lado izquierdo"),
    "right": ("a la derecha", "en el lado derecho"),
    "top": ("arriba", "en la parte superior"),
    "bottom": ("abajo", "en la parte inferior"),
}
FORMS = {"row": " en fila", "column": " en columna"}


def describe(scene: Scene, rng: np.random.Generator, wordings: Wordings) -> str:
    """One clause, or a wish."""
    kind = kind_of(scene)
    things, predicate = ordered(scene, kind, rng)
    said = style_said(scene, rng)
    fields = {"tail": _tail(scene, said, rng), "place": "", "form": ""}
    for letter, thing in zip("abc", things, strict=False):
        fields[letter] = noun_phrase(thing, said == "each")
        fields[f"plain_{letter}"] = noun_phrase(thing, said == "each", scaled=False)
    if kind in ("alone", "count"):
        (only,) = things
        if only.place != "center" or rng.random() < 0.4:
            fields["place"] = f" {pick(rng, PLACES[only.place])}"
        fields["form"] = maybe(rng, FORMS.get(only.form, ""))
    if predicate in SIDES:
        fields |= {"rel": PHRASES[predicate], "at_a": SIDES[predicate], "at_b": SIDES[INVERSE[predicate]]}
        fields["at_c"] = fields["at_b"]
        start, end = {
            "left of": ("izquierda", "derecha"),
            "right of": ("derecha", "izquierda"),
            "above": ("arriba", "abajo"),
            "below": ("abajo", "arriba"),
        }[predicate]
        upright = predicate in ("above", "below")
        fields["order"] = f"de {start} abajo" if start == "arriba" else f"de {start} {'' if upright else 'a '}{end}"
        fields["line"] = "columna" if upright else "fila"
    if kind == "sizes":
        smaller = things[0].size < things[1].size
        scale = read_words()["sizes"]["small" if smaller else "large"]["es"]
        fields["than"] = f"más {scale[read_names()[things[0].name]['es']['gender']]}"
    if (sign := scene.sign) is not None:
        noun = one_of(rng, "letrero", "cartel")
        fields |= {"board": f"un {noun} {read_words()['colours'][sign.board]['es']['m']}", "word": f'"{sign.word}"'}
        place = "above" if sign.place == "top" else "below"
        fields |= {"sign_at": SIDES[place], "sign_rel": PHRASES[place], "sign_inv": PHRASES[INVERSE[place]]}
        fields["things_at"] = SIDES[INVERSE[place]]
    return fill(choose_wording(rng, "es", kind, wordings), fields)


def noun_phrase(thing: Thing, styled: bool, scaled: bool = True) -> str:
    """``un gato``, ``dos círculos rojos``, ``una casa grande de estilo plano``."""
    noun, words = read_names()[thing.name]["es"], read_words()
    many = thing.number > 1
    form = noun["gender"] + ("_many" if many else "")
    article = "una" if noun["gender"] == "f" and noun.get("article") != "m" else "un"
    parts = [NUMBERS[thing.number] if many else article, noun["many" if many else "one"]]
    if thing.colour is not None:
        parts.append(words["colours"][thing.colour]["es"][form])
    if thing.scale is not None and scaled:
        parts.append(words["sizes"][thing.scale]["es"][form])
    if styled and thing.colour is None:
        parts.append(f"de {words['styles'][thing.style]['es']['style']}")
    return " ".join(parts)


def _tail(scene: Scene, said: StyleSaid, rng: np.random.Generator) -> str:
    background, words = scene.background, read_words()
    parts = [f"en {words['styles'][scene.objects[0].style]['es']['style']}"] if said == "all" else []
    if background.kind == "transparent":
        parts.append("con fondo transparente" + (" y bordes suaves" if background.edge == "soft" else ""))
    elif rng.random() < 0.6:
        first, second = (
            words["backgrounds"][name]["es"] if name else "" for name in (background.colour, background.second)
        )
        second = second.removeprefix("fondo ")
        if background.kind == "flat":
            parts.append(one_of(rng, f"sobre {first}", f"con {first}"))
        elif background.kind == "gradient":
            parts.append(f"con fondo degradado de {first.removeprefix('fondo ')} a {second}")
        else:
            parts.append(f"con {first} arriba y {second} abajo")
    return "".join(f", {part}" for part in parts)
