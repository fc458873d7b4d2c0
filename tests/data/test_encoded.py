"""Caches hold what their encoders say, are found by content, go on where they stopped, and refuse other models."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fourstroke.checkpoint import CheckpointError
from fourstroke.cli import main
from fourstroke.data.buckets import BucketConfig
from fourstroke.data.datasets.edits import EditsData
from fourstroke.data.datasets.folder import FolderData
from fourstroke.data.encoded import FeatureStore, LatentStore, open_cache
from fourstroke.data.encoding import Encoder, PrepareRecipe
from fourstroke.data.loader import Loader, LoaderConfig
from fourstroke.data.prepare import prepare
from fourstroke.data.sample import Batch
from fourstroke.text import TextEncoder
from fourstroke.vae import Autoencoder
from tests.data.pictures import noise
from tests.data.test_loader import write_folder

MICRO = Path(__file__).parents[2] / "models" / "micro"


@pytest.fixture
def recipe(tmp_path: Path) -> PrepareRecipe:
    write_folder(tmp_path / "pictures", 12)
    return PrepareRecipe(
        data=FolderData(path=tmp_path / "pictures"),
        cache=tmp_path / "cache",
        init=str(MICRO),
        buckets=BucketConfig(areas=(64,), enlarge=2.0),
        loader=LoaderConfig(workers=0),
    )


def loaders(recipe: PrepareRecipe, batch: int = 3) -> tuple[Loader, Loader]:
    """One that encodes nothing, and one that finds all in the cache."""
    encoder = Encoder(recipe)
    common = {"config": recipe.loader, "seed": 1}
    plain = Loader(encoder.dataset, encoder.frames, batch, **common)
    latents, features = open_cache(recipe.cache, encoder.vae, encoder.text)
    return plain, Loader(encoder.dataset, encoder.frames, batch, latents=latents, features=features, **common)


def encoded(batch: Batch, autoencoder: Autoencoder) -> torch.Tensor:
    assert batch.images is not None
    with torch.no_grad():
        return autoencoder.encode_tokens(batch.images)


def test_cached_batches_are_the_encoded_ones(recipe: PrepareRecipe) -> None:
    answer = prepare(recipe)
    assert answer["train"]["used"] == 12
    autoencoder = Autoencoder.from_pretrained(MICRO / "vae")
    text = TextEncoder.from_pretrained(MICRO / "text_encoder", MICRO / "processor")
    plain, cached = loaders(recipe)
    for a, b in itertools.islice(zip(plain.batches(), cached.batches(), strict=False), 8):
        assert (a.prompts, a.crops, a.size, a.records) == (b.prompts, b.crops, b.size, b.records)
        assert b.images is None
        assert b.latents is not None
        assert b.features is not None
        torch.testing.assert_close(b.latents.float(), encoded(a, autoencoder), atol=5e-3, rtol=5e-3)
        wanted = text.encode(a.prompts)
        for row, prompt in enumerate(b.features):
            assert len(prompt) == wanted.lengths[row]
            torch.testing.assert_close(prompt, wanted.features[row, : len(prompt)], atol=1e-4, rtol=1e-4)
        assert all(c.text in dict.fromkeys(c.text for c in r.captions) for r in b.records for c in r.captions)


def test_edits_are_kept_with_their_inputs(recipe: PrepareRecipe, tmp_path: Path) -> None:
    rows = [{"source": f"{i:03}.png", "instruction": f"do {i}", "target": f"{i + 4:03}.png"} for i in range(8)]
    (tmp_path / "pictures" / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = dataclasses.replace(
        recipe,
        data=EditsData(path=tmp_path / "pictures" / "edits.jsonl"),
        buckets=BucketConfig(areas=(64,), ratios=((1, 1), (3, 2)), enlarge=2.0),
    )
    prepare(recipe)
    autoencoder = Autoencoder.from_pretrained(MICRO / "vae")
    text = TextEncoder.from_pretrained(MICRO / "text_encoder", MICRO / "processor")
    plain, cached = loaders(recipe, batch=2)
    for a, b in itertools.islice(zip(plain.batches(), cached.batches(), strict=False), 6):
        assert b.input_latents is not None
        assert b.features is not None
        sources = torch.stack([row[0] for row in a.inputs])
        with torch.no_grad():
            torch.testing.assert_close(
                b.input_latents.float(), autoencoder.encode_tokens(sources), atol=5e-3, rtol=5e-3
            )
        pictures = [[Image.fromarray(row[0].permute(1, 2, 0).numpy(), "RGBA")] for row in a.inputs]
        wanted = text.encode(a.prompts, pictures)
        for row, prompt in enumerate(b.features):
            torch.testing.assert_close(prompt, wanted.features[row, : len(prompt)], atol=1e-4, rtol=1e-4)


def test_what_is_there_is_not_made_again_and_what_changed_is(
    recipe: PrepareRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    encode = Autoencoder.encode_tokens
    monkeypatch.setattr(
        Autoencoder, "encode_tokens", lambda self, pixels: made.append(len(pixels)) or encode(self, pixels)
    )
    prepare(recipe)
    assert sum(made) == 12
    shards = sorted((tmp_path / "cache" / "latents").glob("*.safetensors"))
    prepare(recipe)
    assert sum(made) == 12
    shards[0].unlink()  # as if it had been interrupted
    lost = 12 - len(LatentStore(tmp_path / "cache" / "latents"))
    noise(500).save(tmp_path / "pictures" / "000.png")
    del made[:]
    prepare(recipe)
    assert sum(made) in (lost, lost + 1)
    noise(501).save(tmp_path / "pictures" / "000.png")
    _, cached = loaders(recipe)
    batches = list(itertools.islice(cached.batches(), 8))
    fresh = [batch for batch in batches if any(record.name == "000.png" for record in batch.records)]
    assert fresh
    assert all(batch.latents is None and batch.images is not None for batch in fresh)
    assert all(batch.latents is not None for batch in batches if batch not in fresh)


def test_a_cache_of_another_model_is_refused_in_one_line(recipe: PrepareRecipe, tmp_path: Path) -> None:
    prepare(recipe)
    other = Autoencoder.from_pretrained(MICRO / "vae")
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds latents of another model than .*other: name another cache"):
        Encoder(dataclasses.replace(recipe, vae=tmp_path / "other"))
    with pytest.raises(ValueError, match="made in float32, not in bfloat16"):
        Encoder(dataclasses.replace(recipe, bf16=True))
    with pytest.raises(ValueError, match="holds no cache; `fourstroke data prepare"):
        open_cache(tmp_path / "nowhere", MICRO / "vae")
    with pytest.raises(ValueError, match="is not empty and holds no cache"):
        Encoder(dataclasses.replace(recipe, cache=tmp_path / "pictures"))
    with pytest.raises(ValueError, match="crop=random: latents are those of one crop"):
        Encoder(dataclasses.replace(recipe, buckets=BucketConfig(areas=(64,), crop="random")))


def test_weights_are_hashed_once(recipe: PrepareRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(recipe)

    def fail(folder: Path) -> str:
        raise AssertionError(f"hashed {folder} again")

    monkeypatch.setattr("fourstroke.data.encoded.weights_digest", fail)
    prepare(recipe)
    loaders(recipe)


def test_broken_and_overlong_ones_are_named_and_the_rest_is_kept(recipe: PrepareRecipe, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "003.png").write_bytes(b"")
    broken = noise(9, 256, 256)
    broken.save(tmp_path / "pictures" / "cut.png")
    whole = (tmp_path / "pictures" / "cut.png").read_bytes()
    (tmp_path / "pictures" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures" / "004.json").write_text(json.dumps({"caption": "word " * 5000}))
    answer = prepare(recipe)["train"]
    assert set(answer["skipped"]["broken"]) == {"003.png", "cut.png"}
    assert "a caption of 5002 tokens, more than 1000" in answer["skipped"]["caption"]["004.png"]
    assert len(LatentStore(tmp_path / "cache" / "latents")) == 10  # as in training, which such a caption would end
    assert len(FeatureStore(tmp_path / "cache" / "features")) == 1 + 10 * 3
    assert json.loads((tmp_path / "cache" / "report.json").read_text())["train"] == answer


def test_a_record_of_a_cache_that_is_none_is_one_line(recipe: PrepareRecipe, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for record in ({"vae": 3}, {"vae": {"weights": "x"}}):
        (tmp_path / "cache" / "cache.json").write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match=r"cache\.json is damaged; delete the cache and prepare"):
            open_cache(tmp_path / "cache", MICRO / "vae")


def test_the_command_reads_any_stages_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: PrepareRecipe
) -> None:
    tree = {
        "data": {"kind": "folder", "path": str(tmp_path / "pictures"), "held_out": 0.2},
        "init": str(MICRO),
        "buckets": {"areas": [64], "enlarge": 2},
        "loader": {"workers": 1},
        "run": {"out": "runs/x", "steps": 3},
        "optimizer": {"lr": 0.1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["data", "prepare", "--recipe", str(tmp_path / "recipe.yaml")]
    assert main([*arguments, "--json", f"cache={tmp_path / 'kept'}"]) == 0
    out = capsys.readouterr()
    answer = json.loads(out.out)
    assert answer["train"]["used"] + answer["heldout"]["used"] == 12
    assert "train: " in out.err
    assert main(arguments) == 2
    assert "the key 'cache' is missing" in capsys.readouterr().err
    assert main([*arguments, f"cache={tmp_path / 'kept'}", f"data.path={tmp_path / 'none'}"]) == 2
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_makes_the_same_cache(recipe: PrepareRecipe, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prepare(recipe)
    far = dataclasses.replace(recipe, cache=tmp_path / "far")
    answer = prepare(far, ray="local")
    assert answer["train"]["used"] == 12
    here, there = (LatentStore(folder / "latents") for folder in (recipe.cache, far.cache))
    assert here._shards.keys() == there._shards.keys()
    for key in here._shards:
        torch.testing.assert_close(here.get(key), there.get(key), atol=5e-3, rtol=5e-3)
