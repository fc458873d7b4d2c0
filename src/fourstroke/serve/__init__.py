"""The server: an engine that draws step by step, OpenAI's image API in front of it, and the studio at `/`."""

from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import Engine
from fourstroke.serve.painter import Painter
from fourstroke.serve.rows import Order

__all__ = ["Engine", "Order", "Painter", "ServeConfig"]
