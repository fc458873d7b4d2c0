"""f16c64 and its twin at full length: equal sizes, one halving apart, measured against minutes, resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from fourstroke.checkpoint import CheckpointError
from fourstroke.recipe import load_recipe
from fourstroke.train.vae import VaeRecipe

RECIPE = Path(__file__).parents[2] / "recipes" / "micro" / "vae.yaml"


def test_the_twin_has_one_halving_less_and_the_same_size():
    import twins

    ours = load_recipe(VaeRecipe, RECIPE).model
    for width in (1.0, 0.5):
        config = twins.narrower(ours, width)
        twin = twins.twin_of(config)
        assert (config.factor, config.z_dim, twin.factor, twin.z_dim) == (16, 64, 8, 16)
        for part, count in twins.parameters(config).items():
            assert twins.parameters(twin)[part] == pytest.approx(count, rel=0.05)
    assert twins.narrower(ours, 0.5).base_dim == ours.base_dim // 2


def test_a_tiny_study_measures_against_minutes_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install fourstroke[eval]")
    import compression
    import twins

    monkeypatch.setattr(twins, "MEASURED", twins.Measured(scenes=2, pages=2, read=0))
    tree = yaml.safe_load(RECIPE.read_text())
    tree["data"]["parts"][0]["data"]["world"] = str(RECIPE.parent / "free.yaml")
    tree["model"] |= {"base_dim": 8, "decoder_base_dim": 8}
    tree["losses"] = {"l1": 1.0}
    tree |= {"batch_size": 2, "sizes": [[32, 32]], "phases": [], "statistics": 8}
    tree["run"] = {"out": "x", "steps": 3}
    (tmp_path / "vae.yaml").write_text(yaml.safe_dump(tree))
    out = tmp_path / "docs" / "compression"
    words = ["--minutes", "5", "--seeds", "1", "--recipe", str(tmp_path / "vae.yaml")]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(out)]
    compression.main(words)
    found = json.loads(out.with_name("compression-full.json").read_text())
    assert list(found) == ["f16c64", "f8c16"]
    for (result,) in found.values():
        last = result["curve"][-1]
        assert last["step"] == 3
        assert {"minutes", "scenes_psnr", "pages_ssim", "photographs_psnr"} <= last.keys()
    page = out.with_name("compression-full.md").read_text()
    assert "f16c64 - f8c16" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    assert out.with_name("compression-full.png").stat().st_size > 5_000
    monkeypatch.setattr(twins, "train", lambda *_: pytest.fail("a finished run was trained again"))
    compression.main(words)
    assert json.loads(out.with_name("compression-full.json").read_text()) == found
    shutil.rmtree(tmp_path / "runs")
    compression.main(words)  # what its own JSON holds is not trained again either
    assert json.loads(out.with_name("compression-full.json").read_text()) == found
    trained: list[str] = []
    monkeypatch.setattr(twins, "beside_each_other", lambda recipes: trained.extend(each.run.out for each in recipes))
    with pytest.raises(CheckpointError):
        compression.main([*words, "--minutes", "6"])
    assert len(trained) == 2
    (tmp_path / "vae.yaml").write_text(yaml.safe_dump(tree | {"batch_size": 1}))  # another recipe's are not taken
    with pytest.raises(CheckpointError):
        compression.main(words)
    assert len(trained) == 4
