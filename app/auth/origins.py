"""Which pages may open a socket. Browsers do not lie about a page's origin; other clients send none. Pure."""

from collections.abc import Sequence

from app.addresses import Origin, is_loopback, origin_of, origin_pattern, same_host

ANY = "*"
NULL = "null"
VARIABLE = "CLOUD_SOCKETS_ALLOWED_ORIGINS"
SHOWN = 200
"""Characters of a header that a log line shows."""
_SCHEMES = {None: ("https", "http"), "https": ("https",), "http": ("http",)}
"""Of pages of the same host, by what the request came by."""


class OriginRule:
    """`allowed`: the configured origins; None: pages of the same host, with `local` also loopback ones.

    Raises ValueError for an entry that no page could have.
    """

    def __init__(self, allowed: Sequence[str] | None, *, local: bool) -> None:
        self._local = local
        self._listed = None if allowed is None else tuple(allowed)
        given = {entry.lower() for entry in allowed or ()}
        self._any = ANY in given
        self._null = NULL in given
        patterns = [origin_pattern(entry) for entry in allowed or () if entry.lower() not in (ANY, NULL)]
        self._wide = [pattern for pattern in patterns if pattern.any_subdomain or pattern.any_port]
        self._exact = {Origin(*pattern[:3]) for pattern in patterns if pattern not in self._wide}

    def allows(self, origin: str | None, host: str | None, scheme: str | None = None) -> bool:
        """Return whether a page of this origin may open a socket here.

        `host` is the request's Host header; `scheme` is http or https, whatever the request came by, None: unknown.
        """
        if origin is None or self._any:
            return True
        if self._listed is None and host and origin in [f"{own}://{host}" for own in _SCHEMES[scheme]]:
            return True  # as most say it, and soon found out; what follows sees the same host in other words
        page = origin_of(origin)
        if page is None:
            return self._null and origin.lower() == NULL
        if self._listed is not None:
            return page in self._exact or any(pattern.matches(page) for pattern in self._wide)
        if self._local and page.scheme in ("http", "https") and is_loopback(page.host):
            return True
        return bool(host) and same_host(page, host or "", scheme)

    def refusal(self, origin: str, host: str | None, scheme: str | None = None) -> str:
        """Say what an origin was compared with, and what would let it in, for the log."""
        shown = origin[:SHOWN]
        if self._listed is not None:
            wanted = f"in {VARIABLE} ({', '.join(self._listed)[:SHOWN] or 'which is empty'})"
        else:
            here = f"{scheme or 'http or https'}://{(host or '')[:SHOWN]}"
            source = "X-Forwarded-Proto and Host" if scheme else "Host"
            wanted = f"{here!r}, as {source} say" + ("" if scheme else "s") + (", nor loopback" if self._local else "")
        if not _could_be_listed(origin):
            return f"the origin {shown!r} is not {wanted}, and is none that could be listed"
        instead = "" if self._listed is not None else ", in place of what holds without it"
        return f"the origin {shown!r} is not {wanted}; {VARIABLE} with {shown} would let it in{instead}"


def _could_be_listed(origin: str) -> bool:
    if origin.lower() == NULL:
        return True
    try:
        origin_pattern(origin)
    except ValueError:
        return False
    return origin_of(origin) is not None
