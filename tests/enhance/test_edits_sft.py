"""Fine-tuning on edits with their images: a model that sees learns what only the image tells."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from fourstroke.data.sample import Caption, Record, Sample, SampleError
from fourstroke.enhance.bulk import read_triplets
from fourstroke.enhance.degrade import degrade_dataset
from fourstroke.enhance.endpoint import data_url
from fourstroke.enhance.enhancer import EnhancerWarning, PromptEnhancer, read_config
from fourstroke.enhance.images import TextImageProcessor, images_in
from fourstroke.enhance.local import EnhancerConfig, LocalModel, render
from fourstroke.enhance.protocol import EDIT, messages, unseen, write_answer
from fourstroke.enhance.small import SYSTEM_PROMPT, build_tokenizer
from fourstroke.enhance.triplet import Triplet
from fourstroke.recipe import RecipeError
from fourstroke.text.vision import image_processor
from fourstroke.train.loop import RunConfig
from fourstroke.world.caption_rules import SceneDegrader

from .conftest import TINY

pytest.importorskip("trl")
from fourstroke.train.enhance_sft import EnhanceSftRecipe, dataset, train_enhance_sft

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}
{%- if part.type == 'text' -%}{{- part.text -}}
{%- else -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="module")
def seeing() -> LocalModel:
    """A model of random weights that sees."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["name it", "so", *COLOURS, SYSTEM_PROMPT] * 4, 400)
    tokenizer.chat_template = TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    model = Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(
            image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
            **{f"{name}_token_id": value for name, value in ids.items()},
            tie_word_embeddings=True,
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 48,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 24,
                "initializer_range": 0.05,
                "layer_types": ["full_attention"] * 2,
                "tie_word_embeddings": True,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000.0,
                    "partial_rotary_factor": 1.0,
                    "mrope_section": [4, 4, 4],
                    "mrope_interleaved": True,
                },
            },
            vision_config={
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": 48,
                "num_position_embeddings": 64,
                "initializer_range": 0.1,
            },
        )
    )
    with torch.no_grad():
        model.model.visual.merger.linear_fc2.weight *= 30  # random weights look at the image, too
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LocalModel(model.eval(), tokenizer, image_processor())


@pytest.fixture
def edits(tmp_path):
    """A file of triplets whose answers only their images tell, and one without an image."""
    rows = []
    for index, (colour, rgb) in enumerate(list(COLOURS.items()) * 4):
        side = 32 * (1 + index % 2)
        Image.new("RGB", (side, 32), rgb).save(tmp_path / f"{index}.png")
        one = Triplet(short="name it", reasoning="so", rich=colour, category="General", kind="edit")
        rows.append({"id": str(index)} | one.to_dict() | {"inputs": [f"{index}.png"]})
    rows.append({"id": "w"} | Triplet(short="so it", reasoning="so", rich="so", category="General").to_dict())
    rows.append(rows[0] | {"id": "held out"})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "t.jsonl"


def _rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def _recipe(tmp_path, edits, base, **more):
    settings = EnhancerConfig(max_new_tokens=24, temperature=0.0, presence_penalty=0.0)
    defaults = {"batch_size": 6, "lr": 5e-3, "warmup": 2, "settings": settings, "held_out": 1}
    run = RunConfig(out=tmp_path / "run", steps=more.pop("steps", 2))
    return EnhanceSftRecipe(triplets=edits, base=base, run=run, **(defaults | more))


def test_the_loss_is_that_of_the_answers_behind_their_images(tmp_path, edits, seeing):
    PromptEnhancer(seeing).save_pretrained(tmp_path / "base")
    folder = train_enhance_sft(_recipe(tmp_path, edits, str(tmp_path / "base"), steps=1, lr=1e-12, batch_size=13))
    (logged,) = [row["loss"] for row in _rows(tmp_path / "run") if "loss" in row]
    tuned = PromptEnhancer.from_pretrained(folder, device="cpu")
    triplets = list(read_triplets(edits))[:-1]
    turned = [replace(t, inputs=other.inputs) for t, other in zip(triplets, triplets[1:] + triplets[:1], strict=True)]
    assert logged == pytest.approx(_loss(tuned, triplets), abs=3e-5)
    assert logged != pytest.approx(_loss(tuned, turned), abs=3e-4)
    with pytest.warns(EnhancerWarning, match="cannot be used"):  # of random weights, but it looks at the image
        tuned("name it", [Image.new("RGB", (2000, 3000), "red")])


