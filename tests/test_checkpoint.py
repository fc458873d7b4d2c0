"""A save is complete or absent."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import nn

from fourstroke import checkpoint


def test_a_failed_save_leaves_the_old_one_and_no_debris(tmp_path, monkeypatch):
    folder, layer = tmp_path / "model", nn.Linear(3, 3)
    checkpoint.save_weights(layer, folder, {"a": 1})
    before = checkpoint.map_tensors(folder)

    def full_disk(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_weights(nn.Linear(3, 3), folder, {"a": 2})
    after = checkpoint.map_tensors(folder)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_save_replaces_the_old_one_whole(tmp_path):
    folder = tmp_path / "model"
    checkpoint.save_weights(nn.Linear(3, 3), folder, {"a": 1})
    (folder / "stale.txt").write_text("x")
    checkpoint.save_weights(nn.Linear(3, 3), folder, {"a": 2})
    assert checkpoint.read_json(folder / "config.json") == {"a": 2}
    assert not (folder / "stale.txt").exists()


def test_shards_are_read_through_their_index(tmp_path):
    layer = nn.Linear(3, 3)
    for number, (key, value) in enumerate(layer.state_dict().items()):
        checkpoint.save_file({key: value.clone()}, tmp_path / f"part-{number}.safetensors")
    weight_map = {key: f"part-{number}.safetensors" for number, key in enumerate(layer.state_dict())}
    checkpoint.write_json(tmp_path / f"{checkpoint.WEIGHTS}.index.json", {"weight_map": weight_map})
    other = nn.Linear(3, 3)
    checkpoint.load_weights(other, tmp_path)
    assert torch.equal(other.weight, layer.weight)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="lacks the shards part-1"):
        checkpoint.load_weights(other, tmp_path)


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (str | None, None, None),
        (tuple[float, ...], [1, 2.5], (1.0, 2.5)),
        (tuple[int, int] | None, [1, 2], (1, 2)),
        (Literal["a", "b"], "b", "b"),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[str, Any], {"a": [1]}, {"a": [1]}),
    ],
)
def test_values_of_a_file_become_fields(hint, value, wanted):
    found = checkpoint.convert(hint, value, "f: k")
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "3", 'f: k should be a whole number, found "3"'),
        (int, 3.0, "a whole number"),
        (int, True, "a whole number"),
        (bool, 1, "true or false"),
        (float, "1e-6", "a finite number"),
        (float, float("nan"), "a finite number"),
        (float, 10**400, "a finite number"),
        (float, None, "found null"),
        (tuple[int, ...], 3, "a list, each a whole number"),
        (tuple[int, int], [1, 2, 3], "a list of 2"),
        (tuple[int, ...], [1, "2"], 'k should be a whole number, found "2"'),
        (Literal["a", "b"], "c", 'one of "a", "b"'),
        (dict[str, int], {"a": "x" * 500}, "k: a should be a whole number"),
    ],
)
def test_values_of_another_type_are_refused(hint, value, message):
    with pytest.raises(checkpoint.CheckpointError, match=message) as error:
        checkpoint.convert(hint, value, "f: k")
    assert len(str(error.value)) < 150


@dataclass(frozen=True)
class Shape:
    side: int
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.side < 1:
            raise ValueError(f"side is {self.side}; it must be at least 1")


def test_no_key_is_passed_over():
    rules = {"only": {"_class_name": ["Shape"], "round": [False, None]}, "notes": ["scale"]}
    values = {"_class_name": "Shape", "_version": "1", "side": 2, "names": ["a"], "round": None, "scale": 9}
    assert checkpoint.config_of(Shape, values, "f", **rules) == Shape(2, ("a",))
    wrong = {
        "f: the key colour is not supported": {"side": 2, "colour": 1},
        "f: round = true is not supported, only false or null": {"side": 2, "round": True},
        'f: _class_name = "Disc" is not supported, only "Shape"': {"side": 2, "_class_name": "Disc"},
        "f: the key side is missing": {"names": []},
        "f: side is 0; it must be at least 1": {"side": 0},
    }
    for message, keys in wrong.items():
        with pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.config_of(Shape, keys, "f", **rules)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04", b"\x80\x02cposix\nsystem\n."])
def test_files_that_torch_did_not_save_are_told(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"x\.pt is damaged or no file of weights") as error:
        checkpoint.read_pickle(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_rows_are_told_by_their_line(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"seconds": 1}\n{"seconds": 2}\n')
    assert checkpoint.read_rows(file) == [{"seconds": 1}, {"seconds": 2}]
    for line in ("[]", "{", '{"seconds"'):
        file.write_text('{"seconds": 1}\n' + line)
        with pytest.raises(checkpoint.CheckpointError, match=r"log\.jsonl, line 2"):
            checkpoint.read_rows(file)
