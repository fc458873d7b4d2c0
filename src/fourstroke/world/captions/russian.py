"""Short captions in Russian: nominative and genitive, numbers with the forms they ask for, styles behind "в"."""

from __future__ import annotations

from typing import Literal

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

NUMBERS = {"m": ("два", "три", "четыре"), "f": ("две", "три", "четыре"), "pl": ("двое", "трое", "четверо")}
OF_NUMBERS = ("двух", "трёх", "четырёх")
SIDES = {"left of": "слева", "right of": "справа", "above": "вверху", "below": "внизу"}
PHRASES = {"left of": "слева от", "right of": "справа от", "above": "выше", "below": "ниже"}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ORDERS = {"left of": "слева направо", "right of": "справа налево", "above": "сверху вниз", "below": "снизу вверх"}
PLACES = {
    "center": ("в центре",),
    "left": ("слева", "в левой части"),
    "right": ("справа", "в правой части"),
    "top": ("вверху", "в верхней части"),
    "bottom": ("внизу", "в нижней части"),
}
FORMS = {"row": " в ряд", "column": " в столбик"}
Case = Literal["nominative", "genitive"]


def describe(scene: Scene, rng: np.random.Generator, wordings: Wordings) -> str:
    """One clause, or a wish."""
    kind = kind_of(scene)
    things, predicate = ordered(scene, kind, rng)
    said = style_said(scene, rng)
    fields = {"tail": _tail(scene, said, rng), "place": "", "form": ""}
    for letter, thing in zip("abc", things, strict=False):
        fields[letter] = noun_phrase(thing, "nominative", said == "each")
        fields[f"of_{letter}"] = noun_phrase(thing, "genitive", said == "each")
        fields[f"plain_{letter}"] = noun_phrase(thing, "nominative", said == "each", scaled=False)
        fields[f"of_plain_{letter}"] = noun_phrase(thing, "genitive", said == "each", scaled=False)
        gender = "pl" if thing.number > 1 else read_names()[thing.name]["ru"]["gender"]
        fields[f"behind_{letter}"] = {"f": "за ней", "pl": "за ними"}.get(gender, "за ним")
    if kind in ("alone", "count"):
        (only,) = things
        if only.place != "center" or rng.random() < 0.4:
            fields["place"] = f" {pick(rng, PLACES[only.place])}"
        fields["form"] = maybe(rng, FORMS.get(only.form, ""))
    if predicate in SIDES:
        fields |= {"rel": PHRASES[predicate], "at_a": SIDES[predicate], "at_b": SIDES[INVERSE[predicate]]}
        fields |= {"order": ORDERS[predicate], "line": "столбик" if predicate in ("above", "below") else "ряд"}
    if kind == "sizes":
        fields["than"] = "меньше" if things[0].size < things[1].size else "больше"
    if (sign := scene.sign) is not None:
        colour = read_words()["colours"][sign.board]["ru"]
        first, of, on = one_of(rng, "табличка/таблички/табличке", "вывеска/вывески/вывеске").split("/")
        fields |= {"board": f"{colour['f']} {first}", "of_board": f"{colour['genitive_f']} {of}"}
        fields |= {"on_board": f"{colour['genitive_f']} {on}", "word": f'"{sign.word}"'}
        place = "above" if sign.place == "top" else "below"
        fields |= {"sign_at": SIDES[place], "things_at": SIDES[INVERSE[place]]}
        fields |= {"sign_rel": PHRASES[place], "sign_inv": PHRASES[INVERSE[place]]}
    return fill(choose_wording(rng, "ru", kind, wordings), fields)


def noun_phrase(thing: Thing, case: Case, styled: bool, scaled: bool = True) -> str:
    """``кот``, ``маленькая машина``, ``два красных круга``; in the genitive ``кота``, ``двух красных кругов``."""
    noun, words = read_names()[thing.name]["ru"], read_words()
    gender, many = noun["gender"], thing.number > 1
    parts = []
    if many and case == "genitive":
        parts.append(OF_NUMBERS[thing.number - 2])
        adjective, form = "genitive_pl", "many"
    elif many:
        parts.append(NUMBERS["m" if gender == "n" else gender][thing.number - 2])
        adjective, form = "pl" if gender == "f" else "genitive_pl", "many" if gender == "pl" else "few"
    elif case == "genitive":
        adjective, form = f"genitive_{gender}", "genitive"
    else:
        adjective, form = gender, "one"
    if thing.scale is not None and scaled:
        parts.append(words["sizes"][thing.scale]["ru"][adjective])
    if thing.colour is not None:
        parts.append(words["colours"][thing.colour]["ru"][adjective])
    parts.append(noun[form])
    if styled and thing.colour is None:
        parts.append(f"в {words['styles'][thing.style]['ru']['style']}")
    return " ".join(parts)


def _tail(scene: Scene, said: StyleSaid, rng: np.random.Generator) -> str:
    background, words = scene.background, read_words()
    parts = [f"в {words['styles'][scene.objects[0].style]['ru']['style']}"] if said == "all" else []
    if background.kind == "transparent":
        parts.append("на прозрачном фоне" + (", с мягкими краями" if background.edge == "soft" else ""))
    elif rng.random() < 0.6:
        first = words["backgrounds"][background.colour]["ru"]
        if background.kind == "flat":
            parts.append(one_of(rng, f"на {first['prepositional']}", f"{first['nominative']}"))
        else:
            second = words["backgrounds"][background.second]["ru"]
            colours = [entry["nominative"].removesuffix(" фон") for entry in (first, second)]
            change = "плавно меняется: " if background.kind == "gradient" else ""
            parts.append(f"фон {change}сверху {colours[0]}, снизу {colours[1]}")
    return "".join(f", {part}" for part in parts)
