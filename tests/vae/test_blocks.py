"""Shortcuts, stages and the exact rewritings of norm, downsampling and upsampling."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fourstroke.vae.blocks import (
    Attention,
    ChannelRMSNorm,
    ChannelToSpace,
    Downsample,
    DownStage,
    SpaceToChannel,
    Upsample,
    UpStage,
    resample_channels,
)


@torch.no_grad()
def silence(module: nn.Module) -> None:
    """Zero every convolution that ends a main path, so that only shortcuts remain."""
    for name, parameter in module.named_parameters():
        if "sampler" in name or "conv2" in name:
            parameter.zero_()


@pytest.mark.parametrize("widths", [(4, 4), (4, 8), (4, 16), (8, 4)])
def test_silent_stage_down_is_its_shortcut(widths: tuple[int, int]) -> None:
    stage = DownStage(*widths, blocks=1, halve=True, temporal=False, shortcut=True)
    silence(stage)
    x = torch.randn(2, widths[0], 6, 10)
    expected = resample_channels(F.pixel_unshuffle(x, 2), widths[1])
    torch.testing.assert_close(stage(x), expected)
    assert stage(x).shape == (2, widths[1], 3, 5)


@pytest.mark.parametrize("widths", [(4, 4), (8, 4), (16, 4)])
def test_silent_stage_up_is_its_shortcut(widths: tuple[int, int]) -> None:
    stage = UpStage(*widths, blocks=2, double=True, temporal=False, shortcut=True)
    silence(stage)
    x = torch.randn(2, widths[0], 3, 5)
    expected = F.pixel_shuffle(x.repeat_interleave(4 * widths[1] // widths[0], dim=1), 2)
    torch.testing.assert_close(stage(x), expected, atol=0, rtol=0)


def test_stages_without_shortcut_are_silent() -> None:
    down = DownStage(4, 8, blocks=1, halve=True, temporal=False, shortcut=False)
    up = UpStage(8, 4, blocks=1, double=True, temporal=False, shortcut=False)
    silence(down)
    silence(up)
    assert not down(torch.randn(1, 4, 4, 4)).any()
    assert not up(torch.randn(1, 8, 4, 4)).any()


def test_last_stages_keep_the_size() -> None:
    x = torch.randn(1, 4, 5, 7)
    down = DownStage(4, 4, blocks=1, halve=False, temporal=False, shortcut=True)
    silence(down)
    torch.testing.assert_close(down(x), 2 * x)  # the residual block's own path and the shortcut
    assert UpStage(4, 2, blocks=1, double=False, temporal=False, shortcut=True)(x).shape == (1, 2, 5, 7)


def test_going_up_undoes_going_down_where_nothing_is_averaged() -> None:
    x = torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(ChannelToSpace(48, 3, 4)(SpaceToChannel(3, 48, 4)(x)), x, atol=0, rtol=0)


def test_shortcuts_of_constant_pictures_are_constant() -> None:
    x = torch.full((1, 4, 32, 32), 0.25)
    torch.testing.assert_close(SpaceToChannel(4, 768, 16)(x), torch.full((1, 768, 2, 2), 0.25))
    torch.testing.assert_close(ChannelToSpace(192, 24, 16)(torch.ones(1, 192, 2, 2)), torch.ones(1, 24, 32, 32))


def test_empty_first_frame() -> None:
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert SpaceToChannel(2, 4, 2, frames=2)(x).flatten().tolist() == [0, 1.5, 0, 5.5]
    assert SpaceToChannel(2, 2, 2, frames=2)(x).flatten().tolist() == [0.75, 2.75]
    y = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)
    assert ChannelToSpace(4, 2, 2, frames=2)(y).flatten().tolist() == [2] * 4 + [4] * 4


@pytest.mark.parametrize("expected", [[1.0, 5], [0.0, 0, 2, 2, 4, 4, 6, 6], [0.5, 3, 5.5]])
def test_resample_channels(expected: list[float]) -> None:
    x = torch.tensor([0.0, 2, 4, 6]).view(1, 4, 1, 1)
    torch.testing.assert_close(resample_channels(x, len(expected)).flatten(), torch.tensor(expected))


def test_impossible_shortcuts_are_refused() -> None:
    with pytest.raises(ValueError, match="from width 4 to 8"):
        ChannelToSpace(4, 8, 2)
    with pytest.raises(ValueError, match="from width 4 to 6"):
        SpaceToChannel(4, 6, 2, frames=2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_samplers_equal_their_plain_form(layout: torch.memory_format) -> None:
    x = torch.randn(2, 6, 8, 10).to(memory_format=layout)
    up, down = Upsample(6, temporal=False), Downsample(6, temporal=True)
    conv = up.resample["1"]
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(up(x), plain)
    conv = down.resample["1"]
    plain = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(down(x), plain)
    assert not down.time_conv.weight.requires_grad


def test_norm_is_unit_root_mean_square() -> None:
    norm = ChannelRMSNorm(8)
    x = torch.randn(2, 8, 3, 4) * 5
    torch.testing.assert_close(norm(x).square().mean(1), torch.ones(2, 3, 4))
    assert not norm(torch.zeros_like(x)).any()
    assert norm.bfloat16()(x.bfloat16()).dtype is torch.bfloat16
    assert norm.gamma.shape == (8, 1, 1, 1)


def test_attention_sees_the_whole_picture() -> None:
    attention = Attention(8)
    x = torch.randn(1, 8, 4, 6, requires_grad=True)
    attention(x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(1) > 0).all()
