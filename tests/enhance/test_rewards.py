"""Rewards lie in [0, 1], rise with what they are named after, and each is of its own turn."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import fourstroke.fonts
from fourstroke.enhance.checks import Lexicon
from fourstroke.enhance.endpoint import Endpoint, EndpointError
from fourstroke.enhance.generator import PipelineGenerator
from fourstroke.enhance.measure import text_scores
from fourstroke.enhance.prompts import read_prompts, request
from fourstroke.enhance.rewards import RewardBatch
from fourstroke.enhance.rewards.judged import Judged
from fourstroke.enhance.rewards.richness import richness
from fourstroke.enhance.rewards.vision import Vision
from fourstroke.evaluate.ocr import likeness
from fourstroke.evaluate.reading import read_line, read_lines
from fourstroke.evaluate.vision import VisionJudge
from fourstroke.recipe import RecipeError, build
from fourstroke.registry import find, kinds
from fourstroke.world import World

from ..conftest import build_tiny_pipeline
from .conftest import SHAPES, said

DEJAVU = Path(fourstroke.fonts.__file__).parent / "DejaVuSans.ttf"
LEXICON = Lexicon(("circle", "square"), ("red", "green"))


def _batch(requests, rewrites, pictures=None):
    pictures = pictures or [np.zeros((8, 8, 3), np.uint8)] * len(requests)
    return RewardBatch([request("x", text, (8, 8)) for text in requests], rewrites, lambda: pictures)


@contextlib.contextmanager
def raw_server(answer):
    """A server that answers bytes with bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            data = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _read(name, requests, rewrites, **options):
    return find("rewards", name)(**options)(_batch(requests, rewrites)).tolist()


def test_richness_rises_with_texture_light_and_a_second_colour():
    world = World(SHAPES)
    flat = np.full((32, 32, 3), 120, np.uint8)
    ramp = np.broadcast_to(np.linspace(60, 200, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
    assert richness(flat) == 0
    assert 0 < richness(ramp) <= 1
    scenes = [world.scene(seed) for seed in range(60)]
    plain = [
        s
        for s in scenes
        if s.background.kind == "flat" and s.background.texture == "plain" and s.background.light == "even"
    ]
    lively = [s for s in scenes if s.background.kind != "flat"]
    means = [np.mean([richness(world.render(s)) for s in group]) for group in (plain, lively)]
    assert means[0] < means[1] / 2


def test_what_has_nothing_behind_has_no_richness():
    pictures = [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.uint8)]
    found = find("rewards", "richness")()(_batch(["a"] * 2, ["b"] * 2, pictures)).tolist()
    assert math.isnan(found[0])
    assert found[1] == 0


def test_rules_over_text():
    assert _read("valid", ["a", "b"], ["x", "y"]) == [1, 1]
    assert _read("words", ['"a" and "b"', "a"], ['now "a"', "b"]) == [0.5, 1]
    assert _read("language", ["ein Kreis auf der Wand", "a cat"], ["a circle on the wall of it", "a cat"]) == [0, 1]
    lengths = ["w " * n for n in (0, 15, 20, 40, 60, 200)]
    assert _read("length", ["a"] * 6, lengths, low=20, high=40) == [0, 0.5, 1, 1, 0.5, 0]
    assert _read("longer", ["a"] * 2, ["w " * 50, "w " * 999]) == [0.25, 1]
    with pytest.raises(ValueError, match="at most high"):
        find("rewards", "length")(low=9, high=8)


def test_text_scores_count_invalid_answers_as_lost():
    scores = text_scores(["a red circle", 'a square "x"'], ["A red circle.", None], LEXICON)
    assert {name: value.value for name, value in scores.items()} == dict.fromkeys(scores, 0.5)


def test_text_scores_look_from_the_request_to_the_rewrite():
    asked, given = "a red circle", 'A red circle above a square, with "x".'
    right = {"valid", "words_kept", "language_kept", "things_kept", "facts_kept", "places_kept"}
    assert {name for name, value in text_scores([asked], [given], LEXICON).items() if value.value} == right
    scores = text_scores([given], [asked], LEXICON)
    right = {"valid", "language_kept", "facts_kept", "nothing_invented"}
    assert {name for name, value in scores.items() if value.value} == right


def test_a_generator_draws_from_each_rows_own_noise():
    generator = PipelineGenerator(build_tiny_pipeline(), 32, 64, batch_size=2)
    captions = ["a red circle", "a green square", "word " * 200]
    pictures = generator.draw(captions, [1, 2, 3])
    assert not pictures[2].any()  # too long for the generator
    for index in (0, 1):
        assert np.abs(pictures[index].astype(int) - generator.draw([captions[index]], [1 + index])[0]).max() <= 1
        assert np.abs(pictures[index].astype(int) - generator.draw([captions[index]], [9])[0]).max() > 1
    assert not any(p.requires_grad for p in generator.pipe.transformer.parameters())
    assert pictures[0].shape == (64, 32, 3)
    mixed = generator.draw(["a circle on a transparent background", captions[0]], [5, 1])
    assert [picture.shape for picture in mixed] == [(64, 32, 4), (64, 32, 3)]
    assert np.abs(mixed[1].astype(int) - pictures[0]).max() <= 1


def _vision(serve, answers, **more):
    """A reward whose model gives the answers in turn, the last one for good; and what it was asked."""
    asked = []

    def answer(question):
        asked.append(question)
        return answers[min(len(asked), len(answers)) - 1]

    endpoint = Endpoint(url=serve(answer), model="m", timeout=2.0, retries=0)
    return Vision(endpoint=endpoint, parallel=1, **more), asked


GOOD = said('<think>{"consistency": 1, "aesthetics": 1}</think> {"consistency": 7, "aesthetics": 12}')


def test_a_model_that_sees_scores_and_its_answers_are_kept_by_content(serve, tmp_path):
    reward, asked = _vision(serve, [GOOD], cache=tmp_path / "answers.jsonl")
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (1, 1, 2)]
    assert reward(_batch(["a cat"] * 3, ["x"] * 3, pictures)).tolist() == pytest.approx([0.85] * 3)
    assert len(asked) == 2
    content = asked[0]["messages"][0]["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])))
    assert np.asarray(sent).tolist() == pictures[0].tolist()
    assert "Request: a cat\n" in content[1]["text"]
    reward(_batch(["a dog"], ["x"], pictures[:1]))
    assert len(asked) == 3  # another question
    again, asked_again = _vision(serve, [said("no")], cache=tmp_path / "answers.jsonl")
    assert again(_batch(["a cat", "a dog"], ["x"] * 2, pictures[:2])).tolist() == pytest.approx([0.85] * 2)
    assert not asked_again
    judge = VisionJudge(endpoint=again.endpoint, cache=tmp_path / "answers.jsonl").open()
    readings = judge.score(pictures[:1], [request("x", "a cat", (8, 8))])
    assert readings == {"consistency": [0.7], "aesthetics": [1.0]}


def test_refusals_are_asked_once_more_told_and_left_out(serve, capsys):
    reward, asked = _vision(serve, [said("I cannot"), GOOD, said("no"), said("never"), GOOD])
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2, 3)]
    found = reward(_batch(["a cat"] * 3, ["x"] * 3, pictures)).tolist()
    assert [math.isnan(value) for value in found] == [False, True, False]
    assert [question["seed"] for question in asked] == [0, 1, 0, 1, 0]
    assert "m: 1 of 3 unscored: no scores in 'never'" in capsys.readouterr().out
    assert reward.client.refused == {"no scores in 'never'": 1}


