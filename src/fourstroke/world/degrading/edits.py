"""An edit of the drawn world as a triplet: what to change, in short and plainly, and that all else stays.

The enhancers of the small families read words alone, so what stays is not named: it stands in a picture that they do
not see.
"""

from __future__ import annotations

from fourstroke.chance import generator
from fourstroke.enhance.triplet import Annotation, Step, Triplet
from fourstroke.world.edits.graph import Edit
from fourstroke.world.edits.instruction import KEPT, instruct, plainly

STREAM = 4


def degrade_edit(annotation: Annotation, edit: Edit, seed: int, ratio: str) -> Triplet:
    """The triplet of an edit's description: asked for in another wording, often a casual one."""
    rng = generator(seed, STREAM)
    short = instruct(edit, rng, rich=False)
    change = plainly(edit, short)
    thought = "Say that the rest stays."
    return Triplet(
        short=short,
        reasoning=f"Edit. {change} {thought}",
        rich=f"{change} {KEPT}",
        category="General",
        kind="edit",
        wh_ratio=ratio,
        steps=(Step(strategy="summary", probability=1.0, thought=thought),),
        seed=seed,
        inputs=annotation.inputs,
    )
