"""Distances between sets and seeds are what they are defined to be; networks are read from folders, in our words."""

from __future__ import annotations

import math
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fourstroke.data.sample import Caption, Record
from fourstroke.evaluate.artefacts import Artefacts
from fourstroke.evaluate.diversity import Diversity, vendi
from fourstroke.evaluate.embeddings import ClipJudge, DinoJudge
from fourstroke.evaluate.features import FeatureNetwork
from fourstroke.evaluate.frechet import Cmmd, Fid, Moments, cmmd, frechet_distance
from fourstroke.evaluate.image_metrics import diversity, stack
from fourstroke.evaluate.inception import Inception, layers
from fourstroke.evaluate.judge_options import parse_judge
from fourstroke.evaluate.judges import INPUTS
from fourstroke.evaluate.judging import judge_folder
from tests.vae.test_objective import write as write_lpips

RNG = np.random.default_rng(3)


def noise(side: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (side, side, 3)).astype(np.uint8)


def record(name="a", **meta):
    return Record(name=name, size=(8, 8), captions=(Caption("a red circle"),), meta=meta)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    from fourstroke.text import train_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = sizes | ends | {"vocab_size": 400, "max_position_embeddings": 16}
    config = CLIPConfig(
        projection_dim=8, text_config=text, vision_config=sizes | {"image_size": 28, "patch_size": 14}, **ends
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    tokenizer = train_tokenizer(["a cat to the left of a red circle", "a green square"] * 4, 400)
    backend = tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=tokenizer.pad_token).save_pretrained(folder)
    return folder


