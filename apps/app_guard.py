"""What the app's server answers at all: requests from its own pages, under its own names.

A page of another site can make a browser send requests to 127.0.0.1, and a name that its owner
points there (DNS rebinding) makes them look like those of the app's own pages. So every request and
every WebSocket must name a host from the list, and where the browser says which page it comes from,
a page of this very server. What is answered tells the browser to load nothing from elsewhere:
whatever a note or a name holds, no request leaves the machine.
"""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008
"""RFC 6455, section 7.4.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """ASGI middleware: refuses strangers' requests and closes the pages that are served."""

    app: Application
    hosts: frozenset[str]
    """Names in lower case under which the app is reached."""
    any_address: bool
    """Whether any numeric address will do too, as where the app listens on all of them. No page
    can make a name out of a number, so rebinding does not get in this way."""
    policy: str
    """The Content-Security-Policy."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with status 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if stranger(headers, self.hosts, any_address=self.any_address):
            await _refuse(scope["type"], send)
            return
        await self.app(scope, receive, self._closing(send))

    def _closing(self, send: Send) -> Send:
        added = [(name, value.encode("latin-1")) for name, value in closed_headers(self.policy)]

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return closing


def stranger(headers: Mapping[str, str], hosts: frozenset[str], *, any_address: bool) -> bool:
    """Whether a request does not come from the app's own pages (or from no page at all).

    Args:
        headers: of the request, by name in lower case.
        hosts: names under which the app is reached.
        any_address: whether any numeric address is one.
    """
    host = headers.get("host", "")
    name = _name(host)
    if name is None or not (name in hosts or (any_address and _is_address(name))):
        return True
    origin = headers.get("origin")
    if origin is not None and (not origin.startswith(("http://", "https://"))):
        return True  # "null": a sandboxed frame, a file
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return True
    from_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return from_elsewhere and headers.get("sec-fetch-mode") != "navigate"  # a link may lead here


def content_policy(page: str) -> str:
    """The policy of pages made of this HTML: nothing from elsewhere, inline scripts by digest.

    Streamlit's parts are sized by inline styles, and components of ours are modules of `blob:`
    addresses, made on the page.
    """
    inline = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in inline]
    scripts = " ".join(["'self'", "blob:", *(f"'sha256-{one}'" for one in digests)])
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "frame-src 'none'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def closed_headers(policy: str) -> list[tuple[bytes, str]]:
    """What every answer says besides."""
    return [
        (b"content-security-policy", policy),
        (b"x-content-type-options", "nosniff"),
        (b"x-frame-options", "DENY"),
        (b"referrer-policy", "no-referrer"),
        (b"cross-origin-opener-policy", "same-origin"),
        (b"cross-origin-resource-policy", "same-origin"),
    ]


def _name(host: str) -> str | None:
    """The name in a `Host` header, without its port; None for what is none."""
    try:
        parsed = urlsplit(f"//{host}")
        _ = parsed.port  # raises where it is no number
    except ValueError:
        return None
    if parsed.netloc != host or "@" in host or parsed.path or parsed.query or parsed.fragment:
        return None
    return parsed.hostname


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    body = b"Refused: this is not the address of the app, or another site asks. Open the address "
    body += b"that the app printed when it started.\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
