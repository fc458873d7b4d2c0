"""A drawn world with perfect annotations: sprites, shapes and signs on textured, lit backgrounds, from a seed."""

from fourstroke.world.atlas import STYLES, THINGS
from fourstroke.world.caption import category_of
from fourstroke.world.captions import LANGUAGES
from fourstroke.world.compose import LIGHTS, SHAPES, TEXTURES
from fourstroke.world.graph import Background, Group, Object, Relation, Scene, Sign, Split, split_of
from fourstroke.world.palette import BACKGROUND_COLOURS, SHAPE_COLOURS
from fourstroke.world.sprites import SPRITES
from fourstroke.world.words import WORDS
from fourstroke.world.world import Sample, World, WorldConfig

__all__ = [
    "BACKGROUND_COLOURS",
    "LANGUAGES",
    "LIGHTS",
    "SHAPES",
    "SHAPE_COLOURS",
    "SPRITES",
    "STYLES",
    "TEXTURES",
    "THINGS",
    "WORDS",
    "Background",
    "Group",
    "Object",
    "Relation",
    "Sample",
    "Scene",
    "Sign",
    "Split",
    "World",
    "WorldConfig",
    "category_of",
    "split_of",
]
