"""The networks of the objective: LPIPS from published layouts, DINOv2 from a folder, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.checkpoint import CheckpointError
from fourstroke.vae.autoencoder import AutoencoderConfig
from fourstroke.vae.dino import DinoFeatures
from fourstroke.vae.features import SemanticConfig, SemanticNetwork
from fourstroke.vae.losses import outline
from fourstroke.vae.lpips import DEVIATION, MEAN, Lpips
from fourstroke.vae.objective import LossConfig, Objective, Reconstruction, check_losses
from fourstroke.vae.objective.alignment import AlignmentConfig, AlignmentTerm, load_features
from fourstroke.vae.objective.perceptual import LpipsConfig
from fourstroke.vae.objective.pictures import L1, Edge, Outline, Squared

ALEX = (3, 4, 5, 6, 3)
"""Widths of a small AlexNet."""
VGG = (4, 6, 8, 5, 5)


def alexnet() -> nn.Sequential:
    """torchvision's `features`, layer by layer, with other widths."""
    a, b, c, d, e = ALEX
    return nn.Sequential(
        *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, d, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width, count in zip(VGG, (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def seen(x: Tensor, y: Tensor, z: Tensor | None = None) -> Reconstruction:
    """What a term sees of pictures, copies and latents."""
    z = torch.zeros(len(x), 1, 1, 1) if z is None else z
    return Reconstruction(x=x, y=y, weighed=y, z=z, parts=(0,) * len(x), step=0, progress=0.0, last_layer=z)


NETWORKS = {
    "alexnet-owt-7be5be79.pth": (alexnet, ALEX, (1, 4, 7, 9, 11)),
    "vgg16-397923af.pth": (vgg, VGG, (3, 8, 15, 22, 29)),
}


def write(folder: Path, name: str) -> tuple[nn.Sequential, list[Tensor]]:
    """A network and its channel weights in the published layout, random."""
    torch.manual_seed(0)
    build, widths, _ = NETWORKS[name]
    network, scales = build(), [torch.rand(1, width, 1, 1) for width in widths]
    folder.mkdir(exist_ok=True)
    state = {f"features.{key}": value for key, value in network.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, folder / name)
    lines = {f"lin{k}.model.1.weight": scale for k, scale in enumerate(scales)}
    torch.save(lines, folder / ("alex.pth" if "alex" in name else "vgg.pth"))
    return network, scales


@pytest.mark.parametrize("name", NETWORKS)
def test_lpips_is_the_weighted_distance_of_unit_vectors(tmp_path: Path, name: str) -> None:
    network, scales = write(tmp_path / "lpips", name)
    x, y = torch.rand(2, 2, 3, 64, 48) * 2 - 1
    expected = torch.zeros(2)
    a, b = ((t - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(DEVIATION).view(-1, 1, 1) for t in (x, y))
    place = 0
    for number, layer in enumerate(network):
        a, b = layer(a), layer(b)
        if number in NETWORKS[name][2]:
            off = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square() * scales[place]
            expected += off.sum(1).mean((1, 2))
            place += 1
        if place == 5:
            break
    lpips = Lpips.from_pretrained(tmp_path / "lpips")
    torch.testing.assert_close(lpips(x, y), expected.detach(), atol=1e-6, rtol=1e-4)
    assert lpips(x, x).tolist() == [0, 0]


def test_lpips_takes_the_whole_class_in_one_file_and_parts_that_fit_each_other(tmp_path: Path) -> None:
    write(tmp_path / "lpips", "alexnet-owt-7be5be79.pth")
    write(tmp_path / "lpips", "vgg16-397923af.pth")
    (tmp_path / "lpips" / "alexnet-owt-7be5be79.pth").unlink()  # alex.pth now fits nothing
    parts = Lpips.from_pretrained(tmp_path / "lpips")
    state = {f"net.slice1.{key}": value for key, value in vgg().state_dict().items()}
    state |= {f"lin{k}.model.1.weight": parts.get_buffer(f"channels{k}") for k in range(5)}
    torch.save(state, tmp_path / "whole.pth")
    whole = Lpips.from_pretrained(tmp_path / "whole.pth")
    x, y = torch.rand(2, 1, 3, 32, 32)
    assert whole(x, y) > 0
    assert [m.shape[1] for m in parts.features(x)] == list(VGG)


def test_lpips_gives_pictures_a_gradient_and_keeps_none(tmp_path: Path) -> None:
    write(tmp_path / "lpips", "vgg16-397923af.pth")
    term = LpipsConfig(weights=tmp_path / "lpips", weight=2.0).open(AutoencoderConfig(), torch.device("cpu"))
    x, y = torch.rand(1, 4, 32, 32), torch.rand(1, 4, 32, 32, requires_grad=True)
    loss, parts = term(seen(x, y))
    loss.backward()
    assert loss.item() == pytest.approx(2 * parts["lpips"].item())
    assert y.grad is not None
    assert y.grad.isfinite().all()
    assert y.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in term.parameters())
    assert term.learned is None
    equal = x.clone().requires_grad_(True)
    term(seen(x, equal))[0].backward()
    assert equal.grad is not None
    assert equal.grad.isfinite().all()


def test_lpips_that_is_not_there_is_said_and_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no LPIPS weights at .*nowhere: LPIPS needs a network \(alexnet"):
        Lpips.from_pretrained(tmp_path / "nowhere")
    write(tmp_path / "lpips", "vgg16-397923af.pth")
    (tmp_path / "lpips" / "vgg16-397923af.pth").rename(tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match="holds channel weights; LPIPS needs"):
        Lpips.from_pretrained(tmp_path / "lpips")
    with pytest.raises(CheckpointError, match="holds networks; LPIPS needs"):
        Lpips.from_pretrained(tmp_path / "vgg.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK no weights")
    with pytest.raises(CheckpointError, match=r"broken\.pth is damaged"):
        Lpips.from_pretrained(tmp_path / "broken.pth")
    (tmp_path / "vgg.pth").rename(tmp_path / "lpips" / "vgg16-397923af.pth")
    with pytest.raises(ValueError, match="32 pixels a side"):
        Lpips.from_pretrained(tmp_path / "lpips")(*torch.rand(2, 1, 3, 31, 64))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    folder = tmp_path_factory.mktemp("dino")
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def test_dino_gives_its_middle_layer_on_the_latent_grid(dino: Path) -> None:
    transformers = pytest.importorskip("transformers")
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    network = load_features(dino, 16, None, "cpu")
    (middle,) = network.features(x)
    assert (network.factor, network.width, middle.shape) == (16, 16, (2, 16, 2, 3))
    whole = transformers.Dinov2Model.from_pretrained(dino).eval()
    small = F.interpolate(x, size=(28, 42), mode="bicubic", antialias=True)
    rgb = (small + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    rgb = rgb / torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    hidden = whole(rgb, output_hidden_states=True).hidden_states
    assert len(hidden) == 5
    for layer in (2, 4):
        (found,) = load_features(dino, 16, layer, "cpu").features(x)
        expected = hidden[layer][:, 1:].transpose(1, 2).unflatten(2, (2, 3))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(middle, load_features(dino, 16, 2, "cpu").features(x)[0])
    opaque = torch.cat([x, torch.ones(2, 1, 32, 48)], 1)
    torch.testing.assert_close(network.features(opaque)[0], middle)


def test_dino_with_registers_drops_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, num_register_tokens=3
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    assert load_features(tmp_path, 32, None, "cpu").features(torch.rand(1, 3, 64, 32))[0].shape == (1, 16, 2, 1)


def test_latents_are_aligned_with_dino_which_stays(dino: Path) -> None:
    model = AutoencoderConfig(z_dim=8)
    config = AlignmentConfig(features=dino, perceptual=0.1, cosine_margins=(0.0, 0.0), distance_margins=(0.0, 0.0))
    aligned = config.open(model, torch.device("cpu"))
    assert isinstance(aligned, AlignmentTerm)
    assert isinstance(aligned.network, DinoFeatures)
    before = {key: value.clone() for key, value in aligned.network.state_dict().items()}
    z, y = torch.randn(2, 8, 2, 2, requires_grad=True), torch.rand(2, 4, 32, 32, requires_grad=True)
    optimiser = torch.optim.SGD([*aligned.map.parameters()], lr=1.0)
    losses = []
    for _ in range(20):
        loss, parts = aligned(seen(torch.ones(2, 4, 32, 32), y, z))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(parts["align"].item())
    assert losses[-1] < losses[0]
    assert z.grad is not None
    assert y.grad is not None
    assert all(torch.equal(value, before[key]) for key, value in aligned.network.state_dict().items())
    assert all(p.grad is None for p in aligned.network.parameters())


def test_networks_that_cannot_serve_are_refused(dino: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers 1 to 4"):
        load_features(dino, 16, 5, "cpu")
    with pytest.raises(ValueError, match="sides in 16s"):
        load_features(dino, 16, None, "cpu").features(torch.rand(1, 3, 24, 32))
    with pytest.raises(CheckpointError, match=r"no network at .*facebook/dinov2-large"):
        load_features(tmp_path / "nowhere", 16, None, "cpu")
    values = json.loads((dino / "config.json").read_text())
    for change, message in (({"hidden_size": 32}, "in the file and"), ({"num_hidden_layers": 5}, r"layer\.4")):
        other = shutil.copytree(dino, tmp_path / "dino", dirs_exist_ok=True)
        (other / "config.json").write_text(json.dumps(values | change))
        with pytest.raises(CheckpointError, match=f"do not fit its config.json, first .*{message}"):
            load_features(other, 16, None, "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="holds a bert"):
        load_features(tmp_path, 16, None, "cpu")
    SemanticNetwork(SemanticConfig(widths=(4, 4, 4))).save_pretrained(tmp_path / "coarse")
    with pytest.raises(ValueError, match="features at 1/4, not 1/16"):
        load_features(tmp_path / "coarse", 16, None, "cpu")


def test_the_objective_is_the_weighted_sum_in_the_recipes_order() -> None:
    x, y = torch.rand(2, 4, 16, 16), torch.rand(2, 4, 16, 16)
    terms = L1(weight=2.0), Edge(weight=0.0), Squared(weight=3.0)
    objective = Objective(terms, AutoencoderConfig(), torch.device("cpu"))
    found = objective(seen(x, y))
    assert list(found) == ["loss", "l1", "squared"]  # weight 0 leaves a term out
    assert found["l1"] == (y - x).abs().mean()
    assert found["loss"] == 2 * found["l1"] + 3 * found["squared"]
    assert objective.learned == {}


def test_outlines_are_of_the_copies_as_they_are_and_need_an_alpha() -> None:
    x, y, other = torch.rand(3, 2, 4, 16, 16)
    objective = Objective((Outline(weight=0.5),), AutoencoderConfig(), torch.device("cpu"))
    found = objective(dataclasses.replace(seen(x, y), weighed=other))
    assert found["outline"] == outline(y, x)
    assert found["loss"] == 0.5 * found["outline"]
    with pytest.raises(ValueError, match="3 channels have none"):
        Outline().open(AutoencoderConfig(in_channels=3, out_channels=3), torch.device("cpu"))


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ((), "losses are none: nothing compares pictures"),
        ((AlignmentConfig(features=Path("f")),), "losses are alignment: nothing compares pictures"),
        ((L1(weight=0.0), AlignmentConfig(features=Path("f"))), "nothing compares pictures; add l1"),
        ((L1(), Edge(), L1(weight=2.0)), "losses name l1 twice"),
    ],
)
def test_lists_that_make_no_sense_are_refused(terms: tuple[LossConfig, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_losses(terms)
