"""`workbench app`: the address, the folder, the settings, and whom the server answers."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from apps import app as launching
from apps.app import LOOPBACK, listening, prepared, settings
from apps.app_guard import content_policy, stranger
from apps.cli import app
from workbench.errors import AppError, RunError

HOSTILE_CONFIG = """
[server]
address = "0.0.0.0"
allowedHosts = []
baseUrlPath = "elsewhere"
cookieSecret = "known"
corsAllowedOrigins = ["http://evil.test"]
enableAgentApi = true
enableCORS = false
enableStaticServing = true
enableXsrfProtection = false
maxUploadSize = 100000
port = 1
[browser]
gatherUsageStats = true
[client]
showErrorDetails = "full"
[theme]
base = "http://127.0.0.1:9/theme.toml"
font = "Evil:http://evil.test/font.woff2"
"""
"""Of the folder that the app is started in; were it read, the app would not even start."""


# ---------------------------------------------------------------------- the command


def told(*words: str) -> str:
    """What the command line says: error lines as `workbench` itself prints them."""
    done = subprocess.run(
        [sys.executable, "-m", "apps", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_help() -> None:
    shown = CliRunner().invoke(app, ["app", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    for option in ("--port", "--no-browser", "--runs", "--address"):
        assert option in shown.output
    assert "first free from 8501" in shown.output


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with contextlib.closing(listening(LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        error = told("app", "--port", str(port), "--runs", str(tmp_path / "runs"), "--no-browser")
    assert f"--port {port} is taken; give another, or none and a free one is chosen" in error


def test_runs_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    assert "is a file; name a folder" in told("app", "--runs", str(tmp_path / "runs"))


def test_the_runs_folder_is_made(tmp_path: Path) -> None:
    prepared(tmp_path / "a" / "runs")
    assert (tmp_path / "a" / "runs").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot create"):
        prepared(tmp_path / "file" / "runs")


def test_a_free_port_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(listening(LOOPBACK, 0)) as taken:
        first = taken.getsockname()[1]
        monkeypatch.setattr(launching, "FIRST_PORT", first)
        with contextlib.closing(listening(LOOPBACK, None)) as chosen:
            assert first < chosen.getsockname()[1] < first + launching.PORTS
            assert chosen.getsockname()[0] == LOOPBACK
        monkeypatch.setattr(launching, "PORTS", 1)
        with pytest.raises(AppError, match=f"no free port from {first} to {first}; give one"):
            listening(LOOPBACK, None)


@pytest.mark.parametrize(
    ("address", "says"),
    [("192.0.2.1", "is not one of this machine"), ("no.such.invalid", "there is no such address")],
)
def test_an_address_that_is_not_ours(address: str, says: str) -> None:
    with pytest.raises(AppError, match=says):
        listening(address, 0)


# ---------------------------------------------------------------------- whom it answers


HOSTS = frozenset({"localhost", "127.0.0.1"})
OWN = "127.0.0.1:8501"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": OWN},
        {"host": "localhost:8501", "origin": "http://localhost:8501"},
        {"host": OWN, "origin": f"http://{OWN}", "sec-fetch-site": "same-origin"},
        {"host": OWN, "sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
        {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link
    ],
)
def test_requests_of_the_app_itself(headers: dict[str, str]) -> None:
    assert not stranger(headers, HOSTS, any_address=False)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": ""},
        {"host": "evil.test"},
        {"host": "evil.test:8501", "origin": "http://evil.test:8501"},  # DNS rebinding
        {"host": "127.0.0.1.evil.test"},
        {"host": "evil.test@127.0.0.1"},
        {"host": "127.0.0.1:8501/x"},
        {"host": "127.0.0.1:port"},
        {"host": "192.168.1.7"},
        {"host": OWN, "origin": "http://evil.test"},
        {"host": OWN, "origin": "http://127.0.0.1:3000"},  # another app on this machine
        {"host": OWN, "origin": "http://localhost:8501"},
        {"host": OWN, "origin": "null"},
        {"host": OWN, "origin": ""},
        {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"host": OWN, "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_strangers_requests(headers: dict[str, str]) -> None:
    assert stranger(headers, HOSTS, any_address=False)


def test_where_it_listens_everywhere_numbers_will_do_and_names_will_not() -> None:
    assert not stranger({"host": "192.168.1.7:8501"}, HOSTS, any_address=True)
    assert not stranger({"host": "[fe80::1]:8501"}, HOSTS, any_address=True)
    assert stranger({"host": "evil.test:8501"}, HOSTS, any_address=True)


def test_the_policy_allows_nothing_from_elsewhere() -> None:
    policy = content_policy("<script>\n  a = 1\n</script><script src=x></script>")
    # printf '\n  a = 1\n' | openssl dgst -sha256 -binary | base64
    assert "'sha256-nHiJsB1GRX6Ku2XBkWKVt2F3CJiowPuMwhcJv+CWmC0='" in policy
    for part in policy.split("; "):
        name, *sources = part.split(" ")
        allowed = {"'self'", "'none'", "data:", "blob:"}
        allowed |= {"'unsafe-inline'"} if name == "style-src" else set()
        assert all(one in allowed or one.startswith("'sha256-") for one in sources), part
    assert "'unsafe-eval'" not in policy and "*" not in policy


def test_settings_do_not_hang_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text(HOSTILE_CONFIG)
    (tmp_path / ".streamlit" / "secrets.toml").write_text('[auth]\ncookie_secret = "known"\n')
    monkeypatch.chdir(tmp_path)
    set_ = settings(port=8501, address=LOOPBACK)
    assert set_["server.address"] == LOOPBACK and set_["server.allowedHosts"] == [
        "127.0.0.1",
        "localhost",
    ]
    assert set_["server.enableXsrfProtection"] is set_["server.enableCORS"] is True
    assert set_["server.corsAllowedOrigins"] == set_["secrets.files"] == []
    assert set_["server.baseUrlPath"] == "" and set_["server.trustedUserHeaders"] == {}
    assert set_["theme.base"] is set_["theme.font"] is set_["server.sslCertFile"] is None
    for off in ("enableStaticServing", "enableAgentApi", "runOnSave", "scriptHealthCheckEnabled"):
        assert set_[f"server.{off}"] is False
    assert set_["browser.gatherUsageStats"] is False
    assert set_["client.showErrorDetails"] == "none"
    assert set_["server.fileWatcherType"] == "none"
    again = settings(port=8501, address=LOOPBACK)
    assert re.fullmatch(r"[0-9a-f]{64}", set_["server.cookieSecret"])
    assert again["server.cookieSecret"] != set_["server.cookieSecret"]


def test_every_setting_has_a_name_that_streamlit_knows() -> None:
    from streamlit import config

    known = config.get_config_options()
    assert set(settings(port=8501, address=LOOPBACK)) <= set(known)


# ---------------------------------------------------------------------- the server


class Server(NamedTuple):
    url: str
    process: "subprocess.Popen[str]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app, started in a folder whose settings would open everything."""
    folder = tmp_path_factory.mktemp("started")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(HOSTILE_CONFIG)
    started = start(folder)
    yield started
    started.process.kill()
    started.process.wait()
    for pipe in (started.process.stdout, started.process.stderr):
        assert pipe
        pipe.close()


