"""Features against transformers run the way the 2.1 pipeline runs it: left padding, mask, output before the norm."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from PIL import Image

from fourstroke.checkpoint import CheckpointError
from fourstroke.text import PromptTooLong, SmallTextConfig, TextEncoder, build_text_encoder, train_tokenizer
from fourstroke.text.templates import SYSTEM_TURN, chat, transparent
from fourstroke.text.vision import over_white, patchify

from ..processor import Processor

PROMPTS = ["a red cat", 'A large green house beside a sign that says "OPEN", soft light from the left.', ""]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(PROMPTS * 4, 640)
    config = SmallTextConfig(
        hidden_size=48, num_heads=3, head_dim=16, num_kv_heads=1, intermediate_size=96, max_tokens=60
    )
    encoder = build_text_encoder(config, tokenizer)
    for name, parameter in encoder.named_parameters():  # make every part count
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return encoder


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.effect_mandelbrot((width, height), (-3, -2.5, 2, 2.5), 20).convert(mode)


def reference(encoder: TextEncoder, texts: list[str], images: list[Image.Image]) -> list[torch.Tensor]:
    """Rows of unpadded features, by transformers alone."""
    batch = encoder.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    extra: dict[str, torch.Tensor] = {}
    if images:
        inputs = encoder.image_processor(images=images, return_tensors="pt")
        extra = {**inputs, "mm_token_type_ids": (ids == encoder.image_token_id).int()}
    inner = encoder.model.model.language_model
    caught: list[torch.Tensor] = []
    hook = inner.norm.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        encoder.model(input_ids=ids, attention_mask=mask, **extra)
    hook.remove()
    drop = len(encoder.tokenizer(SYSTEM_TURN)["input_ids"])
    return [row[keep.bool()][drop:] for row, keep in zip(caught[0], mask)]


@pytest.mark.parametrize("sizes", [[], [(96, 64)], [(64, 32), (32, 96)]])
def test_features_equal_the_oracle_and_each_row_alone(encoder: TextEncoder, sizes: list[tuple[int, int]]) -> None:
    images = [picture(*size) for size in sizes]
    slots = [width * height // 1024 for width, height in sizes]
    out = encoder.encode(PROMPTS, [images] * len(PROMPTS) if images else None)
    expected = reference(encoder, [chat(prompt, slots) for prompt in PROMPTS], images * len(PROMPTS))
    assert out.lengths.tolist() == [len(row) for row in expected]
    if images:
        assert out.slots is not None
        assert out.slots.sum(1).tolist() == [sum(slots)] * len(PROMPTS)
    else:
        assert out.slots is None
    for index, (prompt, row) in enumerate(zip(PROMPTS, expected)):
        length = len(row)
        torch.testing.assert_close(out.features[index, :length], row, atol=3e-5, rtol=1e-5)
        assert not out.features[index, length:].any()
        alone = encoder.encode([prompt], [images] if images else None)
        torch.testing.assert_close(out.features[index, :length], alone.features[0], atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[], [(64, 32), (32, 96)]])
def test_features_equal_those_of_the_2_1_pipeline(encoder: TextEncoder, sizes: list[tuple[int, int]]) -> None:
    pipelines = pytest.importorskip("diffusers.pipelines.qwenimage21.pipeline_qwenimage21")
    pipeline = pipelines.QwenImage21Pipeline(
        scheduler=None, vae=None, text_encoder=encoder.model, processor=Processor(encoder), transformer=None
    )
    images = [picture(*size, "RGBA") for size in sizes]
    with torch.no_grad():
        features, mask, slots = pipeline._get_qwen_prompt_embeds(PROMPTS, images or None, torch.device("cpu"))
    out = encoder.encode(PROMPTS, [images] * len(PROMPTS) if images else None)
    torch.testing.assert_close(out.features, features, atol=3e-5, rtol=1e-5)
    assert out.lengths.tolist() == mask.sum(1).tolist()
    assert torch.equal(slots.bool(), torch.zeros_like(slots).bool() if out.slots is None else out.slots)


def test_features_are_taken_before_the_final_norm(encoder: TextEncoder) -> None:
    before = encoder.encode(PROMPTS[:1]).features
    norm = encoder.model.model.language_model.norm
    with torch.no_grad():
        norm.weight.mul_(3)
    torch.testing.assert_close(encoder.encode(PROMPTS[:1]).features, before, atol=0, rtol=0)
    with torch.no_grad():
        norm.weight.div_(3)


def test_rows_may_have_different_images(encoder: TextEncoder) -> None:
    rows = [[picture(64, 64)], [], [picture(32, 32), picture(96, 32)]]
    out = encoder.encode(PROMPTS, rows)
    assert out.slots.sum(1).tolist() == [4, 0, 4]
    for index, prompt in enumerate(PROMPTS):
        alone = encoder.encode([prompt], [rows[index]]).features[0]
        torch.testing.assert_close(out.features[index, : len(alone)], alone, atol=3e-5, rtol=1e-5)


def test_image_sizes_that_do_not_give_whole_slots_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        encoder.encode(["x"], [[picture(100, 64)]])
    strict = build_text_encoder(SmallTextConfig(min_pixels=65536), encoder.tokenizer)
    with pytest.raises(ValueError, match="65536"):
        strict.encode(["x"], [[picture(96, 96)]])


def test_transparent_images_are_laid_over_white(encoder: TextEncoder) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    pixels, grid = patchify([clear], encoder.image_processor)
    assert over_white(clear).getpixel((0, 0)) == (255, 255, 255)
    assert grid.tolist() == [[1, 2, 2]]
    torch.testing.assert_close(pixels, torch.ones(4, 1536))


def test_patches_are_the_processors_in_little_memory(encoder: TextEncoder) -> None:
    images = [picture(1024, 768), picture(64, 96)]
    tracemalloc.start()
    pixels, grid = patchify(images, encoder.image_processor, torch.bfloat16)
    peak = tracemalloc.get_traced_memory()[1]  # of numpy's arrays
    tracemalloc.stop()
    wanted = encoder.image_processor(images=images, return_tensors="pt")
    assert torch.equal(grid, wanted["image_grid_thw"])
    assert torch.equal(pixels, wanted["pixel_values"].bfloat16())
    assert peak < 0.4 * wanted["pixel_values"].nbytes


def test_long_prompts_are_refused_not_cut(encoder: TextEncoder) -> None:
    encoder.encode(["z" * 60])
    with pytest.raises(PromptTooLong, match="61 tokens and the limit is 60: shorten"):
        encoder.encode(["fine", "z" * 61])
    encoder.encode(["z" * 60], [[picture(256, 256)]])  # vision slots do not count as prompt


def test_prompts_that_are_no_valid_text_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="the prompt is not valid Unicode: character 3 is a lone surrogate"):
        encoder.encode(["a cat", "a \ud83d cat"])


def test_prompts_cannot_pretend_to_hold_images(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="image_pad"):
        encoder.encode(["a <|image_pad|> cat"])
    with pytest.raises(ValueError, match="one list for each prompt"):
        encoder.encode(["a", "b"], [[]])
    with pytest.raises(ValueError, match="list"):
        encoder.encode("a cat")


def test_frozen_means_no_gradient_and_trainable_opens_all_that_counts(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(PROMPTS, [[picture(64, 64)]] * 3)
    assert not encoder.training
    assert not encoder(tokens).features.requires_grad
    encoder.trainable()
    try:
        assert not encoder.encode(PROMPTS).features.requires_grad
        encoder(tokens).features.square().mean().backward()
        opened = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
        assert [name for name, p in opened.items() if p.grad is None] == []
        assert {name for name, _ in encoder.named_parameters()} - opened.keys() == {
            "model.model.language_model.norm.weight"
        }
    finally:
        encoder.zero_grad()
        encoder.trainable(False)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_save_and_load_give_the_same_features(encoder: TextEncoder, tmp_path: Path) -> None:
    folders = tmp_path / "text_encoder", tmp_path / "processor"
    images = [[picture(64, 64, "RGBA")]] * 3
    encoder.save_pretrained(*folders)
    loaded = TextEncoder.from_pretrained(*folders, max_tokens=60)
    torch.testing.assert_close(
        loaded.encode(PROMPTS, images).features, encoder.encode(PROMPTS, images).features, atol=0, rtol=0
    )
    half = TextEncoder.from_pretrained(*folders, dtype=torch.bfloat16).encode(PROMPTS, images).features
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()
    turn = [{"role": "system", "content": [{"type": "text", "text": "Comprehend and analyze the provided prompt."}]}]
    assert loaded.tokenizer.apply_chat_template(turn, tokenize=False) == SYSTEM_TURN
    user = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "hi"}]
    rendered = loaded.tokenizer.apply_chat_template(
        [*turn, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == chat("hi", [1, 1])

    weights = folders[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="restore"):
        TextEncoder.from_pretrained(*folders)
    weights.unlink()
    with pytest.raises(CheckpointError):
        TextEncoder.from_pretrained(*folders)
    with pytest.raises(CheckpointError, match="missing"):
        TextEncoder.from_pretrained(tmp_path / "nowhere", folders[1])


def test_templates_say_what_the_checkpoint_expects() -> None:
    system = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    assert chat("a {cat}") == f"{system}<|im_start|>user\na {{cat}}<|im_end|>\n<|im_start|>assistant\n"
    assert f"user\n<image1>{vision} <image2>{vision}go<|im_end|>" in chat("go", [1, 1])
    assert chat("") == chat(" ")
    assert transparent("A red kite. ") == (
        "This is an RGBA image with transparency. A red kite. "
        "The image has alpha channel and the background is transparent."
    )


def test_torchvision_is_not_needed() -> None:
    code = "import sys; sys.modules['torchvision'] = None; import fourstroke.text as t; t.TextEncoder"
    code += "; assert not any(name.startswith('torchvision.') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)
