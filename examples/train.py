"""Train an autoencoder for a minute by a recipe of the tree, and look at what it keeps of a picture.

python examples/train.py run.max_minutes=1
"""

import sys
import tempfile
from pathlib import Path

import torch

import fourstroke
from fourstroke.recipe import load_recipe
from fourstroke.train.vae import VaeRecipe, train_vae

out = Path(tempfile.mkdtemp()) / "run"
overrides = ["run.max_minutes=1", f"run.out={out}", *sys.argv[1:]]  # any key of the recipe
folder = train_vae(load_recipe(VaeRecipe, Path("recipes/micro/vae.yaml"), overrides))

vae = fourstroke.Autoencoder.from_pretrained(folder)
x = torch.zeros(1, 4, 96, 96)
z = vae.encode(x)
print(f"{folder}: {tuple(x.shape)} -> {tuple(z.shape)} -> {tuple(vae.decode(z).shape)}")
