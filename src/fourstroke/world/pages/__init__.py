"""Pages of text: posters, slides, infographics, menus, tickets and signs, with charts and pictures, from a seed."""

from fourstroke.world.pages.caption import LANGUAGES, category_of_page
from fourstroke.world.pages.graph import KINDS, Accent, Chart, Page, PageKind, Picture, TextLine, split_of_page, text_of
from fourstroke.world.pages.pages import PageConfig, Pages, words_that_fit
from fourstroke.world.pages.render import letter_boxes, render_page
from fourstroke.world.pages.type import FONTS

__all__ = [
    "FONTS",
    "KINDS",
    "LANGUAGES",
    "Accent",
    "Chart",
    "Page",
    "PageConfig",
    "PageKind",
    "Pages",
    "Picture",
    "TextLine",
    "category_of_page",
    "letter_boxes",
    "render_page",
    "split_of_page",
    "text_of",
    "words_that_fit",
]
