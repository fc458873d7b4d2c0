"""What options of several commands ask for, as the package takes it."""

from __future__ import annotations

import argparse
from typing import Any


def endpoint_of(arguments: argparse.Namespace) -> Any:
    """The endpoint of `--endpoint` and `--endpoint-model`; raises ValueError without the latter."""
    from fourstroke.enhance.endpoint import Endpoint

    if not arguments.endpoint_model:
        raise ValueError("an endpoint needs --endpoint-model, the name under which it serves the model")
    return Endpoint(url=arguments.endpoint, model=arguments.endpoint_model)


def loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a model is loaded, as `Pipeline.from_pretrained` takes it."""
    names = ("dtype", "quantize", "offload", "transformer", "text_encoder", "vae", "compile", "file_cache")
    return {name: getattr(arguments, name) for name in names}
