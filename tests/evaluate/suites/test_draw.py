"""Drawing goes on after a kill, on more processes, and past what cannot be drawn: the same pictures, none twice."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from fourstroke.cli import main
from fourstroke.enhance.enhancer import Enhanced
from fourstroke.evaluate.drawn import ROWS, read_drawn
from fourstroke.evaluate.suites import draw
from fourstroke.evaluate.suites.draw import DrawOptions, Look, draw_share, finish, plan, prepare
from fourstroke.evaluate.suites.drawers import PipelineDrawer
from fourstroke.evaluate.suites.kinds import Prompts
from fourstroke.evaluate.suites.run import draw_suite
from fourstroke.flow.sampler import NonFiniteError
from fourstroke.pipeline import Pipeline

PROMPTS = ["a red cat", "a dog left of a tree", "a blue circle", "two fish"]


@pytest.fixture
def options(tmp_path: Path) -> DrawOptions:
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    return DrawOptions(suite=str(tmp_path / "p.txt"), out=tmp_path / "out", model="micro", device="cpu", repeats=2,
                       batch=3, look=Look(steps=1))  # fmt: skip


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")}


def _rows(folder: Path) -> list[str]:
    return [json.loads(line)["file"] for line in (folder / ROWS).read_text().splitlines()]


def _whole(options: DrawOptions, out: Path) -> dict[str, bytes]:
    draw_suite(dataclasses.replace(options, out=out))
    return _bytes(out)


def test_a_killed_run_goes_on(options: DrawOptions, loaded: Pipeline, tmp_path: Path, monkeypatch) -> None:
    whole, saved = _whole(options, tmp_path / "whole"), 0

    def killed(*arguments) -> None:
        nonlocal saved
        if saved == 4:
            raise KeyboardInterrupt
        saved += 1
        save(*arguments)

    save = draw.save_picture
    with monkeypatch.context() as patch:
        patch.setattr(draw, "save_picture", killed)
        with pytest.raises(KeyboardInterrupt):
            draw_suite(options)
    first = _rows(options.out)[0]
    text = (options.out / ROWS).read_text()
    (options.out / ROWS).write_text(text + text.splitlines()[0][:30])  # and half a row
    (options.out / first).unlink()
    before = {name: (options.out / name).stat().st_mtime_ns for name in _bytes(options.out)}
    assert 0 < len(before) < len(whole)
    draw_suite(options)
    assert _bytes(options.out) == whole
    assert sorted(set(_rows(options.out))) == sorted(whole) == [row.file for row in read_drawn(options.out)]
    assert {name: (options.out / name).stat().st_mtime_ns for name in before} == before
    monkeypatch.setattr(PipelineDrawer, "draw", None)
    draw_suite(options)


def test_every_share_is_drawn_once(options: DrawOptions, loaded: Pipeline, tmp_path: Path, monkeypatch) -> None:
    whole, planned = _whole(options, tmp_path / "whole"), plan(options)
    prepare(options, planned)
    with monkeypatch.context() as patch:
        patch.setattr(draw, "drawn_files", lambda folder: set())  # as at the beginning of all
        for rank in (2, 0, 1):
            draw_share(options, rank, 3)
    assert _bytes(options.out) == whole
    assert len(_rows(options.out)) == len(whole)
    assert finish(options, planned)[str(options.out)]["missing"] == 0


def test_two_processes_draw_the_same(options: DrawOptions, loaded: Pipeline, tmp_path: Path) -> None:
    whole = _whole(options, tmp_path / "whole")
    draw_suite(options, processes=2)
    assert _bytes(options.out) == whole
    assert len(_rows(options.out)) == len(whole)


def _enhancer(request: str, images: list[Image.Image], *, seed: int) -> Enhanced:
    """It rewrites all but cats."""
    return Enhanced(request=request, prompt=request if "cat" in request else f"{request}, seen from afar, {seed}")


def test_both_ways_are_drawn_from_the_same_seeds(options: DrawOptions, loaded: Pipeline, monkeypatch) -> None:
    monkeypatch.setattr(loaded, "_enhancer", _enhancer)
    told = draw_suite(dataclasses.replace(options, enhance=True, repeats=1))
    plain, enhanced = (read_drawn(options.out / name) for name in ("plain", "enhanced"))
    assert [row.seed for row in plain] == [row.seed for row in enhanced]
    assert [row.prompt for row in plain] == [row.wanted for row in enhanced] == PROMPTS
    assert not any(row.asked for row in plain)
    rewritten = [row for row in enhanced if row.asked]
    assert [row.prompt for row in rewritten[:1]] == ["a dog left of a tree, seen from afar, 1000"]
    assert told["folders"][str(options.out / "enhanced")]["as_asked"] == len(PROMPTS) - len(rewritten) == 1
    note = json.loads(Image.open(rewritten[0].path).info["fourstroke"])
    assert (note["request"], note["prompt"]) == (rewritten[0].asked, rewritten[0].prompt)
    assert (note["seed"], note["model"], note["num_inference_steps"]) == (rewritten[0].seed, "micro", 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"look": Look(steps=2)}, "pictures of another look"),
        ({"seed": 5}, r"pictures of another seed \(0, now 5\)"),
        ({"repeats": 1}, "pictures of another repeats"),
        ({"batch": 2}, "pictures of another batch"),
    ],
)
def test_pictures_drawn_otherwise_are_not_gone_on_with(change, said, options, loaded) -> None:
    small = dataclasses.replace(options, repeats=2)
    prepare(small, plan(small))
    with pytest.raises(ValueError, match=said):
        draw_suite(dataclasses.replace(small, **change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"repeats": 1001}, "1001 pictures of each prompt"),
        ({"source": Path("x")}, "is the file of prompts itself"),
        ({"model": "nowhere"}, "no model at nowhere"),
        ({"model": "openai:http://x"}, "names no model: write openai:"),
        ({"model": "openai:x#m"}, "should read http://host:port/v1"),
        ({"model": "openai:http://x#m", "enhance": True}, "leave --enhance out"),
        ({"model": "openai:http://x#m"}, "leave --steps, --guidance out"),
        ({"look": Look(width=100)}, "width is 100; it must be a positive multiple of 32"),
    ],
)
def test_wrong_options_are_one_line_before_anything_is_drawn(change, said, options, loaded) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        draw_suite(dataclasses.replace(options, **change))
    assert not (options.out / ROWS).exists()


def test_a_folder_of_others_is_left_alone(options: DrawOptions, loaded: Pipeline) -> None:
    options.out.mkdir()
    (options.out / "mine.txt").touch()
    with pytest.raises(ValueError, match="is not empty, and no suite was drawn there"):
        draw_suite(options)


def test_what_cannot_be_drawn_is_counted(options: DrawOptions, loaded: Pipeline, tmp_path: Path, monkeypatch) -> None:
    whole = _whole(options, tmp_path / "whole")

    def fails(self, texts, *rest):
        if "a blue circle" in texts:
            raise NonFiniteError("decoding gave nan")
        return draws(self, texts, *rest)

    draws = PipelineDrawer.draw
    with monkeypatch.context() as patch:
        patch.setattr(PipelineDrawer, "draw", fails)
        told = draw_suite(options)["folders"][str(options.out)]
        assert told == {"pictures": 6, "missing": 2, "refused": {"decoding gave nan": 2}, "as_asked": 0}
        patch.setattr(draw, "MOST_REFUSED", 2)
        with pytest.raises(NonFiniteError):
            draw_suite(options)
    draw_suite(options)
    assert _bytes(options.out).keys() == whole.keys()


def test_missing_and_broken_pictures_to_edit_are_counted(loaded: Pipeline, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = [{"prompt": "make it blue", "images": [name]} for name in ("a.png", "b.png", "c.png")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluation = Prompts(suite=str(tmp_path / "p.jsonl"), out=tmp_path / "out", steps=1)
    told = evaluation.run("micro", "cpu")
    (counted,) = told["folders"].values()
    assert (counted["pictures"], counted["missing"], len(counted["refused"])) == (1, 2, 2)
    said = evaluation.report(told)
    assert "1 pictures, 2 missing" in said
    assert "1 not drawn: a picture to edit: cannot be read: No such file or directory" in said


def test_the_command_draws_and_says_how_to_score(options: DrawOptions, loaded: Pipeline, capsys) -> None:
    words = [
        "eval",
        "prompts",
        options.suite,
        "--model",
        "micro",
        "--steps",
        "1",
        "--out",
        str(options.out),
        "--n",
        "2",
    ]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"{options.out}: 2 pictures"
    assert "2/2" in err
    assert main([*words[:2], "nothing.txt"]) == 2


class _Images(BaseHTTPRequestHandler):
    """Draws grey pictures, of a level that is the seed; refuses what mentions a dog."""

    def do_POST(self) -> None:
        from fourstroke.enhance.endpoint import data_url

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        size = tuple(map(int, body["size"].split("x")))
        picture = data_url(Image.new("RGB", size, (body["seed"] % 256,) * 3)).partition(",")[2]
        refused = "dog" in body["prompt"]
        answer = {"error": "no dogs"} if refused else {"data": [{"b64_json": picture}]}
        data = json.dumps(answer).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Images)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}/v1"
    served.shutdown()


def test_a_model_behind_an_endpoint_draws_the_same_suite(options: DrawOptions, server: str) -> None:
    remote = dataclasses.replace(options, model=f"openai:{server}#grey", look=Look(width=64, height=32))
    told = draw_suite(remote)["folders"][str(options.out)]
    assert (told["pictures"], told["missing"]) == (6, 2)
    assert ["no dogs" in why for why in told["refused"]] == [True]
    rows = read_drawn(options.out)
    assert {(row.model, row.steps) for row in rows} == {("grey", None)}
    assert all(row.open().getpixel((0, 0)) == (row.seed % 256,) * 3 and row.open().size == (64, 32) for row in rows)


def test_models_are_drawn_before_they_are_compared(options, loaded, server: str, tmp_path: Path, capsys) -> None:
    mine = _whole(options, tmp_path / "mine")
    words = ["eval", "compare", str(tmp_path / "mine"), "micro", f"openai:{server}#grey", "--out", f"{tmp_path}/p.html"]
    assert main(words) == 2
    assert "micro is no folder of drawn pictures; to draw with it as a model, name a --suite" in capsys.readouterr().err
    assert main([*words, "--suite", options.suite, "--repeats", "2"]) == 0
    told = json.loads((tmp_path / "p.json").read_text())
    assert [entry["name"] for entry in told["entries"]] == ["mine", "micro", "grey"]
    assert [entry["pictures"] for entry in told["entries"]] == [len(mine), len(mine), len(mine) - 2]  # no dogs
    assert told["prompts"] == len(PROMPTS) - 1