class Making(Inception):
    """Makes weights of two channels a layer, in the published layout, as a picture passes through."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.state: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def _convolve(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = torch.randn(2, x.shape[1], *kernel(name), generator=self.generator)
        parts = {"conv.weight": weight * (2 / weight[0].numel()) ** 0.5, "bn.weight": torch.ones(2)}
        parts |= {"bn.bias": torch.full((2,), 0.1), "bn.running_mean": torch.zeros(2), "bn.running_var": torch.ones(2)}
        self.state |= {f"{name}.{part}": value for part, value in parts.items()}
        self.register_buffer(f"{name}.weight".replace(".", "_"), parts["conv.weight"])
        self.register_buffer(f"{name}.bias".replace(".", "_"), parts["bn.bias"])
        return super()._convolve(x, name)


def kernel(name: str) -> tuple[int, int]:
    """The kernel of a layer of torchvision's Inception v3 by its name."""
    part = name.rpartition(".")[2]
    if "." in name and (part in ("branch1x1", "branch_pool") or part.endswith("_1")):
        return 1, 1
    if part[-1] in "ab":
        return (1, 3) if part[-1] == "a" else (3, 1)
    if "7x7" in part and part != "branch7x7x3_4":
        return (7, 1) if part in ("branch7x7_3", "branch7x7dbl_2", "branch7x7dbl_4", "branch7x7x3_3") else (1, 7)
    side = 5 if "5x5" in part else 1 if part.endswith("1x1") else 3
    return side, side


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file of weights in the published layout."""
    making = Making()
    making(torch.rand(1, 3, 32, 32, generator=making.generator))
    assert {name.rsplit(".", 2)[0] for name in making.state} == set(layers())
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(making.state, file)
    return file


def test_frechet_is_the_formula_of_normal_distributions():
    d = 4
    mean, other = torch.zeros(d), torch.full((d,), 2.0)
    found = frechet_distance((mean, torch.eye(d)), (other, 9 * torch.eye(d)))
    assert found == pytest.approx(d * 4 + d * (1 + 9 - 2 * 3))
    rank_one = torch.outer(other, other)
    assert frechet_distance((mean, rank_one), (mean, rank_one)) == pytest.approx(0, abs=1e-6)
    skew = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    product = np.linalg.eigvals((skew @ torch.diag(torch.tensor([1.0, 4.0]))).numpy())
    expected = float(3 + 5 - 2 * np.sqrt(product).sum())
    assert frechet_distance((mean[:2], skew), (mean[:2], torch.diag(torch.tensor([1.0, 4.0])))) == pytest.approx(
        expected
    )


def test_moments_in_parts_are_those_of_the_whole():
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) + 3
    parts = Moments()
    for part in x.split(7):
        parts.add(part)
    for one, other in zip(parts.result(), (x.double().mean(0), torch.from_numpy(np.cov(x.numpy().T))), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    with pytest.raises(ValueError, match="1 pictures are too few"):
        Moments.of(x[:1]).result()


def test_cmmd_is_zero_for_equal_sets_and_grows_with_their_distance():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert cmmd(x, 3 * x) == pytest.approx(0, abs=1e-9)  # length does not count
    near, far = (cmmd(x, x + by) for by in (0.2, 3.0))
    assert 0 < near < far


def test_vendi_counts_what_differs():
    assert vendi(torch.ones(4, 4)) == pytest.approx(1)
    assert vendi(torch.eye(4)) == pytest.approx(4)
    assert vendi(torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))) == pytest.approx(2)


def test_diversity_is_that_of_distillation_and_falls_with_the_seeds(folder_of):
    prompts = [[noise() for _ in range(3)] for _ in range(4)]
    rows = [(p, "a", {"id": str(k), "seed": seed}) for k, row in enumerate(prompts) for seed, p in enumerate(row)]
    lone = (noise(), "alone", {"id": "lone"})
    summary = judge_folder(folder_of([*rows, lone]), Diversity())
    whole = torch.stack([stack(row) for row in prompts])
    assert summary["totals"]["pixels"]["value"] == pytest.approx(diversity(whole), rel=1e-5)
    assert summary["not_asked"] == 1
    same = [(prompts[0][0], "a", {"id": "0", "seed": seed}) for seed in range(3)]
    found = judge_folder(folder_of(same, "same"), Diversity())["totals"]
    assert (found["pixels"]["value"], found["vendi"]["value"]) == pytest.approx((0, 1))
    assert summary["totals"]["vendi"]["value"] > 1.5


def test_a_grid_is_told_from_edges_by_what_pictures_share(folder_of):
    plain = [np.full((64, 64, 3), 100, np.uint8) for _ in range(6)]
    for index, picture in enumerate(plain):
        picture[9 * index :] = 180  # a horizon, elsewhere in each
    grid = [picture.copy() for picture in plain]
    for picture in grid:
        picture[:, ::16] += 12
    found = [judge_folder(folder_of([(p, "a", {}) for p in pictures], name), Artefacts())["totals"]
             for name, pictures in (("plain", plain), ("grid", grid))]  # fmt: skip
    assert [totals["grid_of_all"]["value"] for totals in found] == pytest.approx([0, 24], abs=0.5)


def test_diversity_by_a_network_and_of_other_sizes(dino):
    reader = Diversity(network=str(dino), device="cpu").open()
    picture = noise()
    found = reader.read([picture, picture, noise(48)], [record()] * 3)
    assert found[0]["features_vendi"] == found[2]["features_vendi"] > 1
    assert found[0]["features"] < found[2]["features"]
    with pytest.raises(ValueError, match="/nowhere"):
        Diversity(network="/nowhere").open()


def test_diversity_by_lpips_and_by_dreamsims_package(tmp_path, monkeypatch):
    write_lpips(tmp_path, "vgg16-397923af.pth")
    with pytest.raises(ValueError, match="pip install dreamsim"):
        Diversity(dreamsim=tmp_path).open()

    class Package:
        @staticmethod
        def dreamsim(pretrained, device, cache_dir):
            assert (pretrained, device, cache_dir) == (True, "cpu", str(tmp_path))
            model = SimpleNamespace(embed=lambda x: x.mean((2, 3)))
            return model, lambda image: torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2).float()

    monkeypatch.setitem(sys.modules, "dreamsim", Package)
    red, other = (np.zeros((32, 32, 3), np.uint8) for _ in range(2))
    red[..., 0], other[..., 1] = 200, 200
    found = Diversity(lpips=tmp_path, dreamsim=tmp_path, device="cpu").open().read([red, red, other], [record()] * 3)
    assert [row["dreamsim"] for row in found] == pytest.approx([0.5, 0.5, 1.0])
    assert 0 < found[0]["lpips"] == pytest.approx(found[2]["lpips"] / 2)


def test_clip_reads_and_sees(clip, dino):
    judge = ClipJudge(network=str(clip), device="cpu").open()
    one, other = noise(), noise(40)
    found = judge.read([one, other, one], [record(), record("b"), Record(name="c", size=(1, 1))])
    assert found[2] == {}
    network = FeatureNetwork(clip, "cpu")
    cosine = torch.nn.functional.cosine_similarity(network.pictures([other]), network.texts(["a red circle"])).item()
    assert found[1]["clip"] == pytest.approx(max(0.0, cosine), abs=1e-6)
    assert network.texts(["a red circle " * 30]).shape == (1, 8)  # cut
    with pytest.raises(ValueError, match="no part that reads texts"):
        ClipJudge(network=str(dino), device="cpu").open()


def test_dino_compares_an_edit_with_what_it_was(dino, tmp_path):
    before = noise()
    Image.fromarray(before).save(tmp_path / "before.png")
    judge = DinoJudge(network=str(dino), device="cpu").open()
    edit, gone = (record(**{INPUTS: (tmp_path / name,)}) for name in ("before.png", "gone.png"))
    found = judge.read([before, noise(), before, before], [edit, edit, record(), gone])
    assert found[0]["dino"] == pytest.approx(1)
    assert found[1]["dino"] < 1
    assert found[2] == {}
    assert "gone.png" in str(found[3])


def test_fid_and_cmmd_of_a_folder_with_itself_are_zero(inception, clip, folder_of, tmp_path):
    pictures = [noise() for _ in range(4)]
    folder = folder_of([(picture, "a", {}) for picture in pictures])
    true = tmp_path / "true"
    true.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(true / f"{index}.png")
    found = judge_folder(folder, Fid(network=str(inception), reference=true, device="cpu"), batch=3)
    assert found["totals"]["fid"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["judged"] == 4
    for index in range(4):
        Image.fromarray(noise() // 3).save(true / f"{index}.png")
    other = judge_folder(folder, Fid(network=str(inception), reference=true, device="cpu"))
    assert other["totals"]["fid"]["value"] > 1e-3
    cmmd_judge = parse_judge(f"cmmd:network={clip},reference={folder}", {"device": "cpu"})
    assert isinstance(cmmd_judge, Cmmd)
    assert judge_folder(folder, cmmd_judge)["totals"]["cmmd"]["value"] == pytest.approx(0, abs=1e-6)


def test_moments_of_true_pictures_may_be_given(inception, folder_of, tmp_path):
    pictures = [noise() for _ in range(3)]
    mean, covariance = Moments.of(FeatureNetwork(inception, "cpu").pictures(pictures)).result()
    np.savez(tmp_path / "true.npz", mu=mean.numpy(), sigma=covariance.numpy())
    folder = folder_of([(picture, "a", {}) for picture in pictures])
    kind = Fid(network=str(inception), reference=tmp_path / "true.npz", device="cpu")
    assert judge_folder(folder, kind)["totals"]["fid"]["value"] == pytest.approx(0, abs=1e-5)
    np.savez(tmp_path / "true.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="the reference has 3 numbers a picture"):
        judge_folder(folder, kind)
    (tmp_path / "true.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="no mu and sigma"):
        judge_folder(folder, kind)


def test_weights_of_another_network_are_one_line(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"have no Conv2d_1a_3x3.conv.weight: FID needs"):
        FeatureNetwork(tmp_path / "x.pth", "cpu")


def test_inception_sees_one_picture_as_among_others(inception):
    network = Inception.from_pretrained(inception)
    x = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network(x)[1], network(x[1:])[0], atol=1e-4)
    assert network(x).shape == (2, 12)
    assert math.isfinite(float(network(x).sum()))
