"""The doctor knows every optional part of the package, and says the command that brings what one lacks."""

from __future__ import annotations

import email.message
import importlib.metadata
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from fourstroke import doctor
from fourstroke.doctor import Fact, examine

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _without(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> dict[str, Fact]:
    """What the doctor says where packages have other versions, or are not there (None)."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if found.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return {fact.name: fact for fact in examine()}


def test_every_extra_is_looked_at_and_said_to_be_for_something():
    assert doctor.USES.keys() == EXTRAS.keys()
    assert {f"[{extra}]" for extra in EXTRAS} <= {fact.name for fact in examine()}


@pytest.mark.parametrize("extra", ["train", "enhance", "eval", "serve", "cluster"])
def test_what_is_missing_comes_with_the_command_that_mends_it(extra, monkeypatch):
    name = {"eval": "rapidocr", "cluster": "ray", "serve": "uvicorn", "train": "tokenizers", "enhance": "trl"}[extra]
    fact = _without(monkeypatch, **{name: None})[f"[{extra}]"]
    assert not fact.good
    assert fact.value == f"{doctor.USES[extra]}; lacks {name}"
    command = shlex.split(fact.mend)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert [Requirement(text) for text in command[4:]] == [
        Requirement(text) for text in EXTRAS[extra] if text.startswith(name)
    ]


def test_a_version_that_is_too_old_is_missing(monkeypatch):
    found = _without(monkeypatch, trl="0.9")
    assert not found["[enhance]"].good
    assert "trl" in found["[enhance]"].mend
    assert found["[eval]"] == Fact(name="[eval]", value=doctor.USES["eval"])


def test_a_copy_that_was_never_installed_says_so(monkeypatch):
    def metadata(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    assert {fact.name: fact for fact in examine()}["extras"].mend == "make install"


@pytest.mark.parametrize(
    ("device", "cuda", "good", "said"),
    [
        (False, None, True, "none: drawing"),
        (True, None, False, "is a build for CPUs"),
        (True, "12.8", False, "does not reach it"),
    ],
)
def test_a_gpu_that_is_not_used_is_told_of(monkeypatch, device, cuda, good, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(Path, "exists", lambda path: device and str(path) == "/dev/nvidia0")
    fact = doctor._gpu()
    assert (fact.good, said in fact.value) == (good, True)
    assert (fact.mend is None) == good


def test_an_extra_that_takes_in_others_lacks_what_they_lack(monkeypatch):
    names = {"fourstroke[serve]; extra == 'test'", "uvicorn>=0.38; extra == 'serve'", "pytest; extra == 'test'"}
    about = email.message.Message()
    for name in names:
        about["Requires-Dist"] = name
    for extra in ("serve", "test"):
        about["Provides-Extra"] = extra
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: about)
    assert "uvicorn" in _without(monkeypatch, uvicorn=None)["[test]"].mend
