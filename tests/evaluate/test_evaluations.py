"""What `fourstroke eval` offers comes from the registry, whoever made it; its options are the fields of its kind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from fourstroke import registry
from fourstroke.cli import main
from fourstroke.evaluate.evaluations import Option
from fourstroke.ranges import Count, check_ranges


@dataclass(frozen=True, kw_only=True)
class Pebbles:
    """Counts pebbles."""

    kind: ClassVar[str] = "pebbles"
    n: Annotated[Count, Option("pebbles at most")] = 5
    colour: Annotated[Literal["grey", "white"], Option("of what is counted")] = "grey"
    weight: Annotated[float, Option("in grams")] | None = None
    beaches: tuple[Annotated[Path, Option("may be repeated", flag="beach")], ...] = ()
    wet: Annotated[bool, Option("those under water too")] = False

    def __post_init__(self) -> None:
        check_ranges(self)

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        return {"model": model, "n": self.n, "colour": self.colour, "weight": self.weight, "wet": self.wet,
                "beaches": [str(beach) for beach in self.beaches]}  # fmt: skip

    def report(self, result: dict[str, Any]) -> str:
        return f"{result['n']} {result['colour']} pebbles"


@dataclass(frozen=True, kw_only=True)
class Stones:
    """Counts stones."""

    kind: ClassVar[str] = "stones"
    where: Annotated[Path, Option("a beach")]
    others: tuple[Annotated[Path, Option("more of them", flag="OTHER")], ...]
    n: Annotated[Count, Option("at most")] = 5

    def run(self, model: str | None, device: str | None) -> dict[str, Any]:
        return {"where": str(self.where), "others": [str(other) for other in self.others], "n": self.n}

    def report(self, result: dict[str, Any]) -> str:
        return ""


@pytest.fixture(autouse=True)
def _offered(monkeypatch):
    monkeypatch.setitem(registry._offered["evaluations"], "stones", f"{__name__}:Stones")
    monkeypatch.setitem(registry._offered["evaluations"], "pebbles", f"{__name__}:Pebbles")


def test_options_are_the_fields_of_the_kind(capsys):
    words = ["--n", "7", "--colour", "white", "--weight", "2", "--beach", "a", "--beach", "~/b", "--wet"]
    assert main(["eval", "pebbles", "--model", "m", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"model": "m", "n": 7, "colour": "white", "weight": 2.0, "wet": True,
                     "beaches": ["a", str(Path.home() / "b")]}  # fmt: skip
    assert main(["eval", "pebbles"]) == 0
    assert capsys.readouterr().out == "5 grey pebbles\n"


def test_fields_without_a_default_are_given_by_their_place(capsys):
    assert main(["eval", "stones", "~/a", "b", "c", "--n", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"where": str(Path.home() / "a"), "others": ["b", "c"], "n": 3}
    assert main(["eval", "stones", "a"]) == 2
    assert "the following arguments are required: OTHER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", "0"], "n=0: it must be a whole number, at least 1"),
        (["--n", "x"], "argument --n: invalid int value: 'x'"),
        (["--colour", "red"], "argument --colour: invalid choice: 'red'"),
        (["--beach", ""], "argument --beach: the path is empty"),
        (["--sand", "1"], "unrecognized arguments: --sand"),
    ],
)
def test_wrong_options_are_one_line(words, said, capsys):
    assert main(["eval", "pebbles", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_help_lists_what_there_is_and_is_quick(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    listed = capsys.readouterr().out
    assert "Counts pebbles" in listed
    assert {"composition", "reconstruction"} <= set(listed.split())
    with pytest.raises(SystemExit):
        main(["eval", "pebbles", "--help"])
    assert "pebbles at most (default: 5)" in " ".join(capsys.readouterr().out.split())
    code = (
        "import sys\nfrom fourstroke.cli import main\n"
        "try:\n main(['eval', 'composition', '--help'])\nexcept SystemExit:\n pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
