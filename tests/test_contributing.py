"""The examples of CONTRIBUTING are taken out of the page and used as a recipe would use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourstroke import registry
from fourstroke.data.sample import Caption, Record
from fourstroke.enhance.rewards import RewardBatch
from fourstroke.recipe import load_recipe
from fourstroke.train.vae import VaeRecipe, VaeStage

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files of the page on Python's path; finds a kind in them as a recipe does."""
    for name, text in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, flags=re.M | re.S):
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return registry.find


def test_a_dataset(find: Any) -> None:
    data = find("datasets", "squares:Squares")(count=5)
    train, held_out = data.open(), data.open("heldout")
    assert len(train) == 5
    assert train.sample(1).image.shape == (64, 64, 4)
    assert train.record(1).size == (64, 64)
    assert np.array_equal(train.sample(1).image, data.open().sample(1).image)
    assert not np.array_equal(train.sample(1).image, held_out.sample(1).image)
    assert len({d.digest(i) for d in (train, held_out) for i in range(5)}) == 10


def test_a_reward(find: Any) -> None:
    reward = find("rewards", "brightness:Brightness")(wanted=1.0)
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
    records = [Record(name=str(i), size=(8, 8), captions=(Caption("x"),)) for i in range(2)]
    found = reward(RewardBatch(records, ["a", "b"], lambda: pictures))
    assert torch.equal(found, torch.tensor([0.0, 1.0]))


def test_a_judge(find: Any) -> None:
    judge = find("judges", "sharpness:Sharpness")().open()
    flat, edge = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    edge[:, 2:] = 255
    assert judge.score([flat, edge], []) == {"sharpness": [0.0, 1.0]}


def test_a_loss(find: Any) -> None:
    loss = find("losses", "charbonnier:Charbonnier")().compare
    torch.manual_seed(0)
    target, prediction = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8, requires_grad=True)
    assert loss(target, target).item() == pytest.approx(0, abs=1e-7)
    assert loss(prediction, target).item() == pytest.approx((prediction - target).abs().mean().item(), abs=2e-3)
    loss(prediction, prediction.detach()).backward()
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0  # smooth where L1 is not


def test_a_loss_is_a_term_of_the_autoencoders_objective(find: Any, tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "recipes" / "micro" / "vae.yaml"
    small = ["batch_size=2", "model.base_dim=4", "model.decoder_base_dim=4", f"run.out={tmp_path / 'run'}"]
    losses = {}
    for weight in (1.0, 3.0):
        term = f"losses.charbonnier:Charbonnier={weight}"
        losses[weight] = VaeStage(load_recipe(VaeRecipe, path, [*small, term])).loss(0)
    without, with_it = losses[1.0], losses[3.0]
    assert with_it["charbonnier"].item() == without["charbonnier"].item() > 0
    added = with_it["loss"].item() - without["loss"].item()
    assert added == pytest.approx(2 * with_it["charbonnier"].item(), rel=1e-4)


def test_examples_are_short() -> None:
    for name, text in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, flags=re.M | re.S):
        assert len(text.splitlines()) <= 40, name
