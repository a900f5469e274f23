"""Real-time WebSocket fan-out on Google Cloud Run: `python -m app` serves it, `create_app` embeds it."""

from app.bootstrap import create_app
from app.settings import Settings, SettingsError

__all__ = ["Settings", "SettingsError", "create_app"]
