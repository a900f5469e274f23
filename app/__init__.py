"""Real-time WebSocket fan-out on Google Cloud Run. `python -m app` is the service; `create_app` is for those who embed it."""

from app.bootstrap import create_app
from app.settings import Settings, SettingsError

__all__ = ["Settings", "SettingsError", "create_app"]
