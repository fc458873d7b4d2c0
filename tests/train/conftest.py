"""Recipes small enough to run in tests, and the launcher of several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourstroke.data.loader import LoaderConfig
from fourstroke.dit import TransformerConfig
from fourstroke.folder import ModelInfo
from fourstroke.recipe import resolved
from fourstroke.text import SmallTextConfig
from fourstroke.train.dit import DitRecipe
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import OptimizerConfig
from fourstroke.train.vae import VaeRecipe, train_vae
from fourstroke.vae import AutoencoderConfig
from fourstroke.world import WorldConfig
from fourstroke.world.dataset import WorldData

SECONDS = 300
WORLD = WorldConfig(width=32, height=32, sprites=0)  # shapes alone need no fonts


@pytest.fixture
def vae_recipe(tmp_path):
    return VaeRecipe(
        data=WorldData(world=WORLD),
        sizes=((32, 32),),
        loader=LoaderConfig(workers=0),
        model=AutoencoderConfig(
            base_dim=4,
            decoder_base_dim=4,
            dim_mult=(1, 2, 4, 8, 16),
            num_res_blocks=1,
            temperal_downsample=(False,) * 4,
        ),
        run=RunConfig(out=tmp_path / "vae", steps=6, log_seconds=0),
        optimizer=OptimizerConfig(lr=2e-3, warmup=2),
        batch_size=4,
        latent_noise=0.2,
        statistics=32,
    )


@pytest.fixture
def dit_recipe(tmp_path, vae_recipe):
    return DitRecipe(
        data=WorldData(world=WORLD, samples=256, held_out=32),
        held_out=32,
        loader=LoaderConfig(workers=0),
        vae=train_vae(vae_recipe),
        freeze_text=False,
        model=TransformerConfig(
            num_layers=2, num_attention_heads=2, attention_head_dim=32, axes_dims_rope=(8, 12, 12), context_in_dim=64
        ),
        text=SmallTextConfig(
            vocab_size=512,
            hidden_size=64,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_dim=32,
            intermediate_size=64,
            vision_hidden_size=32,
            vision_intermediate_size=32,
        ),
        info=ModelInfo(name="tiny", width=32, height=32, max_side=64, num_inference_steps=4),
        run=RunConfig(out=tmp_path / "dit", steps=6, log_seconds=0),
        optimizer=OptimizerConfig(lr=3e-3, warmup=2),
        batch_size=4,
        noise_samples=2,
        sheet=2,
    )


class Launch:
    """`fourstroke train` of a recipe on several processes, as torchrun starts it, or in one."""

    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def __init__(self, folder: Path, ranks: int = 2) -> None:
        self.folder, self.ranks = folder, ranks

    def command(
        self, stage: str, recipe: Any, *options: str, whole: bool = False, split_from: int = 0, before: str = ""
    ) -> list[str]:
        """The command line.

        These models are small enough to stay whole on every rank, and are split all the same, but for those of fewer
        than `split_from` parameters, or with `whole`. `before` is run first.
        """
        file = self.folder / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(resolved(recipe)["recipe"]))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)]
        program = self.folder / "program.py"
        split = "" if whole else f"sharding.SHARD_THRESHOLD = {split_from}\n"
        lines = "from fourstroke.cli import main\nfrom fourstroke.parallel import sharding\n"
        program.write_text(f"{lines}{split}{before}\nraise SystemExit(main())\n")
        started = [sys.executable, *(torchrun if self.ranks > 1 else []), str(program)]
        return [*started, "train", stage, "--recipe", str(file), *options]

    def __call__(
        self,
        stage: str,
        recipe: Any,
        *options: str,
        stop_when: Path | None = None,
        whole: bool = False,
        split_from: int = 0,
        before: str = "",
    ) -> tuple[int, str, str]:
        """Exit code, output and errors; with `stop_when` an interrupt is sent once that file is there."""
        command = self.command(stage, recipe, *options, whole=whole, split_from=split_from, before=before)
        with subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            if stop_when is not None:
                end = time.monotonic() + SECONDS
                while not stop_when.exists() and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.2)
                process.send_signal(signal.SIGINT)
            try:
                out, errors = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends its processes too
                raise
        return process.returncode, out, errors


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)
