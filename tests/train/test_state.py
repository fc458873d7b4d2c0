"""What a resume reads is a state of a run, or one line says that it is none."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourstroke.checkpoint import CheckpointError
from fourstroke.parallel.checkpoint import export_state
from fourstroke.recipe import RecipeError
from fourstroke.train.loop import Trainer
from fourstroke.train.vae import VaeStage


@pytest.fixture
def trainer(vae_recipe):
    trainer = Trainer(VaeStage(vae_recipe), vae_recipe.run, vae_recipe.optimizer, {})
    trainer.update()
    return trainer


@pytest.mark.parametrize("damage", ["empty", "truncated", "list", "missing", "half"])
def test_values_that_are_none_are_told(trainer, tmp_path, damage):
    trainer.save(tmp_path / "state")
    file = tmp_path / "state" / "state.json"
    texts = {"empty": "", "truncated": file.read_text()[:60], "list": "[1]", "half": json.dumps({"step": 3})}
    if damage == "missing":
        file.unlink()
    else:
        file.write_text(texts[damage])
    with pytest.raises(CheckpointError, match=r"state/state\.json") as error:
        trainer.load(tmp_path / "state")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_tensors_that_are_none_are_told(trainer, tmp_path, damage):
    trainer.save(tmp_path / "state")
    (file,) = (tmp_path / "state").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"weights " * 99}[damage])
    with pytest.raises(CheckpointError, match="state is damaged") as error:
        trainer.load(tmp_path / "state")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["lost", "shape", "foreign"])
def test_a_state_of_other_models_is_refused(trainer, vae_recipe, tmp_path, change):
    folder = vae_recipe.run.out / "state"
    trainer.save(folder)
    (vae_recipe.run.out / "recipe.json").write_text("{}")
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("model."))
    if change == "lost":
        del tensors[name]
    elif change == "shape":
        tensors[name] = torch.zeros(3)
    else:
        tensors["model.vae.other"] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(RecipeError, match="not of these models"):
        trainer.load(folder)


def test_what_is_saved_is_of_the_moment_of_the_save(trainer, tmp_path):
    """Training goes on while a state is written."""
    at_save = {name: x.clone() for name, x in trainer.stage.models["vae"].state_dict().items()}
    trainer.save(tmp_path / "state", wait=False)
    with torch.no_grad():
        for p in trainer.stage.models["vae"].parameters():
            p.add_(1)
    trainer.checkpointer.wait()
    export_state(tmp_path / "state", tmp_path / "vae.safetensors", "model.vae.")
    exported = load_file(tmp_path / "vae.safetensors")
    assert exported.keys() == at_save.keys()
    assert all(torch.equal(x, at_save[name]) for name, x in exported.items())


def test_only_what_is_there_can_be_exported(trainer, tmp_path):
    trainer.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match="there are average, model, optimizer"):
        export_state(tmp_path / "state", tmp_path / "x.safetensors", "teacher.")
