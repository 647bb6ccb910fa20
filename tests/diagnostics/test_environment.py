"""The checks of port, disk space and browser requirements."""

import re
import socket
from pathlib import Path

import pytest

from pipeline.config import Server
from pipeline.diagnostics.environment import check_browser, check_disk, check_port
from web.security.listen import ListenConfig


def test_a_port_in_use_is_a_problem_with_exit_code_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(port=taken.getsockname()[1])
        finding = check_port(server, ListenConfig.from_settings(server))
    assert (finding.verdict, finding.exit_code) == ("problem", 4)
    assert str(server.port) in finding.sentence
    free = Server(port=0)
    assert check_port(free, ListenConfig.from_settings(free)).verdict == "ok"


def test_the_address_to_open_is_a_secure_context() -> None:
    for host, address in (("127.0.0.1", "http://127.0.0.1:8788"), ("::1", "http://[::1]:8788")):
        server = Server(host=host)
        assert (
            f"open {address}/packet-voice"
            in check_browser(server, ListenConfig.from_settings(server)).sentence
        )


def test_a_server_for_other_devices_has_an_external_address(tmp_path: Path) -> None:
    server = Server(host="192.0.2.7", tls="auto", tls_folder=str(tmp_path / "lan"))
    assert (
        "open https://192.0.2.7:8788/packet-voice"
        in check_browser(server, ListenConfig.from_settings(server)).sentence
    )
    everywhere = Server(host="0.0.0.0", tls="auto", tls_folder=str(tmp_path / "lan"))
    listen = ListenConfig.from_settings(everywhere)
    assert listen.credentials is not None
    for host in listen.credentials.hosts.external("0.0.0.0")[:1]:
        assert f"open https://{host}:8788/packet-voice" in check_browser(everywhere, listen).sentence


def test_disk_space_is_checked_where_files_will_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    downloads, made = check_disk()
    assert str(tmp_path / "not" / "yet") in downloads.sentence
    assert re.match(r"\d+ GB free for ", made.sentence)
