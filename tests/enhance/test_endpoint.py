"""Endpoints: retried where that helps, bounded, and every failure is one line."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading

import pytest
from PIL import Image

from fourstroke.enhance.chat import ChatDegrader
from fourstroke.enhance.degrade import PROBABILITIES
from fourstroke.enhance.endpoint import Endpoint, EndpointError, ImagesEndpoint, data_url
from fourstroke.enhance.enhancer import EnhancerWarning, PromptEnhancer
from fourstroke.enhance.generator import EndpointGenerator
from fourstroke.enhance.local import EnhancerConfig
from fourstroke.enhance.triplet import CATEGORIES, Annotation, RejectedError

from .conftest import said

OAK = 'A tall oak by a lake at dusk, a sign reads "Lake", in the style of an old oil painting.'


def _endpoint(url, **more):
    return Endpoint(url=url, model="m", timeout=2.0, **more)


def test_a_rewrite_through_an_endpoint(serve, monkeypatch):
    monkeypatch.setenv("FOURSTROKE_ENDPOINT_KEY", "secret")
    asked = []

    def answer(request):
        asked.append(request)
        return said('{"rewritten_prompt": "A cat in the sun.", "wh_ratio": "4:3"}', reasoning_content="sun")

    enhancer = PromptEnhancer.from_endpoint(_endpoint(serve(answer)), system_prompt="own")
    out = enhancer("a cat", [Image.new("RGB", (4000, 20))], seed=5)
    assert (out.prompt, out.ratio, out.reasoning, out.warning) == (
        "A cat in the sun.",
        pytest.approx(4 / 3),
        "sun",
        None,
    )
    assert asked[0]["key"] == "Bearer secret"
    assert asked[0]["messages"][0]["content"] == "own"
    assert asked[0]["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/png")
    assert (asked[0]["presence_penalty"], asked[0]["max_tokens"], asked[0]["seed"]) == (1.5, 16_256, 5)


def test_an_answer_is_valid_text_whatever_its_json_spells(serve):
    body = rb'{"choices": [{"message": {"content": "a \ud83d cat", "reasoning_content": "\udc80 hm"}}]}'
    assert _endpoint(serve(lambda _: (200, body))).chat([]) == "<think>? hm</think>a ? cat"


def test_what_may_pass_is_tried_again(serve, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    answers = [(503, {}), (429, {}), said("yes")]
    assert _endpoint(serve(lambda _: answers.pop(0))).chat([]) == "yes"
    assert waits == [0.5, 1.0]
    with pytest.raises(EndpointError, match="failed 3 times"):
        _endpoint(serve(lambda _: (500, {"error": "broken"}))).chat([])
    tries = []
    with pytest.raises(EndpointError, match="401"):
        _endpoint(serve(lambda r: tries.append(1) or (401, {"error": "no key"}))).chat([])
    assert len(tries) == 1


def test_an_answer_that_breaks_off_is_one_line_too(monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
        connection.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(EndpointError, match="failed 1 times"):
        _endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", retries=0).chat([])
    thread.join()
    listener.close()


@pytest.mark.parametrize("body", [b"not json", {"choices": []}, {"choices": [{"message": {"content": None}}]}, []])
def test_strange_answers_are_errors(serve, body):
    with pytest.raises(EndpointError):
        _endpoint(serve(lambda _: (200, body)), retries=0).chat([])


@pytest.mark.parametrize(
    "text",
    [
        "I cannot do that.",
        '{"rewritten_prompt": "A dog."}',
        '{"rewritten_prompt": "HACKED \\"meow\\" ist die und das"}',
    ],
)
def test_without_a_good_answer_the_own_words_are_drawn(serve, text):
    enhancer = PromptEnhancer.from_endpoint(_endpoint(serve(lambda _: said(text))), EnhancerConfig(attempts=2))
    with pytest.warns(EnhancerWarning, match="own words"):
        out = enhancer('a cat that says "meow" on the couch in the sun')
    assert out.prompt == out.request == 'a cat that says "meow" on the couch in the sun'
    assert out.warning


def test_a_silent_endpoint_costs_only_its_timeout():
    with pytest.warns(EnhancerWarning):
        out = PromptEnhancer.from_endpoint(_endpoint("http://127.0.0.1:9", retries=0))("a cat")
    assert out.prompt == "a cat"
    with pytest.raises(ValueError, match="http"):
        Endpoint(url="localhost:8000", model="m")


def test_captions_are_taken_apart_by_a_language_model(serve):
    annotation = Annotation(
        text='A tall oak by a lake at dusk, a sign reads "Lake", in the style of an old oil painting.'
    )

    def answer(request):
        steps = request["messages"][0]["content"].count("\n- ")
        thoughts = ", ".join(f'"thought {i}"' for i in range(steps))
        return said(
            f'<think>x</think>{{"category": "General", "short": "oak by a \\"Lake\\" sign", "thoughts": [{thoughts}]}}'
        )

    degrader = ChatDegrader(_endpoint(serve(answer)))
    t = degrader.degrade(annotation, 3)
    assert t.short == 'oak by a "Lake" sign'
    assert t.source == "m"
    thoughts = [f"thought {i}" for i in range(len(t.steps))]
    assert [step.thought for step in t.steps] == thoughts
    assert t.reasoning == " ".join(reversed(thoughts))
    assert t == degrader.degrade(annotation, 3)
    assert {degrader.degrade(annotation, seed).steps for seed in range(5)} != {t.steps}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("no", "no JSON"),
        ('{"short": "an oak", "thoughts": []}', "one thought"),
        ('{"short": "ein Baum an dem See", "thoughts": THOUGHTS}', "language"),
        ('{"short": "A tall, tall oak by the lake in the light of the dusk.", "thoughts": THOUGHTS}', "not shorter"),
        ('{"short": "an oak with a \\"lake\\" sign", "thoughts": THOUGHTS}', "altered the words"),
    ],
)
def test_bad_answers_are_rejected_with_their_reason(serve, answer, reason):
    seeds = []

    def reply(request):
        seeds.append(request["seed"])
        steps = request["messages"][0]["content"].count("\n- ")
        return said(answer.replace("THOUGHTS", str(["t"] * steps).replace("'", '"')))

    annotation = Annotation(text="A tall oak by the lake in the light of the dusk.")
    with pytest.raises(RejectedError, match=reason):
        ChatDegrader(_endpoint(serve(reply))).degrade(annotation, 0)
    assert seeds == [0, 0, 1]  # its class, and two tries


@pytest.mark.parametrize("category", [*CATEGORIES, "Nonsense"])
def test_strategies_are_sampled_for_the_class_that_the_model_names(serve, category):
    asked = []

    def answer(request):
        asked.append(request)
        system = request["messages"][0]["content"]
        if "Name its category" in system:
            return said(f'<think>{{"category": "Portrait"}}</think>{{"category": "{category}"}}')
        thoughts = ", ".join(['"t"'] * system.count("\n- "))
        return said(f'{{"category": "Portrait", "short": "an oak, \\"Lake\\"", "thoughts": [{thoughts}]}}')

    annotation = Annotation(
        text='A tall oak by a lake at dusk, a sign reads "Lake", in the style of an old oil painting.'
    )
    named = category if category in CATEGORIES else "General"
    seen = set()
    for seed in range(12):
        t = ChatDegrader(_endpoint(serve(answer))).degrade(annotation, seed)
        assert t.category == named
        for step in t.steps:
            odds = PROBABILITIES[named][step.strategy.removeprefix("blur ")]
            assert step.probability == (odds.blur if step.strategy.startswith("blur ") else odds.drop)
            assert step.probability > 0
            seen.add((step.strategy, step.probability))
    others = {(name, odds.drop) for name, odds in PROBABILITIES["General"].items()}
    assert named == "General" or any(step not in others for step in seen if not step[0].startswith("blur "))
    assert [request["temperature"] for request in asked[:2]] == [0.0, 0.7]


def test_letters_are_taken_away_only_where_there_are_some(serve):
    def answer(request):
        system = request["messages"][0]["content"]
        assert "typography" not in system
        return said(
            f'{{"category": "Text", "short": "an oak", "thoughts": {json.dumps(["t"] * system.count(chr(10) + "- "))}}}'
        )

    for seed in range(6):
        ChatDegrader(_endpoint(serve(answer))).degrade(Annotation(text="A tall oak by a lake at dusk, painted."), seed)


def test_edits_have_one_class_and_are_asked_for_once(serve):
    asked = []

    def answer(request):
        asked.append(request)
        return said('{"short": "open it", "thoughts": ["keep the rest"]}')

    t = ChatDegrader(_endpoint(serve(answer))).degrade(Annotation(text="Open the door, keep the rest.", kind="edit"), 0)
    assert (t.category, [step.strategy for step in t.steps], len(asked)) == ("General", ["summary"], 1)


def test_a_failing_endpoint_is_not_the_rows_fault(serve):
    annotation = Annotation(text="A tall oak by the lake in the light of the dusk.")
    with pytest.raises(EndpointError, match="401"):
        ChatDegrader(_endpoint(serve(lambda _: (401, {"error": "no key"})))).degrade(annotation, 0)
    with pytest.raises(RejectedError, match="400"):
        ChatDegrader(_endpoint(serve(lambda _: (400, {"error": "too long"})))).degrade(annotation, 0)


def test_pictures_are_sent_no_larger_than_the_protocol_says():
    for size, sent in (((2048, 4096), (724, 1448)), ((1024, 1024), (1024, 1024)), ((9000, 1), (9000, 1))):
        data = base64.b64decode(data_url(Image.new("RGB", size)).partition(",")[2])
        assert Image.open(io.BytesIO(data)).size == sent


def test_a_server_of_pictures_draws(serve):
    asked = {}
    stream = io.BytesIO()
    Image.new("RGB", (8, 4), (1, 2, 3)).save(stream, "PNG")

    def answer(request):
        asked[request["prompt"]] = request
        return 200, {"data": [{"b64_json": base64.b64encode(stream.getvalue()).decode()}]}

    generator = EndpointGenerator(ImagesEndpoint(url=serve(answer), model="m"), 8, 4)
    pictures = generator.draw(["a cat", "a dog"], [2**40 + 1, 2])
    assert [picture.tolist() for picture in pictures] == [[[[1, 2, 3]] * 8] * 4] * 2
    assert asked["a cat"]["size"] == "8x4"
    assert 0 <= asked["a cat"]["seed"] < 2**31
    first = {text: request["seed"] for text, request in asked.items()}
    generator.draw(["a cat", "a dog"], [2**41 + 1, 2])  # another noise, and the same
    assert asked["a cat"]["seed"] != first["a cat"]
    assert asked["a dog"]["seed"] == first["a dog"]
    with pytest.raises(EndpointError, match="without a picture"):
        ImagesEndpoint(url=serve(lambda _: (200, {"data": [{"url": "x"}]})), model="m").draw("a", 8, 8, 0)
