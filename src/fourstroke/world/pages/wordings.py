"""Wordings of short captions. ``{name}`` is a fact of the page; a wording serves pages that have all of its facts.

A fifth of the wordings, by a stable hash, are for held-out captions alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from fourstroke.chance import pick, stable_fraction
from fourstroke.world.graph import Split

HELD_OUT_WORDINGS = 0.2
FIELD = re.compile(r"\{(\w+)\}")

ENGLISH: dict[str, tuple[str, ...]] = {
    "poster": (
        "a poster with {title} on it",
        "a poster reading {title}",
        "design a poster that says {title}",
        "a poster that says {title}",
        "a poster that says {title} with {thing}",
        "{a_paper} poster with {thing} and the words {title}",
        "a poster with the title {title} and {thing}",
        "{thing} on a poster that reads {title}",
        "poster, {thing}, {title}",
        "{a_paper} poster saying {title}, then {rest}",
        "a poster titled {title} with {thing} and the subtitle {rest}",
        "a poster with {thing}, the headline {title} and below it {rest}",
        "make me a poster with {thing} that says {title} and {rest}",
        "{title} and {rest} on {a_paper} poster",
        "a poster, big title {title}, small text {rest}",
        "poster design: {title}, {rest}, {thing}",
        "{a_paper} poster that announces {title}",
        "I need a poster saying {title}, {paper} background",
        "a poster of {thing} with {title} in {ink} letters",
        "a poster with {ink} {title} and {thing} on {paper} paper",
    ),
    "slide": (
        "a presentation slide that says {title}",
        "a lecture slide titled {title}",
        "a slide titled {title}",
        "a slide titled {title} with {count} bullets",
        "a presentation slide, {title}, bullets {rest}",
        "{a_paper} slide with the heading {title} and the points {rest}",
        "a slide about {title} with {chart}",
        "a slide with the title {title}, the bullets {rest} and {chart}",
        "slide: {title}, {rest}, {chart}",
        "a presentation page headed {title} with {count} points and {chart}",
        "a slide that says {title}, with {thing} and the bullets {rest}",
        "{a_paper} presentation slide, title {title}, list {rest}",
        "please make a slide on {title} that lists {rest}",
        "a slide, heading {title}, {count} bullet points, {chart}",
    ),
    "infographic": (
        "a statistics poster titled {title}",
        "a report page titled {title}",
        "an infographic titled {title}",
        "an infographic titled {title} with {chart}",
        "{chart} with the title {title}",
        "{a_paper} infographic, {title}, that shows {rest}",
        "an infographic about {title} with {chart} of {rest}",
        "{title} as {chart}: {rest}",
        "an infographic with the heading {title} and the figures {rest}",
        "infographic, {chart}, {title}, {rest}",
        "draw {chart} headed {title} with {rest}",
        "a data graphic called {title} on {paper} paper",
        "{a_paper} page with {chart} under the heading {title}",
    ),
    "menu": (
        "a menu that says {title}",
        "the menu {title}",
        "a menu titled {title}",
        "a menu titled {title} with {count} dishes",
        "{a_paper} menu headed {title} with the dishes and prices {rest}",
        "a restaurant menu, {title}: {rest}",
        "the menu of {title} with {rest}",
        "a price list that says {title}, then {rest}",
        "menu card {title}, {rest}",
        "a cafe menu with {thing}, the name {title} and {rest}",
        "{a_paper} price list with the heading {title}",
        "a menu called {title} that offers {rest}",
        "a board with {count} dishes and their prices under {title}",
    ),
    "ticket": (
        "ticket for {title}",
        "a ticket with the words {title}",
        "a ticket for {title}",
        "a ticket that says {title}, {rest}",
        "{a_board} ticket for {title} with {rest}",
        "an entrance ticket, {title}, {rest}",
        "a concert ticket with the title {title} and {rest}",
        "ticket: {title}, {rest}",
        "a ticket to {title} on {paper} paper",
        "admission ticket for {title} that reads {rest}",
        "{a_board} ticket with a stub, {title}, {rest}",
        "a paper ticket printed with {title} and {rest}",
        "one ticket, event {title}, details {rest}",
    ),
    "sign": (
        "a sign reading {title}",
        "a plate that reads {title}",
        "a sign that says {title}",
        "{a_board} sign that says {title}",
        "{a_board} sign with {ink} letters saying {title}",
        "a sign that reads {title} and {rest}",
        "{a_board} sign with the lines {title} and {rest}",
        "a board saying {title}, then {rest}",
        "sign, {board}, {title}, {rest}",
        "{a_board} board with the words {title}",
        "a street sign {title}",
        "{a_board} plate on {paper} paper that reads {title}, below it {rest}",
        "{a_board} sign, first line {title}, then {rest}",
        "{title} on {a_board} sign",
        "{title} and {rest} on a sign",
    ),
}
OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "es": {
        "poster": (
            "un cartel que dice {title}",
            "un cartel donde se lee {title}",
            "un cartel que dice {title} con {thing}",
            "{thing} en un cartel con las palabras {title}",
            "un póster con el título {title} y {thing}",
            "un cartel con el título {title} y debajo {rest}",
            "un póster de {thing} que dice {title} y {rest}",
            "un cartel con {thing} y {title}, {ground}",
            "cartel: {title}, {thing}",
            "un afiche que anuncia {title}",
        ),
        "sign": (
            "un letrero que dice {title}",
            "un letrero con las palabras {title} y {rest}",
            "una señal que dice {title}",
            "un letrero donde se lee {title}",
            "letrero: {title}, {rest}",
            "una placa con {title} y debajo {rest}",
        ),
    },
    "ru": {
        "poster": (
            "плакат с надписью {title}",
            "плакат, на котором написано {title}",
            "плакат с надписью {title}, на нём {thing}",
            "плакат: {thing} и слова {title}",
            "афиша {title}, внизу {rest}",
            "плакат с заголовком {title} и текстом {rest}",
            "{thing} и надпись {title} на плакате",
            "плакат, {thing}, {title}, {rest}",
            "афиша с заголовком {title}, {ground}",
            "постер с текстом {title}",
        ),
        "sign": (
            "вывеска с надписью {title}",
            "вывеска с надписями {title} и {rest}",
            "табличка, на которой написано {title}",
            "знак со словами {title}",
            "вывеска: {title}, {rest}",
            "табличка {title}, ниже {rest}",
        ),
    },
    "zh": {
        "poster": (
            "一张海报，上面写着{title}",
            "一张标题为{title}的海报",
            "一张写着{title}的海报，配有{thing}",
            "海报上有{thing}和文字{title}",
            "一张标题为{title}的海报，下面是{rest}",
            "{ground}的海报，写着{title}，有{thing}",
            "海报，{thing}，{title}，{rest}",
            "请画一张海报，标题{title}",
            "一张海报，大字{title}，小字{rest}",
            "有{thing}的海报，文字是{title}",
        ),
        "sign": (
            "一块牌子，上面写着{title}",
            "写着{title}和{rest}的牌子",
            "一块指示牌，文字是{title}",
            "标牌：{title}，{rest}",
            "牌子上写着{title}，下面是{rest}",
            "一块写有{title}的招牌",
        ),
    },
}


def wordings_for(templates: Sequence[str], facts: Mapping[str, str], wordings: Split) -> list[str]:
    """The templates of a split whose facts are all known."""
    wanted = wordings == "heldout"
    fitting = [template for template in templates if set(FIELD.findall(template)) <= facts.keys()]
    return [template for template in fitting if is_held_out_wording(template) == wanted]


def is_held_out_wording(template: str) -> bool:
    """Whether a wording is kept from training."""
    return stable_fraction("wording", template) < HELD_OUT_WORDINGS


def worded(rng: np.random.Generator, templates: Sequence[str], facts: Mapping[str, str], wordings: Split) -> str:
    """One of the templates of a split, filled; of the others where the split has none that fits."""
    other: Split = "train" if wordings == "heldout" else "heldout"
    return pick(rng, wordings_for(templates, facts, wordings) or wordings_for(templates, facts, other)).format(**facts)
