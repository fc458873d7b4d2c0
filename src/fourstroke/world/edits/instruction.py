"""Says what an edit asks for: shortly, as people type it, or richly, with all that has to stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourstroke.chance import pick
from fourstroke.world.caption import PLACE_PHRASES, RELATION_PHRASES, with_article
from fourstroke.world.captions.english import ADJECTIVES, NUMBERS, STYLE_NOUNS, background_phrase
from fourstroke.world.captions.saying import read_names
from fourstroke.world.captions.wordings import Wordings, choose_wording, wordings_of
from fourstroke.world.edits.graph import Edit, unit_of
from fourstroke.world.graph import INVERSE, Background, Scene

STYLE_OBJECTS = {
    "flat": "a flat drawing",
    "3d": "a glossy 3D render",
    "clip-art": "clip-art",
    "rendered": "a realistic render",
}

KEPT = "Keep everything else exactly as before."
"""What stays, where it cannot be named."""


def instruct(
    edit: Edit, rng: np.random.Generator, rich: bool, wordings: Wordings = "trained", brief: float = 0.0
) -> str:
    """The instruction of an edit; a rich one also says what stays as it is.

    A share of them, `brief`, leaves out of what is there all that nobody needs to find it: the color of the only
    circle, the name of the only thing.
    """
    wording = choose_wording(rng, "edits-en", _heading(edit), wordings)
    chance = rng.spawn(1)[0]  # so that the share changes nothing else
    leave_out, it = chance.random() < brief, chance.random() < 0.5
    asked = wording.format_map(_fields(edit, rng, leave_out, it))
    return f"{_sentence(asked)} {_kept(edit, rng)}" if rich else asked


def plainly(edit: Edit, asked: str) -> str:
    """What changes, in one sentence, always in the same words; the sign's old word only if it was `asked` with it."""
    fields = _fields(edit, np.random.default_rng(0))
    if edit.kind == "words" and fields["old_word"] in asked:
        return f"Replace {fields['old_word']} with {fields['word']}."
    return _sentence(wordings_of("edits-en", _heading(edit), "trained")[0].format_map(fields))


def _heading(edit: Edit) -> str:
    return "restyle all" if _all_restyled(edit) else edit.kind


def _sentence(asked: str) -> str:
    sentence = asked[0].upper() + asked[1:]
    return sentence if sentence.endswith("?") else sentence + "."


def _fields(edit: Edit, rng: np.random.Generator, brief: bool = False, it: bool = False) -> dict[str, str]:
    """What fills the wordings; briefly the only thing of a picture may be `it`."""
    old, new = edit.before[0], edit.after
    fields: dict[str, str] = {}
    if edit.old and not _all_restyled(edit):  # which is said of the picture
        fields["the_a"] = _the(old, edit.old if edit.kind != "swap" else edit.old[:1], brief)
        fields["is_a"] = "are" if len(edit.old) > 1 else "is"
        if brief and it and len(old.objects) == 1 and old.sign is None:
            fields["the_a"] = "it"
    if edit.kind == "swap":
        fields["the_b"] = _the(old, edit.old[1:], brief)
    if edit.kind in ("add", "combine"):
        fields |= {"a": _some(new, edit.new), "the_b": _the(new, edit.new), "where": _where(new, edit.new, rng, brief)}
    if edit.kind == "replace":
        fields["b"] = _some(new, edit.new)
    if edit.kind == "recolour":
        fields["colour"] = str(new.objects[edit.new[0]].colour)
    if edit.kind == "move":
        fields["where"] = pick(rng, PLACE_PHRASES[new.objects[0].place])
    if edit.kind == "restyle":
        style = new.objects[edit.new[0]].style
        fields["style"] = pick(rng, ADJECTIVES[style])
        fields["in_style"], fields["style_noun"] = STYLE_NOUNS[style][0], STYLE_OBJECTS[style]
    if edit.kind == "words" and old.sign is not None and new.sign is not None:
        fields |= {"old_word": f'"{old.sign.word}"', "word": f'"{new.sign.word}"'}
    if edit.kind == "background":
        fields |= {"ground": _ground(new.background), "on_ground": background_phrase(new.background, rng)}
    return fields


