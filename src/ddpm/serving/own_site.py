"""Refusals of requests that come from other websites: the server has no login, and a browser can reach it.

Every website that a person visits can make the browser send requests to addresses on this machine. A name that an
attacker controls can point to this machine, so that the attacker's page counts as the server's own (DNS rebinding).
Programs such as curl send none of the headers that browsers do, and are not affected.
"""

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from ddpm.serving.calls import RefusedError

FORBIDDEN = 403


def require_own_host(headers: Mapping[bytes, bytes], names: Collection[str]) -> None:
    """Raise RefusedError unless the header Host names an IP address, localhost or one of `names`; the port is ignored.

    An attacker's page cannot have an IP address as its name, unless the attacker's server has it.
    """
    if b"host" not in headers:
        return  # only HTTP/1.0 programs
    try:
        name = urlsplit(f"//{_text(headers[b'host'])}").hostname or ""
    except ValueError:  # half an IPv6 address
        name = ""
    if name != "localhost" and not _is_address(name) and name not in names:
        raise RefusedError(
            FORBIDDEN,
            f"the request is for the host {name!r}, expected an IP address or localhost; "
            "start the server with --allowed-host and this name if it is yours",
        )


def require_own_site(headers: Mapping[bytes, bytes]) -> None:
    """Raise RefusedError if a browser says that a page of another site, or of another port, sent the request."""
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:  # browsers set it themselves; no page can
        own = site in (b"same-origin", b"none")
    else:
        own = origin is None or _text(origin).partition("://")[1:] == ("://", _text(headers.get(b"host", b"")))
    if not own:
        raise RefusedError(FORBIDDEN, "the request comes from a page of another website; open the server's own page")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _text(header: bytes) -> str:
    return header.decode("latin-1")
