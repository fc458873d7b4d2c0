"""What a resume reads is a state of a run, or one line says that it is none."""

from __future__ import annotations

import pytest
import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.train.loop import Trainer
from fourstroke.train.vae import VaeStage


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "weights", "list", "missing", "half"])
def test_a_state_that_is_none_is_told(vae_recipe, tmp_path, damage):
    trainer = Trainer(VaeStage(vae_recipe), vae_recipe.run, vae_recipe.optimizer, {})
    trainer.save(tmp_path / "state")
    file = tmp_path / "state" / "state.pt"
    if damage == "missing":
        file.unlink()
    elif damage in ("foreign", "weights", "list", "half"):
        state = {key: value for key, value in torch.load(file).items() if key != "optimizers"}
        foreign = {"foreign": {"loss": 1}, "weights": {"a.weight": torch.ones(2)}, "list": [1], "half": state}
        torch.save(foreign[damage], file)
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"state/state\.pt") as error:
        trainer.load(tmp_path / "state")
    assert "\n" not in str(error.value)
