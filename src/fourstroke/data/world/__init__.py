"""A drawn world with perfect annotations: sprites, shapes and signs on textured, lit backgrounds, from a seed."""

from fourstroke.data.world.caption import category_of
from fourstroke.data.world.compose import LIGHTS, SHAPES, TEXTURES
from fourstroke.data.world.graph import Background, Object, Relation, Scene, Sign, Split, split_of
from fourstroke.data.world.palette import BACKGROUND_COLOURS, SHAPE_COLOURS
from fourstroke.data.world.sprites import SPRITES
from fourstroke.data.world.words import WORDS
from fourstroke.data.world.world import Sample, World, WorldConfig

__all__ = [
    "BACKGROUND_COLOURS",
    "LIGHTS",
    "SHAPES",
    "SHAPE_COLOURS",
    "SPRITES",
    "TEXTURES",
    "WORDS",
    "Background",
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
