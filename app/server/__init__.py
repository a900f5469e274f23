"""What we teach Hypercorn. The only importer of it."""

from app.server.serve import Guards, serve
from app.server.unfinished import Unfinished
from app.server.windows import Windows

__all__ = ["Guards", "Unfinished", "Windows", "serve"]
