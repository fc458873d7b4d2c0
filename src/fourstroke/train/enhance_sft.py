"""Supervised fine-tuning of the prompt enhancer on triplets (short prompt, reasoning, rich caption).

Qwen-Image-2.0 report, prompt enhancer: next-token loss on the thoughts and the answer, not on the request. TRL's
`SFTTrainer`; a model from the hub or a folder, whole or with LoRA (PEFT), or a small one from nothing. Triplets come
from a dataset whose captions are taken apart by rules, from a file of `fourstroke data degrade`, or from both. Those of
edits are seen with their images where the base sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from fourstroke.data.sample import Data
from fourstroke.enhance import protocol
from fourstroke.enhance.bulk import read_triplets
from fourstroke.enhance.checks import Lexicon, words_of
from fourstroke.enhance.degrade import degrade_dataset
from fourstroke.enhance.endpoint import as_sent, data_url
from fourstroke.enhance.enhancer import PromptEnhancer, read_config, read_system_prompt
from fourstroke.enhance.images import load_image_processor
from fourstroke.enhance.local import EnhancerConfig, LocalModel, render
from fourstroke.enhance.measure import answers, rewrites, text_scores
from fourstroke.enhance.small import SYSTEM_PROMPT, SmallEnhancerConfig, build_model, build_tokenizer, sizes
from fourstroke.enhance.triplet import Rules, Triplet
from fourstroke.files import atomic_folder, user_path
from fourstroke.image_io import open_image
from fourstroke.parallel.mesh import require_one_process
from fourstroke.pretrained import load_fitting, readable
from fourstroke.ranges import Count, Decay, Natural, NonNegative, check_ranges
from fourstroke.recipe import RecipeError, agree, resolved
from fourstroke.train.loop import RunConfig
from fourstroke.train.optimizer import CombinedOptimizer, OptimizerConfig, build_optimizers
from fourstroke.train.trl_stage import (
    LoraSettings,
    RunCallback,
    arguments,
    finish,
    import_trl,
    refuse_accumulate,
    show,
    started,
)

if TYPE_CHECKING:
    from datasets import Dataset

TOKENIZER_TRIPLETS = 4000
"""Enough texts for a vocabulary of a drawn world."""


@dataclass(frozen=True, kw_only=True)
class EnhanceSftRecipe:
    """Every number of a fine-tuning.

    `base` is a hub id or a folder; without one a model of the sizes `model` is built (None: micro's), and beside one
    `model`, if it is given, must agree with it. Triplets come from the samples of `data`, taken apart by `rules`, and
    from the file `triplets`. A step sees `batch_size * accumulate` of them. Held-out ones come from the held-out split
    of the data, or, without data, from the end of the file.
    """

    data: Data | None = None
    rules: Rules | None = None
    triplets: Path | None = None
    held_out: Natural = 64
    base: str | None = None
    model: SmallEnhancerConfig | None = None
    lora: LoraSettings | None = None
    settings: EnhancerConfig = field(default_factory=EnhancerConfig)
    run: RunConfig
    batch_size: Count = 16
    accumulate: Count = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon for a model from nothing: it learns to copy from the request in far fewer steps."""
    lr: NonNegative = 2e-3
    warmup: Natural = 50
    weight_decay: NonNegative = 0.01
    beta2: Decay = 0.95
    max_length: Count = 4096
    """Tokens of a sample; longer ones are left out, never cut."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a fifth slower."""

    def __post_init__(self) -> None:
        check_ranges(self)
        refuse_accumulate(self.run, "set accumulate, beside batch_size")
        if self.base is not None:
            object.__setattr__(self, "base", str(user_path(self.base)))
        if self.optimizer == "muon" and self.lora is not None:
            raise ValueError("optimizer=muon moves whole weights; with lora leave it adamw")
        if (self.data is None) != (self.rules is None):
            raise ValueError("data and rules go together: what is taken apart, and by whom")
        if self.data is None and (self.triplets is None or not self.held_out):
            raise ValueError("without data and rules, triplets names a file of `fourstroke data degrade`")


def train_enhance_sft(recipe: EnhanceSftRecipe, resume: bool = False) -> Path:
    """Fine-tune by a recipe; returns the folder of the enhancer.

    Raises:
        RecipeError: in several processes, or if the output folder holds anything but a run, one that `resume` does not
            fit, or one that is still going on; if there is nothing to train on.
        DivergedError: if the loss is not finite.
        RuntimeError: if TRL is not installed.
    """
    require_one_process("train enhance-sft")
    trl = import_trl()
    with started(recipe.run.out, resume, resolved(recipe), ("model", "base", "lora", "optimizer")) as checkpoint:
        return _fine_tune(trl, recipe, checkpoint)


def _fine_tune(trl: Any, recipe: EnhanceSftRecipe, checkpoint: str | None) -> Path:
    out = recipe.run.out
    torch.manual_seed(recipe.run.seed)
    triplets, held_out, lexicon = _data(recipe)
    local, system = _model(recipe, triplets)
    model, tokenizer = local.model, local.tokenizer
    if local.processor is None and (blind := sum(bool(triplet.inputs) for triplet in triplets)):
        print(f"the images of {blind} edits are left out: this model sees none", flush=True)
        triplets, held_out = ([dataclasses.replace(t, inputs=()) for t in part] for part in (triplets, held_out))
    settings = recipe.settings
    if recipe.base is None or read_config(Path(recipe.base)).things:  # one of the small ones, for the first time or on
        known = dataclasses.asdict(lexicon) | {"colours": tuple(sorted(lexicon.colours))}
        known["words"] = tuple(sorted(words_of(text for triplet in triplets for text in (triplet.short, triplet.rich))))
        settings = dataclasses.replace(settings, **known)
    if local.processor is None and any(triplet.kind == "edit" for triplet in triplets):
        settings = dataclasses.replace(settings, edits=True)

    def score() -> dict[str, float]:
        local.model = trainer.model
        requests = [request(triplet) for triplet in held_out]
        greedy = dataclasses.replace(settings, temperature=0.0)
        images = [[data_url(open_image(file)) for file in triplet.inputs] for triplet in held_out]
        turns = answers(local, requests, system, greedy, images=images)
        show(out / "samples", trainer.state.global_step, requests, turns)
        shares = text_scores(requests, rewrites(turns), lexicon)
        return {name: value.value for name, value in shares.items() if value is not None}

    callback = RunCallback(recipe.run, score)
    peft = None if recipe.lora is None else recipe.lora.peft()
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            **arguments(recipe.run, recipe.batch_size, recipe.lr, recipe.warmup, recipe.weight_decay, recipe.beta2),
            gradient_accumulation_steps=recipe.accumulate,
            gradient_checkpointing=recipe.checkpointing,
            lr_scheduler_type="cosine",
            max_length=None,
            completion_only_loss=True,
        ),
        train_dataset=dataset(triplets, local, system, recipe.max_length),
        processing_class=local.processor or tokenizer,
        peft_config=peft,
        callbacks=[callback],
        optimizers=(None if recipe.optimizer == "adamw" else _muon(recipe, model), None),
    )
    trainer.remove_callback(PrinterCallback)
    with contextlib.closing(callback):
        if recipe.run.max_minutes != 0:
            trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer.state, recipe.run)
    local.model = trainer.model.merge_and_unload() if peft is not None else trainer.model
    with atomic_folder(out / "model") as partial:
        PromptEnhancer(local, settings, system).save_pretrained(partial)
    return out / "model"