def _loss(enhancer, triplets):
    """The mean over the tokens of all answers, each request alone."""
    local, total, count = enhancer.backend, 0.0, 0
    for t in triplets:
        urls = [data_url(Image.open(file)) for file in t.inputs]
        conversation = messages(t.short, enhancer.system_prompt, urls)
        answer = write_answer(t.rich, t.wh_ratio, t.reasoning) + local.tokenizer.eos_token
        text = render(local.tokenizer, conversation) + answer
        batch = local.processor(text=[text], images=[images_in(conversation)], return_tensors="pt")
        ids, length = batch["input_ids"][0], len(local.tokenizer(answer)["input_ids"])
        with torch.no_grad():
            logits = local.model(**{k: v for k, v in batch.items() if k != "token_type_ids"}).logits[
                0, -length - 1 : -1
            ]
        total += float(torch.nn.functional.cross_entropy(logits, ids[-length:], reduction="sum"))
        count += length
    return total / count


def test_what_sees_is_trained_too(tmp_path, edits, seeing):
    PromptEnhancer(seeing).save_pretrained(tmp_path / "base")
    folder = train_enhance_sft(_recipe(tmp_path, edits, str(tmp_path / "base"), steps=2))
    before, after = (load_file(path / "model.safetensors") for path in (tmp_path / "base", folder))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("patch_embed" in name for name in moved)
    assert any("layers.0" in name for name in moved)


def test_a_model_that_sees_nothing_says_so_and_trains_on_the_words(tmp_path, edits, capsys):
    folder = train_enhance_sft(_recipe(tmp_path, edits, None, model=TINY, steps=1))
    assert "the images of 12 edits are left out: this model sees none" in capsys.readouterr().out
    assert read_config(folder).edits


def test_edits_that_are_not_seen_say_that_they_are_edits(edits, seeing, enhancer):
    seen = list(read_triplets(edits))
    blind = [replace(t, inputs=()) for t in seen]
    asked = dataset(blind, enhancer.backend, "s", 400)["prompt"]
    assert [unseen("name it") in prompt for prompt in asked] == [t.kind == "edit" for t in blind]
    assert not any(EDIT in row["prompt"] for row in dataset(seen, seeing, "s", 400))
    assert not EnhancerConfig().edits


def test_edits_whose_images_are_gone_are_left_out_and_told(tmp_path, edits, seeing, capsys):
    (tmp_path / "0.png").unlink()
    triplets = list(read_triplets(edits))
    found = dataset(triplets, seeing, "s", 400)
    assert len(found) == len(triplets) - 2
    assert "2 edits are left out" in capsys.readouterr().out
    assert [image.size for image in found[0]["images"]] == [(64, 32)]
    assert found[0]["prompt"].count("<|image_pad|>") == 1
    assert found[0]["completion"].endswith(seeing.tokenizer.eos_token)
    with pytest.raises(RecipeError, match="at most 3 tokens"):
        dataset(triplets, seeing, "s", 3)


def _plain(file):
    return [
        json.dumps({k: v for k, v in json.loads(line).items() if k != "id"}) for line in file.read_text().splitlines()
    ]


class Edits:
    """A dataset of two edits, each from two images; the third cannot be used."""

    name = "edits"

    def __len__(self):
        return 3

    def record(self, index):
        if index == 2:
            raise SampleError("gone")
        captions = (Caption("Make it red. Keep the rest."),)
        return Record(name=str(index), size=(4, 4), captions=captions, inputs=((3, 2), (2, 2)))

    def sample(self, index):
        inputs = tuple(np.full((height, width, 4), 100 + index, np.uint8) for width, height in ((3, 2), (2, 2)))
        return Sample(record=self.record(index), image=np.zeros((4, 4, 4), np.uint8), inputs=inputs)


def test_edits_of_a_dataset_have_their_images_written(tmp_path):
    first, second = degrade_dataset(Edits(), SceneDegrader(), images=tmp_path / "in")
    assert (first.kind, first.short, first.rich) == ("edit", "Make it red", "Make it red. Keep the rest.")
    images = [Image.open(file) for file in second.inputs]
    assert [image.size for image in images] == [(3, 2), (2, 2)]
    assert images[0].getpixel((0, 0)) == (101,) * 4
    assert not set(first.inputs) & set(second.inputs)
    assert [t.inputs for t in degrade_dataset(Edits(), SceneDegrader(), 1)] == [()]


def test_placeholders_stand_for_as_many_tokens_as_their_images_have(seeing):
    processor = TextImageProcessor(seeing.tokenizer, image_processor())
    images = [[Image.new("RGB", (64, 32))], [], [Image.new("RGBA", (32, 32)), Image.new("RGB", (32, 96))]]
    texts = ["a<|image_pad|>", "b", "<|image_pad|>c<|image_pad|>"]
    batch = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [2, 0, 4]
    assert batch["mm_token_type_ids"].sum(1).tolist() == [2, 0, 4]
    assert batch["image_grid_thw"].tolist() == [[1, 2, 4], [1, 2, 2], [1, 6, 2]]
    assert "pixel_values" not in processor(text=["b"], images=[[]])
    for text in ("a", "<|image_pad|><|image_pad|>"):
        with pytest.raises(ValueError, match="placeholder"):
            processor(text=[text], images=[[Image.new("RGB", (32, 32))]])
