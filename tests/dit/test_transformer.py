"""The transformer against the diffusers implementation, and against itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fourstroke.checkpoint import CheckpointError
from fourstroke.dit import Layout, Transformer, TransformerConfig

CONFIG = TransformerConfig(
    num_layers=3, attention_head_dim=16, num_attention_heads=4, context_in_dim=24, in_channels=8, out_channels=8,
    axes_dims_rope=(4, 6, 6),
)  # fmt: skip
CASES = {
    "text": ((2, 2), (), [9]),
    "tall": ((6, 2), (), [7, 3, 5]),
    "one image": ((4, 4), ((2, 4),), [12, 9]),
    "two images side by side": ((2, 6), ((4, 2), (2, 2)), [10, 10]),
    "three images": ((6, 6), ((2, 2), (4, 6), (6, 2)), [19, 23, 20]),
}


def make_oracle(config: TransformerConfig = CONFIG):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    oracle = diffusers.QwenImage21Transformer2DModel(**dataclasses.asdict(config)).eval()
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    return oracle


def make_ours(config: TransformerConfig = CONFIG) -> Transformer:
    torch.manual_seed(1)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    return model


def make_batch(grid, image_grids, lengths, side_by_side=False):
    """Inputs of a batch; images stand after two text tokens, with one between them or none."""
    torch.manual_seed(2)
    slots = torch.zeros(max(lengths), dtype=torch.bool)
    cursor = 2
    for h, w in image_grids:
        slots[cursor : cursor + h * w // 4] = True
        cursor += h * w // 4 + (0 if side_by_side else 1)
    batch = len(lengths)
    x_t = torch.randn(batch, grid[0] * grid[1], 8)
    t = torch.rand(batch)
    text = torch.randn(batch, max(lengths), 24) * 3
    images = torch.randn(batch, sum(h * w for h, w in image_grids), 8) if image_grids else None
    return x_t, t, text, slots, images


def ask_oracle(oracle, x_t, t, text, grid, image_grids, slots, images, length):
    """The oracle alone on one unpadded sample."""
    slots = torch.cat((slots[:length], torch.ones(grid[0] * grid[1] // 4, dtype=torch.bool)))
    latents = x_t if images is None else torch.cat((images, x_t), 1)
    shapes = [[(1, h, w) for h, w in (*image_grids, grid)]]
    out = oracle(latents, text[:, :length], t, shapes, slots[None], return_dict=False)[0]
    return out[:, -x_t.shape[1] :]


def rows(value, index):
    return None if value is None else value[index : index + 1]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_each_row_of_a_padded_batch_equals_the_oracle_alone(case, tmp_path):
    grid, image_grids, lengths = CASES[case]
    oracle = make_oracle()
    oracle.save_pretrained(tmp_path)
    model = Transformer.from_pretrained(tmp_path)
    x_t, t, text, slots, images = make_batch(grid, image_grids, lengths, "side" in case)
    layout = Layout.build(lengths, grid, slots, image_grids)
    together = model(x_t, t, text, layout, images)
    cached = model.denoise(x_t, t, model.prefill(text, layout, images))
    torch.testing.assert_close(cached, together, rtol=1e-5, atol=1e-5)
    for i, length in enumerate(lengths):
        expected = ask_oracle(
            oracle, x_t[i : i + 1], t[i : i + 1], text[i : i + 1], grid, image_grids, slots, rows(images, i), length
        )
        assert expected.std() > 0.1
        torch.testing.assert_close(together[i : i + 1], expected, rtol=1e-4, atol=1e-4)
        alone = model(x_t[i : i + 1], t[i : i + 1], text[i : i + 1, :length],
                      Layout.build([length], grid, slots[:length], image_grids), rows(images, i))  # fmt: skip
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_first_step_leaves_the_prefix_and_runs_every_block_once(case):
    grid, image_grids, lengths = CASES[case]
    model, runs = make_ours(), []
    x_t, t, text, slots, images = make_batch(grid, image_grids, lengths, "side" in case)
    layout = Layout.build(lengths, grid, slots, image_grids)
    expected = model.prefill(text, layout, images)
    velocity = model.denoise(x_t, t, expected)
    for block in model.transformer_blocks:
        block.register_forward_hook(lambda block, *_: runs.append(block))
    first, cache = model.first_step(x_t, t, text, layout, images)
    assert runs == [*model.transformer_blocks]
    torch.testing.assert_close(first, velocity, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache.layers, expected.layers, rtol=1e-5, atol=1e-5)
    assert all(layer.keys.untyped_storage().nbytes() == layer.keys.nbytes for layer in cache.layers)
    later = model.denoise(x_t - 0.1 * first, 0.9 * t, cache)
    torch.testing.assert_close(later, model.denoise(x_t - 0.1 * first, 0.9 * t, expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["tall", "three images"])
@torch.no_grad()
def test_fully_joint_equals_the_oracle_with_its_causal_mask_removed(case, monkeypatch):
    # The oracle stays block-causal without causal_condition. Without segments its last call, "the target sees
    # everything", covers the whole sequence: the joint attention of the 2.0 report.
    module = pytest.importorskip("diffusers.models.transformers.transformer_qwenimage21")
    monkeypatch.setattr(module, "_qwenimage21_prefix_segments", lambda ids, prefix: [])
    grid, image_grids, lengths = CASES[case]
    config = dataclasses.replace(CONFIG, causal_condition=False)
    oracle, model = make_oracle(config), Transformer(config)
    model.load_state_dict(oracle.state_dict())
    x_t, t, text, slots, images = make_batch(grid, image_grids, lengths)
    together = model(x_t, t, text, Layout.build(lengths, grid, slots, image_grids), images)
    for i, length in enumerate(lengths):
        expected = ask_oracle(
            oracle, x_t[i : i + 1], t[i : i + 1], text[i : i + 1], grid, image_grids, slots, rows(images, i), length
        )
        torch.testing.assert_close(together[i : i + 1], expected, rtol=1e-4, atol=1e-4)


def test_prefill_needs_causal_condition():
    model = Transformer(dataclasses.replace(CONFIG, causal_condition=False))
    with pytest.raises(ValueError, match="causal_condition"):
        model.prefill(torch.randn(1, 3, 24), Layout.build([3], (2, 2)))
    with pytest.raises(ValueError, match="causal_condition=False"):
        model.first_step(torch.randn(1, 4, 64), torch.rand(1), torch.randn(1, 3, 24), Layout.build([3], (2, 2)))


@torch.no_grad()
def test_our_weights_load_in_diffusers_and_agree(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    model = make_ours()
    model.save_pretrained(tmp_path / "transformer")
    oracle = diffusers.QwenImage21Transformer2DModel.from_pretrained(tmp_path, subfolder="transformer")
    x_t, t, text, slots, _ = make_batch((4, 2), (), [6])
    expected = ask_oracle(oracle, x_t, t, text, (4, 2), (), slots, None, 6)
    torch.testing.assert_close(model(x_t, t, text, Layout.build([6], (4, 2))), expected, rtol=1e-4, atol=1e-4)


def test_full_size_has_the_parameters_of_the_open_weights():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model, oracle = Transformer(TransformerConfig()), diffusers.QwenImage21Transformer2DModel()
    assert sum(p.numel() for p in model.parameters()) == 7_115_124_736
    shapes, expected = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, oracle))
    assert shapes == expected


@pytest.mark.parametrize("image_grids", [(), ((2, 4),)])
def test_gradients_through_a_repeated_prefix_equal_those_of_forward(image_grids):
    lengths, grid, n = [9, 6], (2, 3), 3
    model = make_ours()
    _, _, text, slots, images = make_batch(grid, image_grids, lengths)
    layout = Layout.build(lengths, grid, slots, image_grids)
    x_t, t = torch.randn(6, 6, 8), torch.rand(6)

    def gradients(loss):
        return torch.autograd.grad(loss, [*model.parameters(), text])

    text.requires_grad_()
    reused = model.denoise(x_t, t, model.prefill(text, layout, images).repeat(n))
    wide = Layout.build([9] * n + [6] * n, grid, slots, image_grids)
    again = None if images is None else images.repeat_interleave(n, 0)
    plain = model(x_t, t, text.repeat_interleave(n, 0), wide, again)
    torch.testing.assert_close(reused, plain, rtol=1e-5, atol=1e-5)
    model.gradient_checkpointing = True
    recomputed = model.denoise(x_t, t, model.prefill(text, layout, images).repeat(n))
    for a, b, c in zip(*(gradients(v.square().mean()) for v in (reused, plain, recomputed))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a, c, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_one_time_for_all_rows_is_embedded_once(monkeypatch):
    model = make_ours()
    x_t, _, text, slots, _ = make_batch((2, 2), (), [9, 6, 7])
    cache = model.prefill(text, Layout.build([9, 6, 7], (2, 2), slots))
    expected = model.denoise(x_t, torch.tensor([0.3, 0.3, 0.3]), cache)
    seen, real = [], model.time_text_embed.forward
    monkeypatch.setattr(model.time_text_embed, "forward", lambda t, dtype: (seen.append(len(t)), real(t, dtype))[1])
    torch.testing.assert_close(model.denoise(x_t, torch.tensor(0.3).expand(3), cache), expected, rtol=1e-5, atol=1e-5)
    model.denoise(x_t, torch.tensor([0.3, 0.2, 0.3]), cache)
    assert seen == [1, 3]


def test_padding_and_slot_features_have_no_effect():
    model = make_ours()
    x_t, t, text, slots, images = make_batch((2, 2), ((2, 4),), [9, 6])
    layout = Layout.build([9, 6], (2, 2), slots, ((2, 4),))
    other = text.clone()
    other[1, 6:] = 1e3
    other[:, slots] = -50
    wider = torch.cat((other, torch.randn(2, 4, 24)), dim=1)
    torch.testing.assert_close(
        model(x_t, t, wider, layout, images), model(x_t, t, text, layout, images), rtol=0, atol=0
    )


def test_a_tiny_transformer_learns():
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    x_t, t, text, _, _ = make_batch((3, 3), (), [6, 4, 5, 6])
    layout = Layout.build([6, 4, 5, 6], (3, 3))
    goal = torch.randn_like(x_t)
    assert model(x_t, t, text, layout).abs().max() == 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model(x_t, t, text, layout) - goal).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_forward_compiles_as_one_graph():
    model = make_ours()
    x_t, t, text, slots, images = make_batch((2, 2), ((2, 4),), [9, 6])
    layout = Layout.build([9, 6], (2, 2), slots, ((2, 4),))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x_t, t, text, layout, images), model(x_t, t, text, layout, images))


@torch.no_grad()
def test_bfloat16_stays_near_float32():
    model = make_ours()
    x_t, t, text, slots, images = make_batch((4, 4), ((2, 4),), [9, 6])
    layout = Layout.build([9, 6], (4, 4), slots, ((2, 4),))
    expected = model(x_t, t, text, layout, images)
    got = model.bfloat16()(x_t.bfloat16(), t, text.bfloat16(), layout, images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() < 0.1 * expected.norm()


def test_wrong_shapes_say_what_was_expected():
    model = Transformer(CONFIG)
    x_t, t, text, slots, images = make_batch((2, 2), ((2, 4),), [9, 6])
    layout = Layout.build([9, 6], (2, 2), slots, ((2, 4),))
    with pytest.raises(ValueError, match="images have 0 tokens"):
        model(x_t, t, text, layout)
    with pytest.raises(ValueError, match="text is"):
        model(x_t, t, text[:, :5], layout, images)
    with pytest.raises(ValueError, match="x_t is"):
        model(x_t[:, :3], t, text, layout, images)


def test_fresh_gates_are_open_at_every_time():
    model = Transformer(dataclasses.replace(CONFIG, num_attention_heads=16))
    gates = model.modulation(model.time_text_embed(torch.linspace(0, 1, 21), torch.float32)).unflatten(1, (4, -1))
    assert (gates[:, 1::2].tanh() > 0.4).all()
    assert gates[:, 0::2].abs().max() < 0.6


@pytest.mark.parametrize("damage", ["truncate", "shape", "missing", "unknown key", "config"])
def test_damaged_folders_are_refused(tmp_path, damage):
    from safetensors.torch import load_file, save_file

    Transformer(CONFIG).save_pretrained(tmp_path)
    weights, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    tensors = load_file(weights)
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "shape":
        save_file({**tensors, "proj_out.weight": torch.zeros(3, 3)}, weights)
    elif damage == "missing":
        save_file({k: v for k, v in tensors.items() if k != "img_in.weight"}, weights)
    elif damage == "unknown key":
        config.write_text(config.read_text().replace("{", '{"guidance_embeds": true,', 1))
    else:
        config.write_text(config.read_text().replace('"attention_head_dim": 16', '"attention_head_dim": 18'))
    with pytest.raises(CheckpointError):
        Transformer.from_pretrained(tmp_path)
