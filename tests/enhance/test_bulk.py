"""`data degrade`: any user's file, streamed, resumed where it stopped, rejects reported."""

from __future__ import annotations

import json

import pytest

from fourstroke.cli import main
from fourstroke.enhance.bulk import degrade_file, read_triplets
from fourstroke.enhance.degrade import WorldEngine
from fourstroke.enhance.endpoint import EndpointError


@pytest.fixture
def captions(world, tmp_path):
    """Ten good rows and four that cannot be used."""
    rows = []
    for seed in range(10):
        scene = world.scene(seed)
        rows.append(json.dumps({"caption": world.caption(scene, rich=True, seed=seed), "scene": scene.to_dict()}))
    rows[3:3] = [
        '{"caption": "a cat"}',
        "broken",
        '{"caption": " ", "id": "x"}',
        '{"caption": "a", "kind": "sing"}',
        "",
    ]
    path = tmp_path / "captions.jsonl"
    path.write_bytes("\n".join(rows).encode() + b"\n\xff\xfe\n")
    return path


def test_triplets_and_rejects(captions, tmp_path):
    out = tmp_path / "out" / "t.jsonl"
    tally = degrade_file(captions, out, WorldEngine())
    assert (tally.done, tally.rejected, tally.skipped) == (10, 5, 0)
    assert len(list(read_triplets(out))) == 10
    rejects = [json.loads(line) for line in (tmp_path / "out" / "t.jsonl.rejects.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rejects} >= {"4", "5", "x", "7"}
    assert "no scene graph" in rejects[0]["reason"]


def test_resumed_equals_uninterrupted_whatever_the_workers(captions, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    degrade_file(captions, whole, WorldEngine(), workers=1)
    lines = whole.read_bytes().splitlines(keepends=True)
    parts.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # a crash in the middle of a row
    tally = degrade_file(captions, parts, WorldEngine(), workers=3)
    assert (tally.done, tally.skipped) == (6, 4)
    assert parts.read_bytes() == whole.read_bytes()
    again = degrade_file(captions, parts, WorldEngine())
    assert (again.done, again.rejected, again.skipped) == (0, 0, 15)


def test_captions_of_one_picture_are_all_taken_and_a_dead_engine_loses_nothing(world, tmp_path):
    scene = world.scene(0)
    captions = [world.caption(scene, rich=True, seed=seed) for seed in (1, 2, 3)]
    rows = [{"id": "a", "caption": caption, "scene": scene.to_dict()} for caption in captions]
    source, out = tmp_path / "c.jsonl", tmp_path / "t.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))

    class Dying(WorldEngine):
        left = 2

        def degrade(self, caption, seed):
            self.left -= 1
            if self.left < 0:
                raise EndpointError("gone", 401)
            return super().degrade(caption, seed)

    with pytest.raises(EndpointError):
        degrade_file(source, out, Dying())
    tally = degrade_file(source, out, WorldEngine())
    assert tally.done >= 1
    assert tally.done + tally.skipped == 3
    assert tally.rejected == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a", "a#2", "a#3"]
    assert degrade_file(source, out, WorldEngine()).skipped == 3


def test_the_command(captions, capsys):
    assert main(["data", "degrade", str(captions), "--json"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out.strip().splitlines()[-1])
    assert (result["done"], result["rejected"]) == (10, 5)
    assert "rejects" in streams.err
    assert main(["data", "degrade", "none.jsonl"]) == 2
    assert main(["enhance", "a cat", "--endpoint", "http://127.0.0.1:9"]) == 2
    assert "--endpoint-model" in capsys.readouterr().err
