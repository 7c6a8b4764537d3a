"""Who may ask, and what a browser may do with the answer.

A page on the loopback interface can be asked for by any site that the same browser shows: by name,
after that name was turned to 127.0.0.1 (DNS rebinding). So a request has to name this machine by
address, or by a name that is its own. Beyond loopback there is a token, given once in the address
and kept in a cookie that no script sees.
"""

import hmac
import ipaddress
import socket
from http.cookies import CookieError, SimpleCookie

from sbp_jax.errors import UserError

SHORTEST_TOKEN = 16
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_token(host: str, token: str) -> None:
    if not token and not is_loopback(host):
        raise UserError(
            f"--host={host}: others may reach it, so --token is needed too: "
            'python -c "import secrets; print(secrets.token_urlsafe())" makes one'
        )
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"--token: must be {SHORTEST_TOKEN} printable ASCII characters or more")


def is_ours(header: str | None, host: str) -> bool:
    """Whether a Host header names this machine. The port may be another's: a tunnel's."""
    name = host_name(header or "")
    if name is None:
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        own = {"localhost", host.lower()}
        if not is_loopback(host):
            own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        return name in own


def host_name(header: str) -> str | None:
    """Without its port and brackets."""
    name, port = header.strip().lower(), ""
    if name.startswith("["):
        name, closed, rest = name[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif ":" in name:
        name, _, port = name.partition(":")
    return name if name and (not port or port.isdecimal()) else None


def cookie_name(port: int) -> str:
    """Cookies know no ports: two pages of one machine must not take each other's."""
    return f"research_dashboard_{port}"


def knows(token: str, given: str | None) -> bool:
    return given is not None and hmac.compare_digest(token.encode(), given.encode())


def from_cookie(header: str | None, port: int) -> str | None:
    try:
        found = SimpleCookie(header or "").get(cookie_name(port))
    except CookieError:
        return None
    return found.value if found else None
