"""`fourstroke enhance` and `generate --enhance`: what they print, and how they say that an enhancer failed."""

from __future__ import annotations

import json
import warnings

import pytest

from fourstroke.cli import main
from fourstroke.pipeline import Pipeline


@pytest.fixture
def folder(tiny, enhancer, tmp_path):
    """A model with an enhancer of random weights, whose answers can never be used."""
    pipe = Pipeline(tiny.transformer, tiny.autoencoder, tiny.text_encoder, tiny.schedule, tiny.info, enhancer)
    pipe.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture(autouse=True)
def _own_warnings(monkeypatch):
    """Warnings go to standard error as they do outside of pytest."""
    with warnings.catch_warnings():
        yield


def test_enhance_prints_the_rewrite_or_the_own_words_with_a_warning(folder, capsys):
    assert main(["enhance", "a red circle", "a cathedral", "--model", str(folder), "--json"]) == 0
    streams = capsys.readouterr()
    rewrites = json.loads(streams.out.strip().splitlines()[-1])["rewrites"]
    assert [rewrite["prompt"] for rewrite in rewrites] == ["a red circle", "a cathedral"]
    assert all(rewrite["warning"] for rewrite in rewrites)
    warned = [line for line in streams.err.splitlines() if "own words" in line]
    assert len(warned) == 2
    assert all(line.startswith("fourstroke: ") for line in warned)


def test_generate_enhances_where_there_is_an_enhancer_unless_told_not_to(folder, tiny_folder, tmp_path, capsys):
    def generate(model, *more):
        code = main(["generate", "red circle", "--model", str(model), "--out", str(tmp_path), "--json", *more])
        streams = capsys.readouterr()
        return code, streams.out and json.loads(streams.out.strip().splitlines()[-1])["timings"], streams.err

    code, timings, err = generate(folder)
    assert (code, "enhance" in timings, "own words" in err) == (0, True, True)
    code, timings, err = generate(folder, "--no-enhance")
    assert (code, "enhance" in timings, "own words" in err) == (0, False, False)
    code, timings, err = generate(tiny_folder)
    assert (code, "enhance" in timings) == (0, False)
    code, _, err = generate(tiny_folder, "--enhance")
    assert code == 2
    assert "has no prompt_enhancer folder" in err
    assert main(["enhance", "a cat", "--model", str(tiny_folder)]) == 2