def request(triplet: Triplet) -> str:
    """What is asked; an edit whose images are not seen says that it is one, so that none other is taken for it."""
    return protocol.unseen(triplet.short) if triplet.kind == "edit" and not triplet.inputs else triplet.short


def dataset(triplets: Iterable[Triplet], local: LocalModel, system: str, longest: int) -> Dataset:
    """Prompt and completion as text, in the model's own template, and for a model that sees the images of edits.

    Samples beyond `longest` tokens, those of images not counted, are left out; so are those whose images are gone.
    """
    from datasets import Dataset

    tokenizer, rows, gone = local.tokenizer, [], 0
    for triplet in triplets:
        if not all(Path(file).is_file() for file in triplet.inputs):
            gone += 1
            continue
        prompt = render(tokenizer, protocol.messages(request(triplet), system, triplet.inputs))
        completion = protocol.write_answer(triplet.rich, triplet.wh_ratio, triplet.reasoning)
        if local.processor is not None:  # TRL ends texts alone
            completion += tokenizer.eos_token
        if len(prompt) + len(completion) <= longest or len(tokenizer(prompt + completion)["input_ids"]) < longest:
            images = {"images": list(triplet.inputs)} if local.processor is not None else {}
            rows.append({"prompt": prompt, "completion": completion, **images})
    if gone:
        print(f"{gone} edits are left out: their images are gone", flush=True)
    if not rows:
        raise RecipeError(f"there is nothing to train on: of the triplets none has at most {longest} tokens")
    found = Dataset.from_list(rows)
    if local.processor is not None:
        found.set_transform(_opened)
    return found


