"""Pictures are named by what the user wrote, tell how they were drawn, and never replace one another."""

from __future__ import annotations

import json

from PIL import Image

from fourstroke.enhance.enhancer import Enhanced
from fourstroke.pictures import NOTE_KEY, write_pictures
from fourstroke.pipeline import Output


def _recipe(path):
    return json.loads(Image.open(path).text[NOTE_KEY])


def test_rewritten_prompts_keep_the_users_words_in_the_name(tmp_path):
    images = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in range(4)]
    rewrites = [Enhanced(request="a cat", prompt="A cat in the sun."), Enhanced(request="a dog", prompt="a dog")]
    prompts = ["A cat in the sun."] * 2 + ["a dog"] * 2
    output = Output(images, prompts, [1, 2, 1, 2], enhanced=rewrites)
    paths = list(write_pictures(output, tmp_path, "tiny"))
    assert [path.name for path in paths] == ["a-cat-1.png", "a-cat-2.png", "a-dog-1.png", "a-dog-2.png"]
    assert (_recipe(paths[1])["prompt"], _recipe(paths[1])["request"]) == ("A cat in the sun.", "a cat")
    assert "request" not in _recipe(paths[2])


def test_nothing_is_overwritten(tmp_path):
    output = Output([Image.new("RGB", (32, 32))], ["a cat"], [7])
    names = [next(write_pictures(output, tmp_path, "tiny")).name for _ in range(3)]
    assert names == ["a-cat-7.png", "a-cat-7-2.png", "a-cat-7-3.png"]
