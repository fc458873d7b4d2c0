"""A save is complete or absent."""

from __future__ import annotations

import errno

import pytest
import torch
from torch import nn

from fourstroke import checkpoint


def test_a_failed_save_leaves_the_old_one_and_no_debris(tmp_path, monkeypatch):
    folder, layer = tmp_path / "model", nn.Linear(3, 3)
    checkpoint.save_weights(layer, folder, {"a": 1})
    before = checkpoint.read_tensors(folder)

    def full_disk(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_weights(nn.Linear(3, 3), folder, {"a": 2})
    after = checkpoint.read_tensors(folder)
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
