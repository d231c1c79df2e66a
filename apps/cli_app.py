"""`workbench app`: the app in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from apps import options

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=1,
        max=65535,
        help="Where it listens.",
        show_default="the first free from 8501",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        "--address",
        help="Of this machine, to listen at. Other than 127.0.0.1, whoever reaches it can use it: "
        "there is no password.",
    ),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")]


def app(
    port: Port = None,
    no_browser: NoBrowser = False,
    runs: options.Runs = Path("runs"),
    address: Address = "127.0.0.1",
) -> None:
    """Open the app: train, trace, probe and share findings in a browser, without writing code.

    Ctrl-C ends it. It listens to this machine alone and asks nothing of any other.
    """
    from apps.app import serve

    serve(runs, port=port, address=address, browser=not no_browser)
