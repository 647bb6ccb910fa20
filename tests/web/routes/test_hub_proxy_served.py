"""The server as a user starts it gives files of the hub that HF_ENDPOINT names, and ends in time."""

import socket
import urllib.request
from pathlib import Path

from support.local_hub import TOKEN, serve

from pipeline.loadtest.server_process import start_server

ROOT = Path(__file__).parents[3]
REPO = "onnx-community/whisper-tiny"
LARGE_BYTES = 64 * 2**20


def test_a_started_server_is_a_proxy_and_shuts_down(tmp_path, monkeypatch):
    """With the hub and the token of the environment; SIGTERM ends it although a client stopped reading."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    with serve() as hub:
        hub.add(REPO, {"config.json": b"{}", "model.onnx": large})
        hub.gated.add(REPO)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        sets = [f"proxy.folder={tmp_path / 'cache'}", "drain_s=0.5", "log.format=json"]
        with start_server(ROOT / "configs/tiny", sets) as server, socket.socket() as idle:
            url = f"http://127.0.0.1:{server.port}/api/hf/{REPO}/resolve/main/config.json"
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.read() == b"{}"
            status, probe = server.get(f"/api/test/hf-proxy?path={REPO}/resolve/main/model.onnx")
            assert (status, probe["ok"], probe["sizeBytes"]) == (200, True, LARGE_BYTES)
            idle.connect(("127.0.0.1", server.port))
            path = f"/api/hf/{REPO}/resolve/main/model.onnx"
            idle.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert idle.recv(12) == b"HTTP/1.1 200"
            assert server.stop() == 0  # and had not to be killed
            assert TOKEN not in server.logged()
