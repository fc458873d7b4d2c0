"""Strips give what the whole gives: both shortcuts, odd heights, tiny strips, and when memory runs out."""

import sys
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourstroke.vae import Autoencoder, AutoencoderConfig, stream, tiling, winograd
from fourstroke.vae.autoencoder import Decoder
from fourstroke.vae.blocks import Downsample, ResidualBlock, Upsample, doubling_kernel
from fourstroke.vae.winograd import RowConvolution


@pytest.fixture(autouse=True)
def without_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stream, "MIN_POSITIONS", 1)
    with torch.no_grad():
        yield


def build(**changes: object) -> Autoencoder:
    """A small autoencoder whose every weight counts."""
    torch.manual_seed(0)
    values: dict[str, object] = {"base_dim": 8, "decoder_base_dim": 12, "z_dim": 16, "num_res_blocks": 1}
    model = Autoencoder(AutoencoderConfig(**values | changes)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def whole(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and picture as training computes them."""
    with torch.enable_grad():
        z = model.encode_raw(x)
        return z.detach(), model.decode_raw(z).detach()


@pytest.mark.parametrize("strip_bytes", [1, 20_000, 100_000, None])
@pytest.mark.parametrize("shape", [(1, 4, 64, 16), (2, 4, 48, 80), (1, 3, 16, 32)])
def test_strips_equal_the_whole(shape: tuple[int, ...], strip_bytes: int | None) -> None:
    model, x = build(), torch.rand(shape) * 2 - 1
    z, y = whole(model, x)
    model.strip_bytes = strip_bytes
    torch.testing.assert_close(model.encode_raw(x), z, atol=2e-5, rtol=0)
    torch.testing.assert_close(model.decode_raw(z), y, atol=2e-5, rtol=0)


@pytest.mark.parametrize("shortcut", ["local", "global"])
def test_patches_too(shortcut: str) -> None:
    model = build(
        shortcut=shortcut, dim_mult=(1, 2, 2), temperal_downsample=(False,) * 2, in_channels=64, out_channels=64,
        patch_size=4,
    )  # fmt: skip
    model.strip_bytes = 10_000
    x = torch.rand(1, 4, 80, 48) * 2 - 1
    z, y = whole(model, x)
    assert z.shape == (1, 16, 5, 3)
    torch.testing.assert_close(model.encode_raw(x), z, atol=2e-5, rtol=0)
    torch.testing.assert_close(model.decode_raw(z), y, atol=2e-5, rtol=0)


@pytest.mark.parametrize("factor", [8, 16])
def test_global_shortcuts_too(factor: int) -> None:
    stages = factor.bit_length()
    model = build(shortcut="global", dim_mult=(1, 2, 2, 4, 4)[:stages], temperal_downsample=(False,) * (stages - 1))
    model.strip_bytes = 10_000
    x = torch.rand(1, 4, 80, 48) * 2 - 1
    z, y = whole(model, x)
    torch.testing.assert_close(model.encode_raw(x), z, atol=2e-5, rtol=0)
    torch.testing.assert_close(model.decode_raw(z), y, atol=2e-5, rtol=0)


def test_strips_are_as_low_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[tuple[int, int]] = []
    window = stream._window

    def watched(held: Tensor | None, rows: Tensor, **where: object) -> Tensor:
        heights.append((rows.shape[3], rows.shape[2]))
        return window(held, rows, **where)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "_window", watched)
    model = build()
    model.strip_bytes = 16 * 64 * 24 * 4  # sixteen rows of the widest tensor at full width
    model.decode_raw(torch.randn(1, 16, 16, 4))
    assert sum(width == 64 for width, _ in heights) >= 5 * 15  # five convolutions, sixteen strips
    assert max(height for width, height in heights if width == 64) <= 40


def test_the_last_strip_leaves_no_kernel_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of an uncut stage are made one after another: whoever waits for strips holds none that is done with."""
    alive: list[weakref.ref[RowConvolution]] = []
    plain_init = RowConvolution.__init__

    def watched(self: RowConvolution, conv: nn.Conv2d) -> None:
        plain_init(self, conv)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(RowConvolution, "__init__", watched)
    stage = build().decoder.stages()[0]
    x = torch.randn(1, stage.resnets[0].conv1.in_channels, 4, 4)
    for rows, last in stream.up(stage, iter([stream.Strip(x, True)])):
        assert (rows.shape[2], last) == (8, True)
        assert len(alive) == 4
        assert not any(kernel() for kernel in alive)


def test_whoever_takes_a_strip_is_the_only_one_to_hold_it() -> None:
    """Generators far up the chain wait at `yield` while their strips are worked on: they must not keep them alive."""
    model, x = build(), torch.randn(1, 24, 12, 8).to(memory_format=torch.channels_last)
    block = ResidualBlock(24, 12)
    up, down = Upsample(24, temporal=False), Downsample(24, temporal=False)

    def strips(count: int = 3) -> stream.Strips:
        for index, rows in enumerate(x.chunk(count, dim=2)):
            yield stream.Strip(rows.clone(memory_format=torch.channels_last), index == count - 1)

    ways = {
        "convolve": stream.convolve(block.conv1, strips(), block.norm1),
        "upsample": stream.upsample(up, strips()),
        "downsample": stream.downsample(down, strips()),
        "regroup": stream.regroup(strips(1), 1, 24),
        "residual": stream.residual(block, strips()),
        "stage up": stream.up(model.decoder.stages()[-1], iter([stream.Strip(x, True)])),
    }
    for name, way in ways.items():
        count = 0
        for strip in way:
            held = weakref.ref(strip.rows)
            del strip
            assert held() is None, name
            count += 1
        assert count >= 1


@pytest.mark.parametrize("last", [False, True])
def test_kernels_made_in_passing_are_those_that_are_kept(monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    monkeypatch.setattr(winograd, "MIN_POSITIONS", 1)
    conv = nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(1, 64, 10, 8).to(memory_format=torch.channels_last)
    rows, doubled = RowConvolution(conv), winograd.DoublingConvolution(conv)
    y, z = rows(x, last=last), doubled(x, last=last)
    torch.testing.assert_close(y, F.conv2d(x, conv.weight, conv.bias, padding=(0, 1)), atol=2e-5, rtol=0)
    torch.testing.assert_close(rows(x), y, atol=0, rtol=0)
    torch.testing.assert_close(doubled(x), z, atol=0, rtol=0)


def test_half_precision_is_normalised_as_forward_does() -> None:
    model, x = build().bfloat16(), (torch.rand(1, 4, 64, 32) * 2 - 1).bfloat16()
    z, y = whole(model, x)
    model.strip_bytes = 20_000
    assert model.encode_raw(x).dtype is torch.bfloat16
    assert (model.encode_raw(x) - z).abs().mean() < 0.02 * z.abs().mean()
    assert (model.decode_raw(z) - y).abs().mean() < 0.02 * y.abs().mean()


def test_gradients_take_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    monkeypatch.setattr(tiling, "encode_strips", None)
    monkeypatch.setattr(tiling, "decode_strips", None)
    with torch.enable_grad():
        model.decode_raw(model.encode_raw(torch.rand(1, 4, 32, 32))).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "time_conv" not in n)


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: …"), MemoryError()])
def test_out_of_memory_means_smaller_strips(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    model, z, sizes = build(), torch.randn(1, 16, 2, 2), []
    strips, wanted = tiling.decode_strips, model.decode_raw(z)

    def narrow(decoder: object, z: Tensor, size: int) -> Tensor:
        sizes.append(size)
        if size > 1 << 20:
            raise error
        return strips(decoder, z, size)  # type: ignore[arg-type]

    monkeypatch.setattr(tiling, "decode_strips", narrow)
    torch.testing.assert_close(model.decode_raw(z), wanted, atol=1e-5, rtol=0)
    assert sizes == [4 << 20, 1 << 20]


def test_memory_that_never_suffices_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(tiling, "encode_strips", never)
    with pytest.raises(RuntimeError, match=r"encoding 1 of 32 x 16 pixels needs more memory than cpu has free"):
        build().encode_raw(torch.zeros(1, 4, 16, 32))


def test_other_errors_are_not_mistaken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(tiling, "encode_strips", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        build().encode_raw(torch.zeros(1, 4, 16, 32))


def test_attention_in_parts_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = build().decoder.mid_block.attentions[0]
    x = torch.randn(2, 96, 6, 7)
    monkeypatch.setattr(stream, "MAX_SCORES", 400)
    torch.testing.assert_close(stream.attend(attention, x), attention(x), atol=1e-5, rtol=0)  # type: ignore[arg-type]


def test_the_lean_kernel_is_the_kernel() -> None:
    weight = torch.randn(5, 7, 3, 3)
    kernel = winograd.lean_doubling_kernel(weight)
    torch.testing.assert_close(kernel, doubling_kernel(weight))
    assert kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_doubling_by_rows_is_doubling(dtype: torch.dtype) -> None:
    conv = nn.Conv2d(5, 7, 3, padding=1, dtype=dtype)
    x = torch.randn(2, 5, 6, 9, dtype=dtype).to(memory_format=torch.channels_last)
    wanted = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(winograd.DoublingConvolution(conv)(x), wanted[:, :, 2:-2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, 6, 17])
def test_winograd_is_a_convolution(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    conv = nn.Conv2d(96, 64, 3, padding=1)
    x = torch.randn(2, 96, rows + 2, 9).to(memory_format=torch.channels_last)
    wanted = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), 1, (0, 1))
    monkeypatch.setattr(winograd, "MIN_POSITIONS", 1)
    kernel = RowConvolution(conv)
    assert kernel.step == 4
    torch.testing.assert_close(kernel(x).double(), wanted, atol=2e-5, rtol=0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str | int]:
    """What was computed, in order: "whole", or the size of strips in bytes."""
    ways: list[str | int] = []
    strips, forward = tiling.decode_strips, Decoder.forward

    def in_strips(decoder: Decoder, z: Tensor, size: int) -> Tensor:
        ways.append(size)
        return strips(decoder, z, size)

    def at_once(decoder: Decoder, z: Tensor) -> Tensor:
        ways.append("whole")
        return forward(decoder, z)

    monkeypatch.setattr(tiling, "decode_strips", in_strips)
    monkeypatch.setattr(Decoder, "forward", at_once)
    return ways


def test_the_whole_is_computed_where_there_is_room(monkeypatch: pytest.MonkeyPatch, taken: list[str | int]) -> None:
    model, z = build(), torch.randn(1, 16, 4, 4)
    wanted = tiling.MAPS_WHOLE * 2 * 12 * 64 * 64 * 4
    pictures = []
    for memory in (wanted, wanted - 1, 1):
        monkeypatch.setattr(tiling, "room", lambda device, memory=memory: memory)
        pictures.append(model.decode_raw(z))
    assert taken == ["whole", max(tiling.SMALLEST_STRIP, (wanted - 1) // tiling.MAPS_IN_STRIPS), tiling.SMALLEST_STRIP]
    torch.testing.assert_close(pictures[1], pictures[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(pictures[2], pictures[0], atol=2e-5, rtol=0)


def test_a_whole_that_fails_for_memory_becomes_strips(monkeypatch: pytest.MonkeyPatch, taken: list[str | int]) -> None:
    model, z = build(), torch.randn(1, 16, 4, 4)
    expected = model.decode_raw(z)

    def full(decoder: Decoder, z: Tensor) -> Tensor:
        taken.append("whole")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    taken.clear()
    monkeypatch.setattr(Decoder, "forward", full)
    monkeypatch.setattr(tiling, "room", lambda device: sys.maxsize)
    torch.testing.assert_close(model.decode_raw(z), expected, atol=2e-5, rtol=0)
    assert taken[0] == "whole"
    assert len(taken) == 2


def test_a_size_by_hand_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch, taken: list[str | int]) -> None:
    model = build()
    model.strip_bytes = 123_456
    monkeypatch.setattr(tiling, "room", lambda device: sys.maxsize)
    model.decode_raw(torch.randn(1, 16, 2, 2))
    assert taken == [123_456]


@pytest.mark.parametrize("side", [1024, pytest.param(2048, marks=pytest.mark.slow)])
def test_big_pictures_have_no_seam(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    ends: list[int] = []
    assembled = tiling._assembled

    def watched(strips: stream.Strips, height: int) -> Tensor:
        def pass_on() -> stream.Strips:
            for strip in strips:
                ends.append(strip.rows.shape[2] + (ends[-1] if ends else 0))
                yield strip

        return assembled(pass_on(), height)

    monkeypatch.setattr(tiling, "_assembled", watched)
    model = build(base_dim=4, decoder_base_dim=4, dim_mult=(1, 2, 2, 4, 4)).requires_grad_(False)
    model.strip_bytes = 1 << 20
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand(1, 4, 64, 64, generator=generator) * 2 - 1, size=side, mode="bicubic").clamp(-1, 1)
    z, y = whole(model, x)
    copy = model.decode_raw(z)
    error = (copy - y).abs().clamp(max=2)
    assert (model.encode_raw(x) - z).abs().max() < 1e-4
    assert error.mean() < 1 / 255 / 100
    assert copy[:, 3].std() > 0.01
    assert error[:, 3].max() < 1e-3  # alpha as the rest; four channels near zero make a norm that magnifies
    lines = error.mean((0, 1, 3))
    seams = torch.tensor([row for end in ends[:-1] for row in (end - 1, end)])
    assert len(seams) >= 2 * 7
    assert ends[-1] == side
    elsewhere = torch.ones(side, dtype=torch.bool).index_fill(0, seams, False)
    assert lines[seams].mean() < 2 * lines[elsewhere].mean() + 1e-7  # no line stands out, wherever strips meet
    assert lines.max() < 1e-5
