"""`data degrade`: any user's file, streamed, resumed where it stopped, rejects reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fourstroke.cli import main
from fourstroke.enhance.bulk import degrade_file, read_triplets
from fourstroke.enhance.endpoint import EndpointError
from fourstroke.world.caption_rules import SceneDegrader


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
    tally = degrade_file(captions, out, SceneDegrader())
    assert (tally.done, tally.rejected, tally.skipped) == (10, 5, 0)
    assert len(list(read_triplets(out))) == 10
    rejects = [json.loads(line) for line in (tmp_path / "out" / "t.jsonl.rejects.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rejects} >= {"4", "5", "x", "7"}
    assert "no scene graph" in rejects[0]["reason"]


def test_resumed_equals_uninterrupted_whatever_the_workers(captions, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    degrade_file(captions, whole, SceneDegrader(), workers=1)
    lines = whole.read_bytes().splitlines(keepends=True)
    parts.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # a crash in the middle of a row
    tally = degrade_file(captions, parts, SceneDegrader(), workers=3)
    assert (tally.done, tally.skipped) == (6, 4)
    assert parts.read_bytes() == whole.read_bytes()
    again = degrade_file(captions, parts, SceneDegrader())
    assert (again.done, again.rejected, again.skipped) == (0, 0, 15)


def test_seeds_come_of_the_id_and_the_given_one_alone(world, tmp_path):
    scene = world.scene(0)
    row = {"caption": world.caption(scene, rich=True, seed=1), "scene": scene.to_dict()}
    seeds = []
    for names, seed in (("ab", 0), ("ba", 0), ("ab", 1)):
        source, out = tmp_path / "c.jsonl", tmp_path / f"{len(seeds)}.jsonl"
        source.write_text("\n".join(json.dumps(row | {"id": name}) for name in names))
        degrade_file(source, out, SceneDegrader(), seed=seed)
        seeds.append({row["id"]: row["seed"] for row in map(json.loads, out.read_text().splitlines())})
    assert seeds[0] == seeds[1]
    assert len({*seeds[0].values(), *seeds[2].values()}) == 4


def test_captions_of_one_picture_are_all_taken_and_a_dead_engine_loses_nothing(world, tmp_path):
    scene = world.scene(0)
    captions = [world.caption(scene, rich=True, seed=seed) for seed in (1, 2, 3)]
    rows = [{"id": "a", "caption": caption, "scene": scene.to_dict()} for caption in captions]
    source, out = tmp_path / "c.jsonl", tmp_path / "t.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))

    class Dying(SceneDegrader):
        left = 2

        def degrade(self, annotation, seed):
            self.left -= 1
            if self.left < 0:
                raise EndpointError("gone", 401)
            return super().degrade(annotation, seed)

    with pytest.raises(EndpointError):
        degrade_file(source, out, Dying())
    tally = degrade_file(source, out, SceneDegrader())
    assert tally.done >= 1
    assert tally.done + tally.skipped == 3
    assert tally.rejected == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a", "a#2", "a#3"]
    assert degrade_file(source, out, SceneDegrader()).skipped == 3


def test_images_of_edits_are_found_from_wherever_the_triplets_lie(tmp_path):
    rows = tmp_path / "rows" / "edits.jsonl"
    rows.parent.mkdir()
    edit = {"caption": "Make the cat red.", "kind": "edit"}
    far = str(tmp_path / "far.png")
    rows.write_text("\n".join(json.dumps(edit | {"inputs": i}) for i in (["a.png", "b/c.png"], [far], "a.png", [1])))
    out = tmp_path / "elsewhere" / "t.jsonl"
    assert degrade_file(rows, out, SceneDegrader()).rejected == 2
    found = [[Path(name).resolve() for name in triplet.inputs] for triplet in read_triplets(out)]
    assert found == [[rows.parent / "a.png", rows.parent / "b" / "c.png"], [Path(far)]]


CAPTION = {"caption": "a cat", "id": 1}


@pytest.mark.parametrize(
    "own",
    [
        b"my notes\nthe last line, without an end",
        b"one line without an end",
        json.dumps(CAPTION).encode(),
        json.dumps(CAPTION).encode() + b"\n",
        json.dumps({"id": "1", "short": "a", "rich": "b"}).encode(),
        b'{"id": "1", "caption": "not finis',
        b"\n\n",
        b"[1]\n",
        b"\xff\xfe\n",
    ],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.rejects.jsonl"])
def test_somebodys_own_file_is_refused_and_left_as_it_is(captions, tmp_path, capsys, name, own):
    file = tmp_path / name
    file.write_bytes(own)
    before = sorted(tmp_path.iterdir())
    assert main(["data", "degrade", str(captions), "--out", str(tmp_path / "t.jsonl")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{file} is not a file that `data degrade` wrote" in err
    assert file.read_bytes() == own
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_read_is_not_written_under_any_name(captions, tmp_path):
    triplets, link = tmp_path / "t.jsonl", tmp_path / "link"
    degrade_file(captions, triplets, SceneDegrader())
    link.symlink_to(triplets)
    (tmp_path / "folder").mkdir()
    before = triplets.read_bytes()
    for out in (triplets, link, tmp_path / "folder"):
        with pytest.raises(ValueError, match="name another --out"):
            degrade_file(triplets, out, SceneDegrader())
    assert triplets.read_bytes() == before


def test_rows_of_ours_are_kept_whole_or_begun_wherever_a_crash_stopped_the_last_one(captions, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    degrade_file(captions, whole, SceneDegrader())
    first, second = whole.read_bytes().splitlines(keepends=True)[:2]
    for end in (0, 1, 5, 9, 12, 20, len(second) - 2, len(second) - 1):
        parts.write_bytes(first + second[:end])
        degrade_file(captions, parts, SceneDegrader())
        assert parts.read_bytes() == whole.read_bytes()
        rejects = [path.with_name(f"{path.name}.rejects.jsonl") for path in (whole, parts)]
        assert rejects[0].read_bytes() == rejects[1].read_bytes()


def test_rows_that_are_no_valid_text_are_rejected_and_a_byte_order_mark_is_none_of_theirs(world, tmp_path):
    scene = world.scene(0)
    good = {"id": "é\u2028", "caption": world.caption(scene, rich=True, seed=1), "scene": scene.to_dict()}
    lines = [
        b"\xef\xbb\xbf" + json.dumps(good, ensure_ascii=False).encode() + b"\r",
        b'{"id": "caption", "caption": "a \\ud83d cat"}',
        b'{"id": "\\udc80", "caption": "a cat"}',
        b'{"id": "key", "caption": "a cat", "\\ud83d": 1}',
        b'{"id": "latin", "caption": "caf\xe9"}',
        b'{"id": "cesu", "caption": "\xed\xa0\x80"}',
        b'{"id": "deep", "caption": ' + b"[" * 100_000,
        b'{"id": "digits", "caption": ' + b"1" * 5000 + b"}",
    ]
    source, out = tmp_path / "c.jsonl", tmp_path / "t.jsonl"
    source.write_bytes(b"\n".join(lines))
    tally = degrade_file(source, out, SceneDegrader())
    assert (tally.done, tally.rejected) == (1, 7)
    assert [row["id"] for row in map(json.loads, out.read_bytes().splitlines())] == ["é\u2028"]
    rejects = (tmp_path / "t.jsonl.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {row["id"]: row["reason"] for row in map(json.loads, rejects)}
    assert set(reasons) == {"caption", "3", "key", "5", "6", "7", "8"}
    assert all("surrogate" in reasons[name] for name in ("caption", "3", "key"))
    assert all("not UTF-8" in reasons[name] for name in ("5", "6"))
    assert degrade_file(source, out, SceneDegrader()).skipped == 8
    out.write_bytes(b"\xef\xbb\xbf" + out.read_bytes())  # an editor's
    assert len(list(read_triplets(out))) == 1


def test_a_file_in_utf16_is_refused(tmp_path, capsys):
    (tmp_path / "c.jsonl").write_bytes(json.dumps(CAPTION).encode("utf-16"))
    assert main(["data", "degrade", str(tmp_path / "c.jsonl")]) == 2
    assert "UTF-16; save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["[1]", "{", '{"short": "a"}', json.dumps({"id": "1", "reason": "x"}), '"\\ud800"'])
def test_a_file_of_other_rows_holds_no_triplets(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        list(read_triplets(tmp_path / "t.jsonl"))


def test_the_command(captions, capsys):
    assert main(["data", "degrade", str(captions), "--json"]) == 0
    streams = capsys.readouterr()
    result = json.loads(streams.out.strip().splitlines()[-1])
    assert (result["done"], result["rejected"]) == (10, 5)
    assert "rejects" in streams.err
    assert main(["data", "degrade", "none.jsonl"]) == 2
    assert main(["data", "degrade", str(captions), "--rules", "wrold"]) == 2
    assert "did you mean 'world'" in capsys.readouterr().err
    assert main(["enhance", "a cat", "--endpoint", "http://127.0.0.1:9"]) == 2
    assert "--endpoint-model" in capsys.readouterr().err
