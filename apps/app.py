"""`workbench app`: starts the app's server, hardened, and opens a browser."""

import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from apps.app_guard import Guard, content_policy
from workbench.errors import AppError
from workbench.storage import explained
from workbench.strict import one_line

MAIN = Path(__file__).parent / "web" / "main.py"
LOOPBACK = "127.0.0.1"
LOCAL = ("localhost", LOOPBACK)
FIRST_PORT, PORTS = 8501, 100
"""Where a free port is looked for, and how many are tried."""
UPLOAD_MB = 64
"""Largest session that may be uploaded; `workbench session` takes larger ones. A network of p = 113
has 0.9 MB a checkpoint: 9 MB with the 10 that are kept by default, 35 MB with the 39 of the recipe
that keeps most, and 1 MB of records."""
GRACE = 2
"""Seconds that open pages have when the app ends."""
OPEN = (
    "Anyone who can reach {address} can now train networks, read every run, ask questions of it, "
    "add and remove findings and notes, and use this machine's processors. There is no password."
)
"""Said where the app can be reached from other machines."""


def serve(
    runs: Path, *, port: int | None = None, address: str = LOOPBACK, browser: bool = True
) -> None:
    """Run the app until it is stopped.

    Args:
        runs: folder of the runs; made where there is none.
        port: of the server; a free one when None.
        address: to listen at.
        browser: whether to open one.

    Raises `AppError` for a port that is taken or an address that is not this machine's, and
    `RunError` for a folder that cannot be.
    """
    prepared(runs)
    with contextlib.closing(listening(address, port)) as listener:
        port = listener.getsockname()[1]
        server = _server(runs, address, port)
        url = f"http://{_shown(address)}:{port}"
        if not is_local(address):
            sys.stderr.write(f"warning: {OPEN.format(address=one_line(address))}\n")
        sys.stdout.write(f"Workbench: {url} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        if browser:
            _open_browser(url)
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            server.run(sockets=[listener])


def prepared(runs: Path) -> None:
    """Make the runs folder where there is none. Raises `AppError` for a file, or `RunError`."""
    if runs.exists() and not runs.is_dir():
        raise AppError(f"--runs {one_line(str(runs))} is a file; name a folder")
    with explained("create", runs):
        runs.mkdir(parents=True, exist_ok=True)


def listening(address: str, port: int | None) -> socket.socket:
    """A socket that listens at an address: at this port, or at the first free one when None.

    Raises `AppError`.
    """
    for one in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            return _bound(address, one)
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE and port is None:
                continue
            raise AppError(_why_not(address, one, error)) from None
    raise AppError(f"no free port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}; give one: --port")


def settings(*, port: int, address: str) -> dict[str, Any]:
    """Every setting of Streamlit's: ours, or else its own default.

    None is left to `.streamlit/config.toml` of the folder the app is started in, of the user, or
    to the environment: what they say is not looked at.
    """
    from streamlit import config

    defaults = {
        name: option.default_val
        for name, option in config._config_options_template.items()  # no file was read for it
        if not option.deprecated and option.section != "logger"
    }
    return {**defaults, **OURS, **LOOKS, **_placed(port, address)}


OURS: dict[str, Any] = {
    "server.headless": True,
    "server.showEmailPrompt": False,
    "server.corsAllowedOrigins": [],
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.xsrfCookieSameSite": "strict",
    "server.maxUploadSize": UPLOAD_MB,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.scriptHealthCheckEnabled": False,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "server.allowRunOnSave": False,
    "browser.gatherUsageStats": False,
    "client.allowedOrigins": [],
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "global.developmentMode": False,
    "global.disableWidgetStateDuplicationWarning": True,  # a stack trace, for a preset of switches
    "logger.hideWelcomeMessage": True,
    "logger.level": "warning",
    "secrets.files": [],
}
"""Every line closes something, or keeps it closed; `apps.app_guard` closes the rest."""

LOOKS: dict[str, Any] = {
    "theme.paddingTop": "1.5rem",
    "theme.sidebar.paddingTop": "1.5rem",
    "theme.light.primaryColor": "#0b57d0",
    "theme.light.linkColor": "#0b57d0",
    "theme.light.textColor": "#14171b",
    "theme.dark.primaryColor": "#2f6fd6",
    "theme.dark.linkColor": "#8ab4f8",
}
"""Text, also where it is faded, links and buttons have a contrast of at least 4.5 : 1 in light and
dark; `apps.web.shell` sees to the one that no theme gives."""


def is_local(address: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _placed(port: int, address: str) -> dict[str, Any]:
    """What depends on where it listens; the secret is another one at every start."""
    return {
        "server.address": address,
        "server.port": port,
        "server.allowedHosts": ["*"] if _is_any(address) else sorted(_names(address)),
        "server.cookieSecret": secrets.token_hex(),
        "browser.serverAddress": _shown(address),
        "browser.serverPort": port,
    }


def _server(runs: Path, address: str, port: int) -> Any:
    """The server, ready to run."""
    import torch  # noqa: F401  so that the first page need not wait for it
    import uvicorn
    from streamlit import App, config

    from apps.web.choice import RUNS
    from apps.web.view import ordered

    os.environ[RUNS] = str(runs.absolute())
    ordered()
    flags = settings(port=port, address=address)
    config.get_config_options(force_reparse=True, options_from_flags=flags)
    # Streamlit puts the script's folder in front of all others unless it is among them already;
    # in front, its modules would hide others of their names.
    sys.path.append(str(MAIN.parent))
    guarded = Guard(
        app=App(MAIN),
        hosts=_names(address),
        any_address=_is_any(address),
        policy=content_policy(_streamlit_page()),
    )
    return uvicorn.Server(
        uvicorn.Config(
            guarded,
            lifespan="on",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=int(flags["server.maxMessageSize"]) * 2**20,
            ws_ping_interval=30,
            ws_ping_timeout=30,
            timeout_graceful_shutdown=GRACE,
        )
    )


def _streamlit_page() -> str:
    """The HTML that every page of the app is made of."""
    import streamlit

    page = Path(streamlit.__file__).parent / "static" / "index.html"
    return page.read_text(encoding="utf-8")


def _names(address: str) -> frozenset[str]:
    """Under which the app may be asked for."""
    own = socket.gethostname() if _is_any(address) else address.strip("[]")
    return frozenset({*LOCAL, own.lower()})


def _bound(address: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(128)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _why_not(address: str, port: int, error: Exception) -> str:
    where = one_line(address, longest=80)
    if isinstance(error, socket.gaierror):
        return f"--address {where}: there is no such address; give one of this machine"
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"--port {port} is taken; give another, or none and a free one is chosen"
    if number == errno.EADDRNOTAVAIL:
        return f"--address {where} is not one of this machine; give one that is"
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return f"cannot listen at {where}, port {port}: {one_line(reason)}; choose another --port"


def _is_any(address: str) -> bool:
    """Whether this stands for every address of the machine."""
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False


def _shown(address: str) -> str:
    """As it stands in a URL."""
    if _is_any(address):
        return "localhost"
    return f"[{address}]" if ":" in address else address


def _open_browser(url: str) -> None:
    """Show it in the user's browser, where there is a screen to show it on."""
    import webbrowser

    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return  # a browser in this terminal would be no help
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
