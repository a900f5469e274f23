"""What we teach Hypercorn. The only importer of it."""

from app.server.serve import serve

__all__ = ["serve"]
