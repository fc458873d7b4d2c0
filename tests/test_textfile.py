"""Text from outside: a byte order mark is none of it, and what is not valid Unicode is refused, line by line."""

from __future__ import annotations

import pytest

from fourstroke.data.prompts import read_prompts
from fourstroke.textfile import TextError, parse_json, read_lines

BOM = b"\xef\xbb\xbf"


def test_lines_end_with_a_line_feed_alone_and_a_mark_is_cut_from_the_first(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(BOM + "a\u2028b\x0bc\x85\r\n \n\r\n".encode() + BOM + b"d")
    assert list(read_lines(file, "words")) == [(1, "a\u2028b\x0bc\x85\r\n".encode()), (4, BOM + b"d")]
    file.write_bytes(BOM)
    assert list(read_lines(file, "words")) == []


@pytest.mark.parametrize("data", ["a".encode("utf-16"), "a".encode("utf-16-be").join([b"\xfe\xff", b""])])
def test_utf16_is_told(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(TextError, match=r"cannot read the words in .*UTF-16; save it as UTF-8"):
        list(read_lines(tmp_path / "f", "words"))


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(TextError, match=f"cannot read the words in .*{path.name}"):
            list(read_lines(path, "words"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "not JSON"),
        (b'"caf\xe9"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),  # a surrogate in bytes
        (b'["\\ud83d"]', "lone surrogate"),
        (b'{"\\udc80": 1}', "lone surrogate"),
        (b"[" * 100_000, "too deeply"),
        (b"1" * 5000, "digits"),
    ],
)
def test_json_that_no_file_could_hold_is_refused(line, reason):
    with pytest.raises(TextError, match=reason):
        parse_json(line)
    assert parse_json(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}  # a pair is a character


def test_prompts_of_a_distillation(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(BOM + '{"rich": "a cat\u2028here", "short": "cat"}\r\n\n  a dog \n{"prompt": "é"}'.encode())
    found = read_prompts(file)
    assert [line.rich for line in found] == ["a cat\u2028here", "a dog", "é"]
    assert [line.short for line in found] == ["cat", "a dog", "é"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"rich": "\\ud83d"}', "line 2 is not valid Unicode"),
        (b"caf\xe9", "line 2 is not UTF-8"),
        (b'{"rich": "a', "line 2 is not JSON"),
        (b'{"rich": 1}', "line 2 has neither"),
        (b'{"rich": "a", "short": ["b"]}', "line 2 has neither"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named(tmp_path, line, reason):
    (tmp_path / "prompts.txt").write_bytes(b"a cat\n" + line)
    with pytest.raises(ValueError, match=reason) as error:
        read_prompts(tmp_path / "prompts.txt")
    assert "prompts.txt" in str(error.value)