def start(folder: Path) -> Server:
    command = [sys.executable, "-m", "apps", "app", "--no-browser", "--runs", "runs"]
    root = str(Path(launching.__file__).parents[1])
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, "STREAMLIT_SERVER_ENABLE_CORS": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    found = re.fullmatch(r"Workbench: (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
    assert found, (line, process.poll() is not None and process.stderr.read())
    return Server(found[1], process)


def test_its_own_page_is_answered_and_closed(server: Server) -> None:
    answer = httpx.get(server.url, timeout=30)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/_stcore/host-config", "/media/x"])
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.test"}, {"Origin": "http://evil.test"}, {"Origin": "http://localhost:3000"}],
)
def test_strangers_are_refused_everywhere(
    server: Server, path: str, headers: dict[str, str]
) -> None:
    answer = httpx.get(server.url + path, headers=headers, timeout=30)
    assert answer.status_code == 403
    assert answer.text.startswith("Refused:") and answer.text.count("\n") == 1


def test_uploads_want_the_token_too(server: Server) -> None:
    url = f"{server.url}/_stcore/upload_file/session/file"
    for headers in ({}, {"Host": "evil.test"}, {"Origin": "http://evil.test"}):
        sent = httpx.put(url, files={"file": b"x"}, headers=headers, timeout=30)
        assert sent.status_code == 403
    agent = httpx.post(f"{server.url}/_stcore/agent/interact", json={}, timeout=30)
    assert agent.status_code in (403, 404)
    assert httpx.get(f"{server.url}/app/static/main.py", timeout=30).headers["content-type"] == (
        "text/html; charset=utf-8"  # the page, as for any path that is none
    )


def opened_socket(server: Server, **options: Any) -> int:
    """The status with which the server answers a WebSocket; 101 where it opens."""
    address = server.url.replace("http://", "ws://") + "/_stcore/stream"
    try:
        with connect(address, subprotocols=["streamlit"], proxy=None, **options):  # type: ignore[list-item]
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_sockets_of_strangers_are_refused(server: Server) -> None:
    own = server.url
    assert opened_socket(server, origin=own) == 101
    assert opened_socket(server, origin="http://evil.test") == 403
    assert opened_socket(server, origin="http://localhost:3000") == 403
    port = int(own.rpartition(":")[2])
    with socket.create_connection((LOOPBACK, port)) as raw:  # a rebound name
        raw.sendall(
            b"GET /_stcore/stream HTTP/1.1\r\nHost: evil.test\r\nOrigin: http://evil.test\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 403")


def test_only_this_machine_reaches_it(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        own = "::1"
    with pytest.raises(OSError):
        socket.create_connection((own, port), timeout=2)


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    started = start(tmp_path)
    assert httpx.get(started.url, timeout=30).status_code == 200
    assert (tmp_path / "runs").is_dir()
    started.process.send_signal(signal.SIGINT)
    before = time.monotonic()
    out, err = started.process.communicate(timeout=30)
    assert started.process.returncode == 0 and (out, err) == ("", "")
    assert time.monotonic() - before < 30
