"""`python tests/benchmarks/hub_throughput.py`: a large file from a local hub, directly and through the proxy.

Hub, server and client are three processes on this machine. Cold is the first request, which the hub
serves; warm are later ones, served from the cache. Each result is the best of `--rounds`, because
interference only slows down. `--hub-mib-s` limits the speed of the hub.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from support.local_hub import PIECE_BYTES, OnDisk, serve

from pipeline.loadtest.server_process import start_server

REPO = "onnx-community/whisper-huge"
ROOT = Path(__file__).parents[2]


class Paced(OnDisk):
    """A file that is read no faster than `mib_s`."""

    mib_s = 0.0

    def __getitem__(self, part):
        piece = super().__getitem__(part)
        time.sleep(len(piece) / PIECE_BYTES / self.mib_s if self.mib_s else 0)
        return piece


def run_hub(path, mib_s, connection):
    with serve() as hub:
        commit = hub.add(REPO, {"huge.onnx": path})
        content = Paced(path)
        content.mib_s = mib_s
        hub.commits[REPO][commit]["huge.onnx"] = content
        connection.send((hub.url, commit))
        connection.recv()


def download_mib_s(url, size_bytes):
    """Download and discard a file; the throughput."""
    buffer = bytearray(PIECE_BYTES)
    began_s = time.perf_counter()
    while True:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc)
        connection.request("GET", parts.path)
        response = connection.getresponse()
        if response.status != 302:
            break
        url = response.headers["Location"]
        connection.close()
    received_bytes = 0
    while count := response.readinto(buffer):
        received_bytes += count
    connection.close()
    assert (response.status, received_bytes) == (200, size_bytes)
    return size_bytes / 2**20 / (time.perf_counter() - began_s)


def measure(size_bytes, rounds, mib_s, folder):
    path, cache = folder / "huge", folder / "cache"
    with path.open("wb") as file:
        for _ in range(0, size_bytes, PIECE_BYTES):
            file.write(os.urandom(PIECE_BYTES))
    ours, theirs = multiprocessing.Pipe()
    hub = multiprocessing.get_context("spawn").Process(target=run_hub, args=(path, mib_s, theirs))
    hub.start()
    try:
        url, commit = ours.recv()
        os.environ["HF_ENDPOINT"] = url
        file = f"{REPO}/resolve/{commit}/huge.onnx"
        with start_server(ROOT / "configs/tiny", [f"proxy.folder={cache}"]) as server:
            proxied = f"http://127.0.0.1:{server.port}/api/hf/{file}"
            direct, cold, warm = [], [], []
            for _ in range(rounds):
                shutil.rmtree(cache, ignore_errors=True)
                direct.append(download_mib_s(f"{url}/{file}", size_bytes))
                cold.append(download_mib_s(proxied, size_bytes))
                warm.append(download_mib_s(proxied, size_bytes))
    finally:
        ours.send(None)
        hub.join()
    best = {"direct": max(direct), "cold": max(cold), "warm": max(warm)}
    return {f"{name}_mib_s": round(value, 1) for name, value in best.items()} | {
        f"{name}_ratio": round(best[name] / best["direct"], 2) for name in ("cold", "warm")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the file (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--hub-mib-s", type=float, default=0.0, help="default: unlimited")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size_bytes = options.mib * PIECE_BYTES
        print(json.dumps(measure(size_bytes, options.rounds, options.hub_mib_s, Path(folder))))


if __name__ == "__main__":
    main()
