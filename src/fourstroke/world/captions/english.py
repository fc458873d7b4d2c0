"""Short captions in English."""

from __future__ import annotations

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.caption import BESIDE_IT, PLACE_PHRASES, RELATION_PHRASES, SIDE_OF, with_article
from fourstroke.world.captions.saying import (
    StyleSaid,
    Thing,
    fill,
    kind_of,
    maybe,
    one_of,
    ordered,
    read_names,
    style_said,
)
from fourstroke.world.captions.wordings import Wordings, choose_wording
from fourstroke.world.graph import INVERSE, Background, Scene, Sign

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
SCALES = {"small": "small", "medium": "medium-sized", "large": "large"}
ADJECTIVES = {
    "flat": ("flat", "flat-style"),
    "3d": ("glossy 3D", "glossy 3D"),
    "clip-art": ("clip-art", "clip-art"),
    "rendered": ("rendered", "rendered"),
}
STYLE_NOUNS = {
    "flat": ("in a flat style", "flat style", "in flat style"),
    "3d": ("in a glossy 3D style", "glossy 3D style", "in glossy 3D"),
    "clip-art": ("in clip-art style", "clip-art style", "as clip-art"),
    "rendered": ("in a rendered style", "rendered style", "as a render"),
}
BESIDE_THEM = {
    "to its left": "to their left",
    "to its right": "to their right",
    "above it": "above them",
    "below it": "below them",
}
FORMS = {"row": " in a row", "column": " in a column", "cluster": " in a group"}


def describe(scene: Scene, rng: np.random.Generator, wordings: Wordings) -> str:
    """One clause, or a wish, as people type prompts."""
    kind = kind_of(scene)
    template = choose_wording(rng, "en", kind, wordings)
    return fill(template, fields_of(scene, kind, rng))


def fields_of(
    scene: Scene,
    kind: str,
    rng: np.random.Generator,
    always: bool = False,
    order: tuple[list[Thing], str] | None = None,
    said: StyleSaid | None = None,
) -> dict[str, str]:
    """What fills the gaps of a sentence of this kind; with ``always``, styles and forms are said, and no tail is.

    Things are named in the `order` given, and styles as `said`; where they are left out, chance decides.
    """
    things, predicate = order or ordered(scene, kind, rng)
    said = said or style_said(scene, rng, always)
    fields: dict[str, str] = {}
    for letter, thing in zip("abc", things, strict=False):
        scale = f"{SCALES[thing.scale]} " if thing.scale else ""
        styled = said == "each" and thing.colour is None
        noun = f"{pick(rng, ADJECTIVES[thing.style])} {noun_of(thing)}" if styled else noun_of(thing)
        several = thing.number > 1
        digits = several and rng.random() < 0.2 and not always
        number = str(thing.number) if digits else NUMBERS[thing.number]
        bare = f"{scale}{noun}"
        fields |= {
            letter: f"{number} {bare}" if several else with_article(bare),
            f"bare_{letter}": f"{number} {bare}" if several else bare,
            f"plain_{letter}": f"{number} {noun}" if several else with_article(noun),
            f"noun_{letter}": noun,
            f"many_{letter}": bare,
            f"n_{letter}": number,
            f"the_{letter}": f"the {number} {noun_of(thing)}" if several else f"the {noun_of(thing)}",
            f"it_{letter}": "them" if several else "it",
            f"is_{letter}": "are" if several else "is",
        }
    if kind in ("alone", "count"):
        (only,) = things
        central = only.place == "center" and not always and rng.random() < 0.6
        fields["place"] = "" if central else f" {pick(rng, PLACE_PHRASES[only.place])}"
        fields["form"] = maybe(rng, FORMS[only.form], 1.0 if always else 0.5) if only.form != "cluster" else ""
    if predicate in RELATION_PHRASES:
        fields |= _related(things, predicate, kind, rng)
    if kind == "sizes":
        fields |= compared(things)
    if scene.sign is not None:
        fields |= _of_sign(scene.sign, kind, things, rng)
    if not always:
        fields["tail"] = _tail(scene, said, rng, apart=len(things) + (scene.sign is not None) > 1)
    return fields


def noun_of(thing: Thing) -> str:
    """The name with its colour, in the plural for several."""
    name = thing.name if thing.number == 1 else read_names()[thing.name]["en"]["many"]
    return f"{thing.colour} {name}" if thing.colour else name


def compared(things: list[Thing]) -> dict[str, str]:
    """How the sizes of the first two compare."""
    smaller = things[0].size < things[1].size
    words = ("smaller", "larger") if smaller else ("larger", "smaller")
    return {"than_a": words[0], "than_b": words[1]}


def background_phrase(background: Background, rng: np.random.Generator) -> str:
    """What stands behind, from its preposition on."""
    first, second = str(background.colour), str(background.second)
    if background.kind == "transparent":
        how = one_of(rng, "on a transparent", "with a transparent", "as a sticker on a transparent")
        return f"{how} background" + (", with soft edges" if background.edge == "soft" else "")
    if background.kind == "flat":
        return one_of(
            rng, f"on {with_article(first)} background", f"on {first}", f"with {with_article(first)} background"
        )
    if background.kind == "gradient":
        return f"on {with_article(first)} to {second} gradient"
    wall, floor = with_article(f"{first} wall"), with_article(f"{second} floor")
    return one_of(rng, f"before {wall} above {floor}", f"with {wall} and {floor}")


def _tail(scene: Scene, said: StyleSaid, rng: np.random.Generator, apart: bool) -> str:
    """Style and background; behind a comma where they belong to several things."""
    parts = []
    if said == "all":
        parts.append(pick(rng, STYLE_NOUNS[scene.objects[0].style]))
    if scene.background.kind == "transparent" or rng.random() < 0.6:
        parts.append(background_phrase(scene.background, rng))
    if not parts:
        return ""
    joint = ", " if apart or not parts[0].startswith(("in ", "on ", "as ", "with ", "before ")) else " "
    return joint + ", ".join(parts)


def _related(things: list[Thing], predicate: str, kind: str, rng: np.random.Generator) -> dict[str, str]:
    beside = BESIDE_IT[INVERSE[predicate]]
    fields = {
        "rel": pick(rng, RELATION_PHRASES[predicate]),
        "at_a": SIDE_OF[predicate],
        "at_b": SIDE_OF[INVERSE[predicate]],
        "beside_b": BESIDE_THEM[beside] if things[0].number > 1 else beside,
    }
    if kind == "line":
        first, last = (SIDE_OF[predicate].split()[-1], SIDE_OF[INVERSE[predicate]].split()[-1])
        upright = predicate in ("above", "below")
        fields |= {"first": first, "last": last, "at_c": SIDE_OF[INVERSE[predicate]]}
        fields |= {"line": "column" if upright else "row"}
    if kind == "corners":
        fields |= {"lone": "top" if predicate == "above" else "bottom"}
        fields |= {"others": "bottom" if predicate == "above" else "top"}
    return fields


def _of_sign(sign: Sign, kind: str, things: list[Thing], rng: np.random.Generator) -> dict[str, str]:
    bare = f"{sign.board} {one_of(rng, 'sign', 'board')}"
    fields = {"board": with_article(bare), "bare_board": bare, "word": f'"{sign.word}"'}
    if things:
        predicate = "above" if sign.place == "top" else "below"
        fields |= {"sign_rel": one_of(rng, *RELATION_PHRASES[predicate]), "sign_at": SIDE_OF[predicate]}
        fields |= {"sign_inv": one_of(rng, *RELATION_PHRASES[INVERSE[predicate]])}
    return fields
