"""Questions in the benchmarks' forms; a truthful endpoint finds true renders right and others wrong."""

from __future__ import annotations

import csv
import json
import random
import re

import numpy as np
import pytest

from fourstroke.data.sample import Caption, Record
from fourstroke.enhance.endpoint import Endpoint
from fourstroke.evaluate.answers import Shown
from fourstroke.evaluate.asking import UnreadableError
from fourstroke.evaluate.judge_options import parse_judge
from fourstroke.evaluate.judges import INPUTS
from fourstroke.evaluate.judging import judge_folder
from fourstroke.evaluate.questions import PictureQuestion, QuestionFile, questions_of
from fourstroke.evaluate.viescore import VieScore
from fourstroke.evaluate.vqa import VqaJudge, right, scores
from fourstroke.world import World, WorldConfig

WORLD = World(WorldConfig(width=48, height=48, sprites=0, words=0.0))
DPG = ("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
       "question_natural_language")  # fmt: skip


def record(name="a", prompt="a red circle", **meta):
    return Record(name=name, size=(8, 8), captions=(Caption(prompt),), meta=meta)


def test_geneval_2_asks_for_words_and_counts():
    meta = {"prompt": "two red kites", "vqa_list": [["How many kites are there?", "two"], ["Are they red?", "Yes"]],
            "skills": ["count", "attribute"]}  # fmt: skip
    found = questions_of(meta)
    assert [(q.text, q.answer, q.tag) for q in found] == [
        ("How many kites are there?", "two", "count"), ("Are they red?", "yes", "attribute"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="vqa_list"):
        questions_of({"vqa_list": [["one?", "two", "three"]]})


def test_dpg_is_read_from_its_csv_with_what_depends_on_what(tmp_path):
    file = tmp_path / "dpg_bench.csv"
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(DPG)
        rows.writerow(
            ["kite7", "a kite, on a hill", "", 1, "0", "entity", "whole", "entity - whole (kite)", "Is there a kite?"]
        )
        rows.writerow(
            ["kite7", "", "", 2, "1", "attribute", "color", "attribute - color (kite, red)", "Is the kite red?"]
        )
        rows.writerow(["kite7", "", "", 3, "1, 2", "relation", "spatial", "…", "Is the red kite on the hill?"])
    found = QuestionFile(file).of(record("kite7"))
    assert [(q.number, q.parents, q.tag) for q in found] == [
        ("1", (), "entity"), ("2", ("1",), "attribute"), ("3", ("1", "2"), "relation"),
    ]  # fmt: skip
    assert QuestionFile(file).of(record("other")) == []
    assert scores(found, [False, True, True]) == {
        "score": 0, "all": 0, "score/entity": 0, "score/attribute": 0, "score/relation": 0,
    }  # fmt: skip
    assert scores(found, [True, False, True])["score"] == pytest.approx(1 / 3)
    assert scores(found, [True, True, True])["all"] == 1


def test_oneig_and_own_files_are_found_by_id_and_by_prompt(tmp_path):
    (tmp_path / "oneig.json").write_text(
        json.dumps(
            {"007": {"question": {"1": "Is there a kite?", "2": "Is it red?"}, "dependency": {"1": [0], "2": [1]}}}
        )
    )
    found = QuestionFile(tmp_path / "oneig.json").of(record("object/007"))
    assert [(q.text, q.parents) for q in found] == [("Is there a kite?", ()), ("Is it red?", ("1",))]
    own = {"prompt": "A  red circle", "questions": [{"question": "What stands there?", "answer": "circle"}, "Red?"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    assert [q.answer for q in QuestionFile(tmp_path / "own.jsonl").of(record())] == ["circle", "yes"]


def test_geneval_asks_for_things_counts_colours_and_places():
    include = [{"class": "bench", "count": 2}, {"class": "dog", "count": 1, "color": "red", "position": ["left of", 0]}]
    found = questions_of({"tag": "position", "include": include, "prompt": "it"})
    assert [(q.tag, q.answer, q.parents) for q in found] == [
        ("object", "yes", ()), ("count", "2", ("0",)), ("object", "yes", ()), ("color", "yes", ("1",)),
        ("position", "yes", ("1", "0")),
    ]  # fmt: skip
    assert found[-1].text == "In the picture, is the dog left of the bench?"
    assert scores(found, [False, True, True, True, True])["score"] == 2 / 5
    with pytest.raises(ValueError, match="not GenEval's"):
        questions_of({"include": [{"class": "a", "position": ["left of", 4]}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no questions"), ("[1]", "row 1 is no JSON object"), ('{"questions": [""]}', "a question without"),
     ("{", "is not JSON"), ('{"questions": [7]}', "row 1 has a question that is neither")],
)  # fmt: skip
def test_files_without_questions_are_one_line(text, said, tmp_path):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        VqaJudge(endpoint=Endpoint(url="http://x", model="m"), questions=tmp_path / "q.jsonl").open()


@pytest.mark.parametrize(
    ("answer", "said", "found"),
    [
        ("yes", "Yes.", True), ("yes", "**No**", False), ("no", "no", True), ("yes", "是", True),
        ("yes", "不是", False),
        ("yes", "Well, I would say the answer is yes.", True), ("yes", '{"answer": "no"}', False),
        ("yes", 'Sure: {"why": "no kite else", "answer": "yes"}', True), ("yes", "No, yes is wrong", False),
        ("two", "2", True), ("2", "There are two of them", True), ("two", "three", False), ("two", "twenty two", True),
        ("sky blue", "It is sky blue", True), ("blue", "bluebird", False),
    ],
)  # fmt: skip
def test_answers_are_read_as_people_write_them(answer, said, found):
    assert right(PictureQuestion(number="1", text="?", answer=answer), said) is found


@pytest.mark.parametrize("said", ["", "…", "It may be yes or no", "Perhaps"])
def test_what_is_no_answer_is_refused(said):
    with pytest.raises(UnreadableError):
        right(PictureQuestion(number="1", text="?"), said)


def test_soft_scores_are_probabilities_of_tokens(sight):
    server = sight(lambda question, pictures: "Yes" if "red" in question else "3")
    options = VqaJudge(endpoint=Endpoint(url=server.url, model="m"), soft=True, probe=False)
    asked = record(questions=["Is it red?", {"question": "How many?", "answer": "three"}, {"question": "Big?"}])
    (found,) = options.open().read([np.zeros((8, 8, 3), np.uint8)], [asked])
    assert isinstance(found, UnreadableError)  # "3" is neither yes nor no
    asked = record(questions=["Is it red?", {"question": "How many?", "answer": "three"}])
    (found,) = options.open().read([np.zeros((8, 8, 3), np.uint8)], [asked])
    likely = np.exp(-0.1)
    assert found == {"score": 1, "all": 1, "soft_am": pytest.approx(likely), "soft_gm": pytest.approx(likely)}


def test_edits_are_judged_with_the_picture_before(sight, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "before.png")
    seen = []

    def answer(question, pictures):
        seen.append((question, [tuple(picture[0, 0, :3]) for picture in pictures]))
        return (
            '{"followed": 9, "kept": 4}' if "Instruction" in question else '{"natural": 9, "clean": 10, "followed": 6}'
        )

    judge = VieScore(endpoint=Endpoint(url=sight(answer).url, model="m"), parallel=1).open()
    picture = np.full((8, 8, 3), 7, np.uint8)
    edit = record(prompt="make it blue", **{INPUTS: (tmp_path / "before.png",)})
    gone = record(prompt="make it blue", **{INPUTS: (tmp_path / "gone.png",)})
    found = judge.read([picture] * 3, [edit, record(), gone])
    assert found[0] == {"consistency": 0.4, "quality": 0.9, "overall": pytest.approx(0.6)}
    assert found[1] == {"consistency": 0.6, "quality": 0.9, "overall": pytest.approx(0.54**0.5)}
    assert "gone.png" in str(found[2])
    assert seen[0][1] == [(255, 0, 0), (7, 7, 7)]
    assert "make it blue" in seen[0][0]
    assert all(len(pictures) == 1 for question, pictures in seen if "Instruction" not in question)


class Truth:
    """A model that knows the scenes of the pictures that it is shown, and answers from their graphs."""

    def __init__(self, scenes):
        self.scenes = {Shown(WORLD.render(scene)[..., :3]).digest: scene for scene in scenes}

    def __call__(self, question, pictures):
        scene = self.scenes[Shown(np.ascontiguousarray(pictures[0][..., :3])).digest]
        titles = [thing.title for thing in scene.objects]
        if match := re.match(r"Is there a (.+)\?", question):
            return "Yes" if match[1] in titles else "No"
        if match := re.match(r"How many things", question):
            return str(len(titles))
        match = re.match(r"Is the (.+) (left of|right of|above|below|in front of) the (.+)\?", question)
        relations = {(titles[r.subject], r.predicate, titles[r.object]) for r in scene.relations}
        return "yes" if match.groups() in relations else "no"


def asked_of(scene):
    titles = [thing.title for thing in scene.objects]
    found = [{"id": k + 1, "question": f"Is there a {title}?"} for k, title in enumerate(titles)]
    for relation in scene.relations:
        one, other = titles[relation.subject], titles[relation.object]
        text = f"Is the {one} {relation.predicate} the {other}?"
        found.append(
            {"id": len(found) + 1, "question": text, "dependency": [relation.subject + 1, relation.object + 1]}
        )
    return [*found, {"id": 99, "question": "How many things are there?", "answer": str(len(titles)), "tag": "count"}]


def test_a_truthful_endpoint_agrees_with_true_renders_and_not_with_others(sight, folder_of):
    scenes = [scene for scene in (WORLD.scene(seed) for seed in range(40)) if len(scene.objects) > 1][:12]
    server = sight(Truth(scenes), lambda number: random.Random(number).choice(["well", "prose", "thinking"]))
    others = scenes[1:] + scenes[:1]
    for name, shown, expected in (("true", scenes, 1.0), ("others", others, None)):
        rows = [(WORLD.render(drawn)[..., :3], "it", {"meta": {"questions": asked_of(scene)}})
                for drawn, scene in zip(shown, scenes, strict=True)]  # fmt: skip
        kind = parse_judge("vqa", {"endpoint": {"url": server.url, "model": "truth"}, "probe": False})
        summary = judge_folder(folder_of(rows, name), kind)
        assert summary["judged"] == len(scenes)
        score = summary["totals"]["score"]["value"]
        assert score == 1.0 if expected else score < 0.6