def _opened(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Rows with their images in place of the files' names."""
    return {**rows, "images": [[as_sent(open_image(file)) for file in files] for files in rows["images"]]}


def _muon(recipe: EnhanceSftRecipe, model: PreTrainedModel) -> torch.optim.Optimizer:
    """Muon on the hidden matrices, AdamW on the rest."""
    config = OptimizerConfig(lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, recipe.beta2))
    return CombinedOptimizer(build_optimizers(model.named_parameters(), config).values())


def _data(recipe: EnhanceSftRecipe) -> tuple[list[Triplet], list[Triplet], Lexicon]:
    """Triplets to train on, held-out ones, and what all of them can name."""
    triplets: list[Triplet] = []
    held_out: list[Triplet] = []
    lexicon = Lexicon()
    if recipe.data is not None and recipe.rules is not None:
        degrader = recipe.rules.open()
        lexicon = degrader.lexicon
        train, heldout = (None if recipe.base is None else recipe.run.out / "inputs" / s for s in ("train", "heldout"))
        triplets = list(degrade_dataset(recipe.data.open("train"), degrader, images=train))
        held_out = list(degrade_dataset(recipe.data.open("heldout"), degrader, recipe.held_out, heldout))
    if recipe.triplets is not None:
        triplets += read_triplets(recipe.triplets)
    if recipe.data is None:
        triplets, held_out = triplets[: -recipe.held_out], triplets[-recipe.held_out :]
    if not triplets:
        raise RecipeError("there is nothing to train on: name a file of more triplets, or other data")
    return triplets, held_out, lexicon


def _model(recipe: EnhanceSftRecipe, triplets: list[Triplet]) -> tuple[LocalModel, str]:
    """The model to train and its system prompt; it sees if its base does and there are images to see."""
    if recipe.base is None:
        some = triplets[:: -(-len(triplets) // TOKENIZER_TRIPLETS)]
        texts = (text for t in some for text in (t.short, t.reasoning, t.rich))
        config = recipe.model or SmallEnhancerConfig()
        tokenizer = build_tokenizer(itertools.chain(texts, [SYSTEM_PROMPT, protocol.EDIT] * 8), config.vocab_size)
        return LocalModel(build_model(config, tokenizer), tokenizer), SYSTEM_PROMPT
    dtype = torch.bfloat16 if torch.cuda.is_available() and recipe.lora is not None else torch.float32
    images = load_image_processor(recipe.base) if any(triplet.inputs for triplet in triplets) else None
    kind = AutoModelForCausalLM if images is None else AutoModelForImageTextToText
    model = load_fitting(kind, recipe.base, dtype=dtype)
    with readable(f"the tokenizer of {recipe.base}"):
        tokenizer = AutoTokenizer.from_pretrained(recipe.base)
    agree("model", recipe.model and sizes(recipe.model), model.config.to_dict(), recipe.base)
    return LocalModel(model, tokenizer, images), read_system_prompt(Path(recipe.base))
