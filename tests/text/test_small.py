"""The small families' tokenizer: spelling of quoted words, round trips, and the files that others read."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fourstroke.text import SmallTextConfig, train_tokenizer
from fourstroke.text.encoder import save_processor
from fourstroke.text.small import SPECIAL_TOKENS
from fourstroke.text.vision import image_processor

CAPTIONS = [
    f'A {colour} {thing} stands on the grass beside a sign that says "{words}", soft light from the left.'
    for colour in ("red", "green", "blue")
    for thing in ("cat", "house", "tree")
    for words in ("OPEN", "Hello", "猫")
]
TEXTS = [
    'a sign "OPEN late"',
    'an unbalanced "quote',
    'two "a" and "bc" and a "third',
    '""',
    '"',
    "",
    "  spaces \n\n and\ttabs ",
    "猫が好き привет 🎨 naïve “curly” «x»",
    "it's 1024x768",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CAPTIONS, 1024)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]


@pytest.mark.parametrize("word", ["grass", "OPEN", "stands", "red grass", "привет"])
def test_quoted_words_are_spelled(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    ids = tokenizer(f'the sign "{word}" stands')["input_ids"]
    quote = tokenizer.convert_tokens_to_ids('"')
    first, last = ids.index(quote), len(ids) - 1 - ids[::-1].index(quote)
    spelled = [token for letter in word for token in tokenizer(letter)["input_ids"]]
    assert ids[first + 1 : last] == spelled
    if word.isascii():
        assert len(spelled) == len(word)
    assert pieces(tokenizer, "the sign") == ["the", " sign"] or pieces(tokenizer, " sign") == [" sign"]
    assert tokenizer.decode(ids[last + 1 :]) == " stands"
    assert len(ids[last + 1 :]) == 1


def test_curly_quotes_are_spelled_and_unbalanced_ones_are_harmless(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "“grass”")[-8:-3] == list("grass")
    assert " grass" in pieces(tokenizer, '" grass stands')
    assert pieces(tokenizer, '"cat" and " grass')[-1] == " grass"


def test_caption_words_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in ("red", "house", "stands", "beside", "light", "transparent"):
        assert pieces(tokenizer, f" {word}") == [f" {word}"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_processor_folder_reads_back(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_processor(tokenizer, image_processor(), tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, *CAPTIONS]:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    for token in SPECIAL_TOKENS:
        assert loaded(token)["input_ids"] == [loaded.convert_tokens_to_ids(token)]
    assert loaded.decode(loaded("<|im_start|>a<|image_pad|>")["input_ids"], skip_special_tokens=True) == "a"
    assert loaded.pad_token == "<|endoftext|>"


def test_training_is_deterministic_and_within_its_size() -> None:
    first, second = train_tokenizer(CAPTIONS, 300), train_tokenizer(iter(CAPTIONS), 300)
    assert len(first) == 300
    assert first.get_vocab() == second.get_vocab()
    with pytest.raises(ValueError, match="at least 270"):
        train_tokenizer(CAPTIONS, 100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_dim": 30},
        {"num_kv_heads": 2},
        {"vision_hidden_size": 100},
        {"vision_positions": 60},
        {"deepstack_layers": (2,)},
    ],
)
def test_sizes_that_qwen3_vl_cannot_have_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        SmallTextConfig(**wrong)
