"""`workbench app`: starts the app's server, hardened, and opens a browser."""

import os
from pathlib import Path

from apps.web.network import RUNS

MAIN = Path(__file__).parent / "web" / "main.py"
LOOPBACK = "127.0.0.1"
UPLOAD_MB = 256
"""Largest session that may be uploaded; `workbench session` takes larger ones."""


def options(*, port: int, address: str, browser: bool) -> dict[str, object]:
    """How Streamlit is to be run. Every line closes something, or keeps it closed."""
    hosts = ["localhost", LOOPBACK] if address == LOOPBACK else [address, "localhost", LOOPBACK]
    return {
        "server.address": address,
        "server.port": port,
        "server.headless": not browser,
        "server.allowedHosts": hosts,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.maxUploadSize": UPLOAD_MB,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "minimal",
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
    }


def serve(runs: Path, *, port: int, address: str = LOOPBACK, browser: bool = True) -> None:
    """Run the app until it is stopped."""
    import torch  # noqa: F401  so that the first page need not wait for it

    from apps.web.view import ordered
    from streamlit.web import bootstrap

    os.environ[RUNS] = str(runs.absolute())
    ordered()
    flags = {key.replace(".", "_"): value for key, value in options(
        port=port, address=address, browser=browser).items()}
    bootstrap.load_config_options(flag_options=flags)
    bootstrap.run(str(MAIN), False, [], flags)
