"""The server: an engine that draws step by step, OpenAI's image API in front of it, and the studio at `/`."""

from fourstroke.serve.batch import GenerationRequest
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import Engine
from fourstroke.serve.model_runner import ModelRunner

__all__ = ["Engine", "GenerationRequest", "ModelRunner", "ServeConfig"]
