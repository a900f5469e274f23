"""Quart's signed session cookie, with the time at which it was signed."""

from typing import Any

from itsdangerous import BadSignature
from quart import Quart
from quart.sessions import SecureCookieSession, SecureCookieSessionInterface
from quart.wrappers import BaseRequestWebsocket


class DatedSession(SecureCookieSession):
    """The content of a cookie."""

    signed_at: float | None = None
    """Unix seconds, from which its lifetime counts; None: no cookie that counts came."""


class DatedSessions(SecureCookieSessionInterface):
    """Opens sessions as Quart does, which drops the time of the signature once it has looked at it."""

    session_class = DatedSession

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> DatedSession | None:
        """Read the session of a request; an empty one where its cookie is missing, forged or too old."""
        signer = self.get_signing_serializer(app)
        if signer is None:
            return None
        cookie = request.cookies.get(self.get_cookie_name(app))
        if cookie is None:
            return DatedSession()
        lifetime = int(app.permanent_session_lifetime.total_seconds())
        try:
            data, signed_at = signer.loads(cookie, max_age=lifetime, return_timestamp=True)
        except BadSignature:
            return DatedSession()
        session = DatedSession(data)
        session.signed_at = signed_at.timestamp()
        return session


def signed_at(session: Any) -> float | None:
    """Return when a session was signed, where it is one of these."""
    return getattr(session, "signed_at", None)
