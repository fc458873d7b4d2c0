"""Short captions in Chinese: numbers with the measure word of the thing, then colour, style, size and name."""

from __future__ import annotations

import numpy as np

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

NUMBERS = {1: "一", 2: "两", 3: "三", 4: "四"}
SIDES = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ORDERS = {"left of": "从左到右", "right of": "从右到左", "above": "从上到下", "below": "从下到上"}
PLACES = {"center": "中间", "left": "左边", "right": "右边", "top": "上面", "bottom": "下面"}
FORMS = {"row": "排成一行", "column": "排成一列"}


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
            fields["place"] = f"，在画面{PLACES[only.place]}"
        fields["form"] = maybe(rng, f"，{FORMS[only.form]}") if only.form in FORMS else ""
    if predicate in SIDES:
        fields |= {"at_a": SIDES[predicate], "at_b": SIDES[INVERSE[predicate]], "order": ORDERS[predicate]}
    if kind == "sizes":
        fields["than"] = "小得多" if things[0].size < things[1].size else "大得多"
    if (sign := scene.sign) is not None:
        fields |= {"board": f"{read_words()['colours'][sign.board]['zh']}的牌子", "word": f'"{sign.word}"'}
        place = "above" if sign.place == "top" else "below"
        fields |= {"sign_at": SIDES[place], "things_at": SIDES[INVERSE[place]]}
    return fill(choose_wording(rng, "zh", kind, wordings), fields)


def noun_phrase(thing: Thing, styled: bool, scaled: bool = True) -> str:
    """``一只猫``, ``两个红色的圆形``, ``一座扁平风格的大房子``."""
    noun, words = read_names()[thing.name]["zh"], read_words()
    text = NUMBERS[thing.number] + noun["measure"]
    if thing.scale == "medium" and scaled:
        text += f"{words['sizes']['medium']['zh']}的"
    if thing.colour is not None:
        text += f"{words['colours'][thing.colour]['zh']}的"
    elif styled:
        text += f"{words['styles'][thing.style]['zh']['style']}的"
    if thing.scale in ("small", "large") and scaled:
        text += words["sizes"][thing.scale]["zh"]
    return text + noun["name"]


def _tail(scene: Scene, said: StyleSaid, rng: np.random.Generator) -> str:
    background, words = scene.background, read_words()
    parts = [words["styles"][scene.objects[0].style]["zh"]["style"]] if said == "all" else []
    if background.kind == "transparent":
        parts.append("透明背景" + ("，边缘柔和" if background.edge == "soft" else ""))
    elif rng.random() < 0.6:
        first = words["backgrounds"][background.colour]["zh"]
        colour = first.removesuffix("背景")
        if background.kind == "flat":
            parts.append(one_of(rng, first, f"背景是{colour}"))
        else:
            second = words["backgrounds"][background.second]["zh"].removesuffix("背景")
            whole = f"从{colour}到{second}的渐变背景", f"背景上面是{colour}，下面是{second}"
            parts.append(whole[background.kind == "horizon"])
    return "".join(f"，{part}" for part in parts)