def test_an_endpoint_that_fails_for_every_picture_ends_the_run(serve):
    reward, _ = _vision(serve, [(401, {"error": "no key"})])
    with pytest.raises(EndpointError, match="401"):
        reward(_batch(["a"] * 2, ["x"] * 2))
    with pytest.raises(ValueError, match="double all other braces"):
        Vision(endpoint=reward.endpoint, question='{"x": 1} {request}')


def test_scorers_elsewhere_are_asked_in_one_call_and_mapped(serve):
    asked = []

    def answer(body):
        asked.append(body)
        return 200, {"results": [{"hps": {"score": 0.25, "other": 0.5}} for _ in body["requests"]]}

    url = serve(answer)
    assert _read("http", ["a", "b"], ["x", "y"], url=url, reward="hps", metric="score", high=0.5) == [0.5, 0.5]
    assert _read("http", ["a"], ["x"], url=url, reward="hps") == [0.375]
    (call, _) = asked
    assert [r["required_rewards"] for r in call["requests"]] == [["hps"]] * 2
    (turn,) = call["requests"][1]["history"]
    assert turn["text"] == "b"
    assert Image.open(io.BytesIO(base64.b64decode(turn["image_b64"]))).size == (8, 8)
    for name in ("none", "hps"):
        with pytest.raises(EndpointError, match=f"no number for {name}"):
            _read("http", ["a"], ["x"], url=url, reward=name, metric="none")


def test_any_judge_is_a_reward_mapped_as_it_says(serve):
    pictures = [np.full((32, 32, 3), value, np.uint8) for value in (0, 255)] + [np.zeros((32, 32, 3), np.uint8)]
    pictures[2][..., 0] = 255
    found = build(Judged, {"judge": {"kind": "artefacts"}, "score": "saturation", "low": 0.5, "high": 0.0})
    assert found(_batch(["a"] * 3, ["x"] * 3, pictures)).tolist() == [1, 1, 0]
    endpoint = {"url": serve(lambda body: said('{"consistency": 6, "aesthetics": 2}')), "model": "m"}
    vision = build(Judged, {"judge": {"kind": "vision", "endpoint": endpoint}})
    assert vision(_batch(["a"], ["x"])).tolist() == pytest.approx([0.4])
    with pytest.raises(ValueError, match="artefacts has no score 'beauty'; it has saturation"):
        build(Judged, {"judge": {"kind": "artefacts"}, "score": "beauty"})(_batch(["a"], ["x"]))
    with pytest.raises(RecipeError, match="choose two numbers"):
        build(Judged, {"judge": {"kind": "artefacts"}, "low": 1})


