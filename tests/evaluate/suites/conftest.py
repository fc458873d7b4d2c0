"""The bundled model, loaded once, as whoever draws a suite."""

from __future__ import annotations

import pytest

from fourstroke.pipeline import Pipeline


@pytest.fixture(scope="session")
def micro() -> Pipeline:
    return Pipeline.from_pretrained("micro", device="cpu")


@pytest.fixture
def loaded(micro: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *_, **__: micro)
    return micro
