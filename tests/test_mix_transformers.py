"""scripts/mix_transformers.py: between two models of one shape, and one clear line for all others."""

from __future__ import annotations

import runpy

import pytest
import torch

from fourstroke import Pipeline
from tests.conftest import build_tiny_pipeline

MAIN = runpy.run_path("scripts/mix_transformers.py")["main"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(folder / "first")
    with torch.no_grad():
        for p in pipe.transformer.parameters():
            p.add_(1.0)
    pipe.save_pretrained(folder / "second")
    (folder / "second/vae/model.safetensors.index.json").write_text("{}")
    (folder / "second/transformer/model.safetensors.index.json").write_text("{}")
    build_tiny_pipeline(heads=1).save_pretrained(folder / "narrow")
    return folder


def test_a_share_of_what_changed_is_taken(pair, tmp_path):
    MAIN([str(pair / "first"), str(pair / "second"), str(tmp_path / "mixed"), "--share", "0.25"])
    first, mixed = (Pipeline.from_pretrained(folder).transformer for folder in (pair / "first", tmp_path / "mixed"))
    for before, after in zip(first.parameters(), mixed.parameters(), strict=True):
        assert torch.allclose(after, before + 0.25, atol=1e-5)
    assert (tmp_path / "mixed/vae/model.safetensors.index.json").exists(), (
        "only the transformer's shards are one file now"
    )
    assert not (tmp_path / "mixed/transformer/model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("first", "share", "said"),
    [("narrow", "0.5", "do not fit"), ("nothing", "0.5", "nothing"), ("first", "1.5", "from 0 to 1")],
)
def test_what_cannot_be_mixed_is_refused(pair, tmp_path, capsys, first, share, said):
    with pytest.raises(SystemExit):
        MAIN([str(pair / first), str(pair / "second"), str(tmp_path / "mixed"), "--share", share])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()
