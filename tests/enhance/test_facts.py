"""What is said of things: a rewrite keeps how many there are, how large, in what style, and that nothing is behind."""

from __future__ import annotations

import pytest

from fourstroke.enhance.checks import Lexicon, problems

LEXICON = Lexicon(("cat", "dog", "fish", "circle"), ("red", "blue"), (("cats", "cat"), ("fish", "fish")), ("mark",))


@pytest.mark.parametrize(
    ("request_", "rewrite", "wrong"),
    [
        ("two cats", "Two cats stand side by side.", []),
        ("2 cats", "The picture shows two flat cats. The cats are small.", []),
        ("cats, two of them", "Two cats.", []),
        ("two cats", "Three cats.", ["cat: 2"]),
        ("two cats", "A cat on the left.", ["cat: 2"]),
        ("two cats", "Cats in a meadow.", ["cat: 2"]),
        ("cats", "Four cats.", []),
        ("a cat", "Four cats in a row.", ["one cat"]),
        ("draw cat pls", "Cats.", ["one cat"]),
        ("a cat", "A cat. The cat is large.", []),
        ("two fish and a dog", "Two fish beside a dog.", []),
        ("a fish", "Three fish.", ["one fish"]),
        ("a red circle and two blue circles", "A red circle and two blue circles.", []),
        ("a red circle and two blue circles", "Two red circles and two blue circles.", ["one red circle"]),
        ("two circles", "Two red circles.", []),
        ("a small cat", "There is a cat; the cat is drawn small.", []),
        ("a tiny cat", "A large cat.", ["cat: small"]),
        ("a cat, small, on a red background", "A large cat. It has a grid of small dots.", ["cat: small"]),
        ("a small cat", "A cat with a grid of small dots.", ["cat: small"]),
        ("a large cat and a small dog", "A cat that is much larger than a dog.", []),
        ("a large cat and a small dog", "A cat that is much smaller than a dog.", ["cat: large", "dog: small"]),
        ("a cat much larger than a dog", "A small cat and a large dog.", ["cat: large", "dog: small"]),
        ("a glossy 3D cat", "A glossy 3D cat.", []),
        ("a glossy 3D cat", "A flat cat.", ["cat: 3d"]),
        ("a 3D cat and a flat dog", "A flat cat and a glossy 3D dog.", ["cat: 3d", "dog: flat"]),
        ("a cat in a flat style", "A cat. Everything is drawn in a flat, simple style.", []),
        ("a cat in clip-art style", "A cat. It has a rendered look.", ["cat: clip-art"]),
        ("a cat", "A rendered cat.", []),
        ("a cat on a transparent background", "A cat, cut out. The background is transparent.", []),
        ("a cat as a sticker", "A cat. The background is blue.", ["the transparent background"]),
        ("a cat", "A cat on a transparent background.", ["the opaque background"]),
        ("a cat behind a transparent fish", "A cat behind a fish.", []),
        ('a cat and "two dogs"', 'A cat and "two dogs".', []),
    ],
)
def test_facts_of_things(request_, rewrite, wrong):
    assert LEXICON.altered(request_, rewrite) == wrong
    assert all(f"it does not keep {fact}" in problems(request_, rewrite, LEXICON) for fact in wrong)


def test_without_a_lexicon_nothing_is_asked_of_things():
    assert Lexicon().altered("two cats on a transparent background", "a cat") == []
