"""The joint sequence, by hand."""

from __future__ import annotations

import pytest
import torch

from fourstroke.dit import Layout

SLOTS = torch.tensor([0, 1, 1, 0, 0, 0]).bool()
TWO_SLOTS = torch.stack((SLOTS, SLOTS.roll(1)))


def test_text_only_positions_by_hand():
    layout = Layout.build([3], (2, 3))
    assert layout.key_mask is None
    assert layout.target == slice(3, 9)
    expected = [[p] * 3 for p in range(3)] + [[3, row, column] for row in (-1, 0) for column in (-2, -1, 0)]
    assert layout.positions[0].tolist() == expected


def test_an_image_freezes_the_frame_and_then_counts_its_longer_side():
    layout = Layout.build([6], (2, 2), SLOTS, [(2, 4)])
    frames = layout.positions[0, :, 0].tolist()
    assert frames == [0, *[1] * 8, 5, 6, 7, *[8] * 4]
    assert layout.positions[0, 1:9, 2].tolist() == [-2, -1, 0, 1] * 2


def test_padding_takes_no_positions_and_is_masked():
    layout = Layout.build(torch.tensor([6, 4]), (2, 2), SLOTS[None].expand(2, -1), [(2, 4)])
    assert layout.target_positions[:, 0, 0].tolist() == [8, 6]
    assert layout.key_mask is not None
    assert layout.key_mask[:, 0, 0].int().tolist() == [[1] * 16, [1] * 10 + [0, 0] + [1] * 4]


def test_a_fixed_width_changes_nothing_but_the_padding():
    layout = Layout.build([3, 3], (2, 2), text_tokens=5)
    assert layout.target_positions.shape == (1, 4, 3)
    assert layout.target_positions[0, 0, 0] == 3
    assert layout.key_mask is not None
    assert (~layout.key_mask).sum() == 4


def test_join_puts_image_tokens_at_their_slots():
    layout = Layout.build([6], (2, 2), SLOTS, [(2, 4)])
    joined = layout.join(torch.arange(6.0)[None, :, None], 10 + torch.arange(8.0)[None, :, None])
    assert joined[0, :, 0].tolist() == [0, *range(10, 18), 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_lengths": [], "grid": (2, 2)}, "text lengths"),
        ({"text_lengths": [0], "grid": (2, 2)}, "some text"),
        ({"text_lengths": [9], "grid": (2, 2), "text_tokens": 8}, "do not fit"),
        ({"text_lengths": [3], "grid": (0, 2)}, "target grid"),
        ({"text_lengths": [6], "grid": (2, 2), "image_grids": [(2, 4)]}, "found 0"),
        ({"text_lengths": [6], "grid": (2, 2), "slots": SLOTS}, "found 2"),
        ({"text_lengths": [6], "grid": (2, 2), "slots": SLOTS, "image_grids": [(3, 3)]}, "multiple"),
        ({"text_lengths": [6, 2], "grid": (2, 2), "slots": SLOTS, "image_grids": [(2, 4)]}, "padding"),
        ({"text_lengths": [6], "grid": (2, 2), "slots": SLOTS.roll(1) ^ SLOTS, "image_grids": [(2, 4)]}, "interrupted"),
        (
            {
                "text_lengths": [6, 6],
                "grid": (2, 2),
                "slots": TWO_SLOTS,
                "image_grids": [(2, 4)],
            },
            "differ",
        ),
    ],
)
def test_impossible_layouts_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout.build(**arguments)