def test_scorers_in_verl_omnis_form_are_asked_and_nothing_but_plain_values_is_read(serve, tmp_path):
    asked = []

    def answer(body):
        asked.append(body)
        return 200, pickle.dumps({"scores": [0.25, 0.75]})

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    with raw_server(lambda data: answer(pickle.loads(data))[1]) as url:
        reward = find("rewards", "http")(url=url, form="verl")
        pictures = [np.full((8, 8, 3), value, np.uint8) for value in (1, 200)]
        assert reward(_batch(["a", "b"], ["x", "y"], pictures)).tolist() == [0.25, 0.75]
    assert asked[0]["prompts"] == ["a", "b"]
    assert Image.open(io.BytesIO(asked[0]["images"][1])).format == "JPEG"
    for bad, why in (
        (Evil(), "plain values"),
        ({"error": "out of memory"}, "out of memory"),
        ({"scores": [1]}, "no score"),
    ):
        with (
            raw_server(lambda data, bad=bad: pickle.dumps(bad)) as url,
            pytest.raises(EndpointError, match=why),
        ):
            find("rewards", "http")(url=url, form="verl")(_batch(["a", "b"], ["x", "y"]))
    assert not (tmp_path / "owned").exists()


def test_one_picture_without_a_number_does_not_lose_the_others(serve):
    def answer(body):
        rows = [{"hps": {"score": 0.5}}, {}]
        return 200, {"results": rows, "errors": [{}, {"hps": "out of memory"}]}

    batch = _batch(["a", "b"], ["x", "y"])
    reward = find("rewards", "http")(url=serve(answer), reward="hps")
    values = reward(batch).tolist()
    assert values[0] == 0.5
    assert math.isnan(values[1])
    assert reward.client.refused.total() == 1
    assert "out of memory" in next(iter(reward.client.refused))


def test_quoted_texts_are_looked_for_among_what_is_read(monkeypatch):
    assert likeness(["open", "late"], ["OPEN", "lake 7"]) == pytest.approx((1 + 1 - 2 / 5) / 2)
    assert likeness(["open late"], ["open", "late"]) == 1
    assert likeness(["open"], []) == 0
    assert _read("ocr", ["a cat"], ["x"]) == [1]
    monkeypatch.setattr("fourstroke.enhance.rewards.ocr.read_lines", lambda picture, script: ["cafe"])
    assert _read("ocr", ['a sign "cafe"', "a cat"], ["x", "y"]) == [1, 1]
    assert _read("ocr", ['a sign "tea"'], ["x"])[0] < 0.5


@pytest.mark.slow
def test_texts_are_read_from_pictures():
    pytest.importorskip("rapidocr")
    picture = Image.new("RGB", (320, 160), "white")
    font = ImageFont.truetype(str(DEJAVU), 40)
    ImageDraw.Draw(picture).text((20, 10), "OPEN", "black", font)
    ImageDraw.Draw(picture).text((20, 90), "LATE", "black", font)
    assert read_lines(np.asarray(picture)) == ["OPEN", "LATE"]
    assert read_line(np.asarray(picture)) in ("OPEN", "LATE")


def test_every_reward_has_a_name_and_gives_a_number_a_rewrite():
    assert {"vision", "ocr", "http", "richness", "words", "consistency", "things"} <= kinds("rewards").keys()
    for name in kinds("rewards").keys() - {"vision", "http", "consistency", "judge"}:
        reward = find("rewards", name)()
        assert reward.kind == name
        assert reward(_batch(["a cat"] * 3, ["x y"] * 3)).shape == (3,)


def test_prompts_are_read_from_lines_and_rows(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffa cat\n\n {1} dog\t\n".encode())
    records = read_prompts(tmp_path / "p.txt", (64, 32))
    assert [(r.captions[0].text, r.size, r.meta) for r in records] == [
        ("a cat", (64, 32), {}),
        ("{1} dog", (64, 32), {}),
    ]
    rows = [
        {"prompt": "a cat", "tag": 1},
        {"short": "a dog", "meta": {"scene": 2}, "kind": "generate"},
        {"short": "paint it", "kind": "edit"},
        {"prompt": "b", "inputs": ["a.png"]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_prompts(tmp_path / "p.jsonl", (64, 32))
    assert [r.captions[0].text for r in found] == ["a cat", "a dog"]
    assert found[0].meta == {"tag": 1}
    assert found[1].meta["scene"] == 2
    wrong = (("a.jsonl", b'{"a": 1}', "no prompt"), ("a.jsonl", b"{", "JSON"), ("a.txt", b"\xff", "UTF-8"))
    for name, line, reason in wrong:
        (tmp_path / name).write_bytes(b"\n" + line)
        with pytest.raises(ValueError, match=f"line 2.*{reason}"):
            read_prompts(tmp_path / name, (8, 8))
