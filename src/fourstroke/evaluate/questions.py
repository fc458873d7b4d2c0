"""Questions about pictures with their right answers, as the benchmarks write them, from a suite's rows or from files.

Four forms are read. GenEval 2: rows of JSON with `vqa_list`, pairs of question and answer, and their `skills`.
DPG-Bench: a CSV with a line for each question, whose `dependency` names the questions without which it has no sense.
OneIG-Bench: a JSON object by prompt, each with `question` and `dependency` by number. For GenEval, whose rows say what
is to be there and which an object detector judges, questions are made of that. A row's own `questions` may be
texts, or objects with `question`, and where it helps `answer` (yes), `id`, `dependency` and `tag`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourstroke.data.sample import Record
from fourstroke.textfile import TextError, decode, parse_json, read_lines

TEXTS = ("question", "question_natural_language", "text")
NUMBERS = ("id", "proposition_id", "number")
TAGS = ("tag", "skill", "category_broad", "category")
ITEMS = ("id", "item_id", "prompt_id", "prompt")


@dataclass(frozen=True, kw_only=True)
class PictureQuestion:
    """One question of a picture."""

    number: str
    """By which `parents` name it."""
    text: str
    answer: str = "yes"
    parents: tuple[str, ...] = ()
    """Questions that must be answered rightly for this one to count."""
    tag: str = ""
    """What it is about: object, attribute, relation …"""


def questions_of(meta: Mapping[str, Any]) -> list[PictureQuestion]:
    """The questions of a suite's row; none if it has none.

    Raises:
        ValueError: for those of no known form; the message is a predicate.
    """
    told = meta.get("questions", meta.get("question"))
    if isinstance(told, Mapping):
        told = {"question": told, "dependency": meta.get("dependency", {})} if "question" not in told else told
        texts, parents = told["question"], told.get("dependency", {})
        if not isinstance(texts, Mapping) or not isinstance(parents, Mapping):
            raise ValueError("has questions without numbers")
        return [_checked(str(k), text, "yes", parents.get(k, ()), "") for k, text in texts.items()]
    if isinstance(told, Sequence) and not isinstance(told, str):
        return [_listed(str(number), row) for number, row in enumerate(told, 1)]
    if isinstance(pairs := meta.get("vqa_list"), Sequence) and not isinstance(pairs, str):
        skills = meta.get("skills") or [""] * len(pairs)
        if len(skills) != len(pairs) or not all(isinstance(p, Sequence) and len(p) == 2 for p in pairs):
            raise ValueError("has a vqa_list that is no list of questions with answers, each with its skill")
        both = zip(pairs, skills, strict=True)
        return [_checked(str(k), text, answer, (), tag) for k, ((text, answer), tag) in enumerate(both, 1)]
    return _of_geneval(meta["include"]) if isinstance(meta.get("include"), list) else []


class QuestionFile:
    """The questions of a file, by the prompts' ids and words."""

    def __init__(self, file: Path) -> None:
        """Raises ValueError, with the line if there is one, for a file that cannot be read or holds no question."""
        self.file = file
        self._known: dict[str, list[PictureQuestion]] = {}
        try:
            rows = _rows(file)
            for where, names, row in rows:
                try:
                    found = questions_of(row)
                except ValueError as error:
                    raise ValueError(f"{file}, {where} {error}") from None
                for name in names:
                    self._known.setdefault(_plain(name), []).extend(found)
        except (TextError, OSError) as error:
            raise ValueError(f"the questions in {file} cannot be read: {error}") from None
        if not any(self._known.values()):
            raise ValueError(f"{file} holds no questions: give a DPG-Bench CSV, or rows of JSON with questions")

    def of(self, record: Record) -> list[PictureQuestion]:
        """The questions of a picture, by its id, the last part of it, or its prompt; none if the file has none."""
        names = [record.name, record.name.rpartition("/")[2], record.captions[0].text if record.captions else ""]
        return next((self._known[name] for name in map(_plain, names) if name in self._known), [])


def _rows(file: Path) -> Iterable[tuple[str, list[str], Mapping[str, Any]]]:
    """Where each item stands, its names, and a row with its questions."""
    if file.suffix.lower() == ".csv":
        items: dict[str, list[dict[str, str]]] = {}
        text = decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if row.get("question_natural_language"):
                items.setdefault(row.get("item_id") or "", []).append(row)
        return [(f"item {name!r}", [name], {"questions": rows}) for name, rows in items.items()]
    if file.suffix.lower() == ".json":
        whole = parse_json(file.read_bytes())
        if isinstance(whole, dict):
            return [(repr(k), [k], v if isinstance(v, dict) else {"questions": v}) for k, v in whole.items()]
        rows = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    else:
        rows = [(number, parse_json(line)) for number, line in read_lines(file, "questions")]
    if wrong := [number for number, row in rows if not isinstance(row, dict)]:
        raise TextError(f"row {wrong[0]} is no JSON object")
    names = [[row[key] for key in ITEMS if isinstance(row.get(key), str)] for _, row in rows]
    return [(f"row {number}", own, row) for (number, row), own in zip(rows, names, strict=True)]


def _of_geneval(include: Sequence[Any]) -> list[PictureQuestion]:
    """Questions of things, with their numbers, colours and places, each after that of the thing."""
    found: list[PictureQuestion] = []
    try:
        names = [str(thing["class"]) for thing in include]
        for index, (name, thing) in enumerate(zip(names, include, strict=True)):
            own, count = str(index), int(thing.get("count", 1))
            asked: dict[str, tuple[str, str, tuple[str, ...]]] = {}
            asked["object"] = (f"Is there at least one {name} in the picture?", "yes", ())
            if count > 1:
                asked["count"] = (f"How many of this are in the picture: {name}?", str(count), (own,))
            if colour := thing.get("color"):
                asked["color"] = (f"Is the {name} {colour}?", "yes", (own,))
            if place := thing.get("position"):
                text = f"In the picture, is the {name} {place[0]} the {names[place[1]]}?"
                asked["position"] = (text, "yes", (own, str(place[1])))
            for tag, (text, answer, parents) in asked.items():
                number = own if tag == "object" else f"{own} {tag}"
                found.append(PictureQuestion(number=number, text=text, answer=answer, parents=parents, tag=tag))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise ValueError("has an include that is not GenEval's") from None
    return found


def _listed(number: str, row: Any) -> PictureQuestion:
    if isinstance(row, str):
        return _checked(number, row, "yes", (), "")
    if not isinstance(row, Mapping):
        raise ValueError("has a question that is neither text nor object")
    text, own, tag = (next((row[key] for key in keys if row.get(key)), None) for keys in (TEXTS, NUMBERS, TAGS))
    parents = row.get("dependency") or row.get("parents") or ()
    return _checked(str(own or number), text, row.get("answer", "yes"), parents, tag or "")


def _checked(number: str, text: Any, answer: Any, parents: Any, tag: Any) -> PictureQuestion:
    if not isinstance(text, str) or not text.strip():
        raise ValueError("has a question without words")
    if isinstance(parents, str | int):
        parents = str(parents).split(",")
    own = tuple(str(parent).strip() for parent in parents)
    return PictureQuestion(
        number=number, text=text.strip(), answer=str(answer).strip().casefold() or "yes",
        parents=tuple(parent for parent in own if parent not in ("", "0", number)), tag=_tag(str(tag)),
    )  # fmt: skip


def _tag(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text.strip().casefold()).strip("_")


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
