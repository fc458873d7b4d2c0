"""Edits of scenes from seeds: the pictures before and after, the instruction, and where the picture may change."""

from fourstroke.world.edits.drawing import draw_edit
from fourstroke.world.edits.graph import KINDS, Edit, EditKind
from fourstroke.world.edits.instruction import instruct
from fourstroke.world.edits.region import allowed
from fourstroke.world.edits.world import EditConfig, Edits

__all__ = ["KINDS", "Edit", "EditConfig", "EditKind", "Edits", "allowed", "draw_edit", "instruct"]