def _all_restyled(edit: Edit) -> bool:
    return edit.kind == "restyle" and len(edit.new) == len(edit.after.objects) > 1


def _kept(edit: Edit, rng: np.random.Generator) -> str:
    """A sentence on what stays."""
    scene = edit.before[0]
    rest = [_the(scene, unit) for unit in scene.units if not set(unit) & set(edit.old)]
    if edit.kind == "restyle" or edit.kind == "move":
        rest.append("its size" if len(edit.old) == 1 else "their sizes")
    if scene.sign is not None:
        rest.append("the board and its colors" if edit.kind == "words" else f'the sign that reads "{scene.sign.word}"')
    if edit.kind != "background":
        rest.append(f"the {_ground(scene.background, False)}" if scene.background.colour else "the transparency")
    things = rest[0] if len(rest) == 1 else f"{', '.join(rest[:-1])} and {rest[-1]}"
    return pick(
        rng,
        (
            f"Keep {things} exactly as before.",
            f"Do not change {things}.",
            f"{things[0].upper() + things[1:]} must stay the same.",
            f"Leave {things} untouched.",
            KEPT,
        ),
    )


def _where(scene: Scene, unit: tuple[int, ...], rng: np.random.Generator, brief: bool) -> str:
    """Beside what the new things stand, or in which part of the picture."""
    for relation in scene.relations:
        subject, other = unit_of(scene, relation.subject), unit_of(scene, relation.object)
        if unit in (subject, other) and scene.layout != "front":
            predicate = relation.predicate if unit == subject else INVERSE[relation.predicate]
            known = _the(scene, other if unit == subject else subject, brief)
            return f"{pick(rng, RELATION_PHRASES[predicate])} {known}"
    if scene.sign is not None and len(scene.units) == 1:
        return f"{pick(rng, RELATION_PHRASES['below' if scene.sign.place == 'top' else 'above'])} the sign"
    x, y = (sum(getattr(scene.objects[i], axis) for i in unit) / len(unit) for axis in "xy")
    across, down = x - 0.5, y - 0.5
    side = "center"
    if max(abs(across), abs(down)) >= 0.1:
        side = ("left" if across < 0 else "right") if abs(across) >= abs(down) else ("top" if down < 0 else "bottom")
    return pick(rng, PLACE_PHRASES[side])


def _the(scene: Scene, unit: Sequence[int], brief: bool = False) -> str:
    """The noun with its article; briefly, without color and number if no other things of the scene have its name."""
    name = scene.objects[unit[0]].name
    if brief and sum(scene.objects[other[0]].name == name for other in scene.units) == 1:
        return f"the {_name(scene, unit)}"
    return f"the {_noun(scene, unit)}" if len(unit) == 1 else f"the {NUMBERS[len(unit)]} {_noun(scene, unit)}"


def _some(scene: Scene, unit: Sequence[int]) -> str:
    noun = _noun(scene, unit)
    return with_article(noun) if len(unit) == 1 else f"{NUMBERS[len(unit)]} {noun}"


def _noun(scene: Scene, unit: Sequence[int]) -> str:
    """The name with its colour."""
    colour = scene.objects[unit[0]].colour
    return f"{colour} {_name(scene, unit)}" if colour else _name(scene, unit)


def _name(scene: Scene, unit: Sequence[int]) -> str:
    name = scene.objects[unit[0]].name
    return name if len(unit) == 1 else str(read_names()[name]["en"]["many"])


def _ground(background: Background, article: bool = True) -> str:
    first, second = str(background.colour), str(background.second)
    if background.kind == "flat":
        return first if article else f"{first} background"
    if background.kind == "gradient":
        gradient = f"{first} to {second} gradient"
        return with_article(gradient) if article else gradient
    wall = f"{first} wall above {with_article(f'{second} floor')}"
    return with_article(wall) if article else wall
