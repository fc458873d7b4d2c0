"""The doctor knows every optional part of the package, and says the command that brings what one lacks."""

from __future__ import annotations

import email.message
import importlib.metadata
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fourstroke.doctor import examine

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _without(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> dict[str, tuple[str, bool]]:
    """What the doctor says where packages have other versions, or are not there (None)."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if found.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return {fact.name: (fact.value, fact.good) for fact in examine()}


def test_every_extra_is_looked_at():
    assert {f"[{extra}]" for extra in EXTRAS} <= {fact.name for fact in examine()}


@pytest.mark.parametrize("extra", ["train", "enhance", "eval", "serve", "cluster"])
def test_what_is_missing_comes_with_the_command_that_mends_it(extra, monkeypatch):
    name = {"eval": "rapidocr", "cluster": "ray", "serve": "uvicorn", "train": "tokenizers", "enhance": "trl"}[extra]
    value, good = _without(monkeypatch, **{name: None})[f"[{extra}]"]
    assert not good
    command = shlex.split(value.partition(": ")[2])
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert [Requirement(text) for text in command[4:]] == [
        Requirement(text) for text in EXTRAS[extra] if text.startswith(name)
    ]


def test_a_version_that_is_too_old_is_missing(monkeypatch):
    found = _without(monkeypatch, trl="0.9")
    assert not found["[enhance]"][1]
    assert "trl" in found["[enhance]"][0]
    assert found["[eval]"] == ("installed", True)


def test_a_copy_that_was_never_installed_says_so(monkeypatch):
    def metadata(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    assert "make install" in {fact.name: fact.value for fact in examine()}["extras"]


def test_an_extra_that_takes_in_others_lacks_what_they_lack(monkeypatch):
    names = {"fourstroke[serve]; extra == 'test'", "uvicorn>=0.38; extra == 'serve'", "pytest; extra == 'test'"}
    about = email.message.Message()
    for name in names:
        about["Requires-Dist"] = name
    for extra in ("serve", "test"):
        about["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: about)
    assert "uvicorn" in _without(monkeypatch, uvicorn=None)["[test]"][0]
