"""Folders are judged to the last picture: whatever an endpoint does is counted, kept, and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from fourstroke.cli import main
from fourstroke.enhance.endpoint import EndpointError
from fourstroke.evaluate.drawn import read_scores
from fourstroke.evaluate.judge_options import parse_judge
from fourstroke.evaluate.judging import judge_folder, table
from fourstroke.evaluate.vision import VisionJudge
from fourstroke.evaluate.vqa import VqaJudge
from fourstroke.world import World, WorldConfig

QUESTIONS = {"questions": ["Is it bright?"]}


def flat(value: int) -> np.ndarray:
    return np.full((16, 16, 3), value, np.uint8)


def bright(question, pictures):
    return "yes" if pictures[-1].mean() > 100 else "no"


def vqa(server, **options):
    endpoint = {"url": server.url, "model": "eye", "timeout": 0.3, "retries": 0}
    return parse_judge("vqa", {"endpoint": endpoint | options.pop("endpoint", {}), "probe": False, **options})


def test_no_mood_of_an_endpoint_costs_a_picture(sight, folder_of):
    moods = ["well", "prose", "thinking", "wrong", "late", "silent", "broken", "refusal", "busy", "fenced"]
    by_picture: dict[float, str] = {}

    def answer(question, pictures):
        return bright(question, pictures)

    server = sight(answer)
    shades = [100 + 10 * k for k in range(len(moods))]
    # the mood goes by the picture, whatever the order in which threads ask
    reply = server.reply

    def moody(body):
        from .sight import _decoded

        shade = int(_decoded(body["messages"][-1]["content"][0]["image_url"]["url"])[0, 0, 0])
        server.mood = lambda number: by_picture[shade]
        return reply(body)

    server.reply = moody
    by_picture.update(dict(zip(shades, moods, strict=True)))
    folder = folder_of([(flat(shade), "a wall", {"meta": QUESTIONS}) for shade in shades])
    summary = judge_folder(folder, vqa(server, parallel=1))
    assert [summary[key] for key in ("pictures", "judged", "failed", "refused", "broken", "not_asked")] == [
        10, 4, 4, 2, 0, 0,
    ]  # fmt: skip
    rows = [json.loads(line) for line in (folder / "scores" / "vqa.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"{k:03d}.png" for k in range(10)]
    by_mood = dict(zip(moods, rows, strict=True))
    assert [by_mood[mood]["scores"].get("score") for mood in ("well", "prose", "thinking", "fenced")] == [0, 1, 1, 1]
    assert "neither yes nor no" in by_mood["wrong"]["refused"]
    assert "I cannot judge this" in by_mood["refusal"]["refused"]
    assert {mood for mood in moods if "failed" in by_mood[mood]} == {"late", "silent", "broken", "busy"}
    assert sum(summary["reasons"].values()) == 6
    assert "4 of 10 pictures judged, 4 failed, 2 refused" in table(summary)
    # the next run asks only what is not known
    asked = len(server.asked)
    by_picture.update(dict.fromkeys(shades, "well"))
    again = judge_folder(folder, vqa(server, cache=folder / "scores" / "answers.sqlite"))
    assert again["judged"] == 10
    assert len(server.asked) == asked + 10  # the first run kept nothing but for itself
    judge_folder(folder, vqa(server, cache=folder / "scores" / "answers.sqlite"))
    assert len(server.asked) == asked + 10


def test_a_run_that_is_ended_goes_on_where_it_was(sight, folder_of):
    shades = range(60, 140, 10)
    folder = folder_of([(flat(shade), "a wall", {"meta": QUESTIONS}) for shade in shades])
    cache = folder / "scores" / "answers.sqlite"
    dying = sight(bright, lambda number: "well" if number < 5 else "silent")
    with pytest.raises(EndpointError):
        judge_folder(folder, vqa(dying, parallel=1, cache=cache), batch=2)
    assert not (folder / "scores" / "vqa.jsonl").exists()
    alive = sight(bright)
    summary = judge_folder(folder, vqa(alive, cache=cache))
    assert (summary["judged"], len(alive.asked)) == (8, 3)
    assert summary["totals"]["score"]["value"] == np.mean([shade > 100 for shade in shades])


def test_an_endpoint_without_vision_is_told_before_anything_is_judged(sight, folder_of):
    folder = folder_of([(flat(shade), "a wall", {"meta": QUESTIONS}) for shade in (50, 150)])
    with pytest.raises(EndpointError, match=r"400 .*takes no image_url"):
        judge_folder(folder, VqaJudge(endpoint=vqa(sight(bright, lambda n: "blind")).endpoint))
    dreaming = sight(lambda question, pictures: "Red.")
    with pytest.raises(ValueError, match="eye says 'red' of a red one and of a blue one: it does not see"):
        judge_folder(folder, VqaJudge(endpoint=vqa(dreaming).endpoint))
    assert len(dreaming.asked) == 2


def test_broken_pictures_and_those_nothing_is_asked_of_are_counted(sight, folder_of):
    folder = folder_of([(flat(150), "a wall", {"meta": QUESTIONS})] * 2 + [(flat(9), "a wall", {})] * 2)
    (folder / "001.png").write_bytes(b"no picture")
    (folder / "003.png").unlink()
    summary = judge_folder(folder, vqa(sight(bright)))
    assert (summary["judged"], summary["broken"], summary["not_asked"]) == (1, 2, 1)
    assert set(read_scores(folder)["vqa"]) == {f"{k:03d}.png" for k in range(4)}
    with pytest.raises(ValueError, match="finds nothing to judge"):
        judge_folder(folder_of([(flat(9), "a wall", {})], "plain"), vqa(sight(bright)))


def test_intervals_are_over_prompts_and_kinds_are_counted_apart(sight, folder_of):
    rows = [
        (
            flat(150 if k < 8 else 50),
            "a wall",
            {"id": str(k // 4), "seed": k % 4, "meta": QUESTIONS | {"tag": f"t{k // 8}"}},
        )
        for k in range(16)
    ]
    summary = judge_folder(folder_of(rows), vqa(sight(bright)))
    score = summary["totals"]["score"]
    assert (score["value"], score["count"]) == (0.5, 16)
    assert (score["low"], score["high"]) == (0.0, 1.0)  # of four prompts, not of sixteen pictures
    assert {tag: found["score"]["value"] for tag, found in summary["by"]["tag"].items()} == {"t0": 1.0, "t1": 0.0}


def test_an_own_question_is_a_judge_too(sight, folder_of):
    server = sight(lambda question, pictures: '{"likeness": 4}')
    words = "vision:question='How like {request}? {{\"likeness\": 0 to 8}}',scores=[likeness],highest=8"
    kind = parse_judge(words, {"endpoint": {"url": server.url, "model": "eye"}, "device": "cpu"})
    assert isinstance(kind, VisionJudge)
    assert judge_folder(folder_of([(flat(9), "a wall", {})]), kind)["totals"]["likeness"]["value"] == 0.5
    assert server.asked == ['How like a wall? {"likeness": 0 to 8}']


def test_a_guest_with_scores_alone_is_a_judge(folder_of, monkeypatch):
    class Guest:
        kind = "guest"

        def open(self, folder=None):
            return self

        def score(self, pictures, records):
            return {"mean": [float(p.mean()) for p in pictures], "none": [float("nan")] * len(records)}

    monkeypatch.setattr("fourstroke.evaluate.judging.settings", lambda kind: {})
    summary = judge_folder(folder_of([(flat(9), "a", {}), (flat(11), "b", {})]), Guest())
    assert summary["totals"].keys() == {"mean"}
    assert summary["totals"]["mean"]["value"] == 10


def test_the_command_writes_what_it_prints(sight, folder_of, capsys):
    folder = folder_of([(flat(150), "a wall", {"meta": QUESTIONS}), (flat(50), "a wall", {"meta": QUESTIONS})])

    def answer(question, pictures):
        return ("red" if pictures[0][0, 0, 0] > 100 else "blue") if "colour" in question else bright(question, pictures)

    server = sight(answer)
    words = ["eval", "judge", str(folder), "--judge", "vqa", "--endpoint", server.url, "--endpoint-model", "eye"]
    assert main([*words, "--judge", "artefacts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["judges"]
    assert [judge["judge"] for judge in found] == ["vqa", "artefacts"]
    assert found[0] == json.loads((folder / "scores" / "vqa.json").read_text())
    assert found[0]["settings"]["recipe"]["endpoint"]["model"] == "eye"
    assert "key" not in found[0]["settings"]["recipe"]["endpoint"]
    asked = len(server.asked)
    assert main(words) == 0
    assert len(server.asked) == asked
    assert "vqa: 2 of 2 pictures judged\n  score                          0.5  (0 to 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a --judge: artefacts, clip"),
        (["--judge", "vqaa"], "did you mean 'vqa'?"),
        (["--judge", "vqa"], "the key 'endpoint' is missing"),
        (["--judge", "ocr:x=1"], "unknown key 'x'"),
        (["--judge", "artefacts:period=0"], "period=0: it must be a whole number, at least 1"),
        (["--judge", "vqa", "--endpoint", "http://x"], "--endpoint-model"),
        (["--judge", "ocr", "--name", "../x"], "is no name for files of scores"),
        (["--judge", "ocr", "--model", "m"], "no model"),
        (["--judge", "clip:network=/nowhere"], "/nowhere"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(words, said, folder_of, capsys):
    folder = folder_of([(flat(9), "a wall", {})])
    assert main(["eval", "judge", str(folder), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_cache_that_is_none_is_one_line(folder_of, tmp_path):
    (tmp_path / "cache").write_text("rows of another kind\n" * 99)
    with pytest.raises(ValueError, match=r"answers cannot be kept in .*cache"):
        judge_folder(folder_of([(flat(9), "a wall", {})]), parse_judge("ocr", {"cache": str(tmp_path / "cache")}))


def test_the_worlds_judge_finds_true_renders_right(folder_of):
    world = World(WorldConfig(width=64, height=64, sprites=0, words=0.0))
    scenes = [world.scene(seed) for seed in range(4)]
    rows = [(world.render(scene)[..., :3], "it", {"meta": {"scene": scene.to_dict()}}) for scene in scenes]
    kind = parse_judge("world_facts:world={width: 64, height: 64, sprites: 0, words: 0}", {})
    found = judge_folder(folder_of(rows), kind)
    assert found["totals"]["right"]["value"] == 1
    turned = [(pixels, "it", rows[k - 1][2]) for k, (pixels, _, _) in enumerate(rows)]
    assert judge_folder(folder_of(turned, "turned"), kind)["totals"]["right"]["value"] < 0.5
    with pytest.raises(ValueError, match="no scene to judge by"):
        judge_folder(folder_of([(flat(9), "a wall", {})], "plain"), kind)


def test_a_run_that_is_killed_keeps_every_answer(sight, folder_of, tmp_path):
    shades = range(60, 140, 10)
    folder = folder_of([(flat(shade), "a wall", {"meta": QUESTIONS}) for shade in shades])
    slow = sight(bright, lambda number: "well" if number < 5 else "late")
    words = [f"vqa:probe=false,parallel=1,endpoint.url={slow.url},endpoint.model=eye", "--batch", "1"]
    run = subprocess.Popen([sys.executable, "-m", "fourstroke", "eval", "judge", str(folder), "--judge", *words])
    while len(slow.asked) < 6:
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()
    run.wait()
    assert not (folder / "scores" / "vqa.json").exists()
    alive = sight(bright)
    summary = judge_folder(folder, vqa(alive, cache=folder / "scores" / "answers.sqlite"))
    assert (summary["judged"], len(alive.asked)) == (8, 3)
