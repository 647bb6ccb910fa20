"""The clients of other projects, unchanged, each in a process of its own: a spoken sum, and its answer.

`make test-clients` installs them; without that these tests are skipped.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.loadtest.server_process import ServerProcess, start_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = ROOT / ".clients/bin/python"
ANSWER = "three plus four is seven"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="other projects' clients: make test-clients")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    greedy = ["sampling.temperature=0", "sampling.text_temperature=0"]
    with start_server(ROOT / "configs/tiny", greedy) as server:
        yield server


@pytest.mark.parametrize(
    "client",
    [
        "pipecat_pipeline.py realtime",
        "pipecat_pipeline.py live",
        "livekit_agent.py realtime",
        "livekit_agent.py live",
        "livekit_agent.py personaplex",
        "moshi_client.py",
    ],
)
def test_a_client_of_another_project_gets_the_answer(server: ServerProcess, client: str) -> None:
    """As text and as sound."""
    script, *dialect = client.split()
    command = [str(PYTHON), str(HERE / script), f"127.0.0.1:{server.port}", *dialect]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    printed = f"{ran.stdout[-3000:]}\n{ran.stderr[-6000:]}"
    assert ran.returncode == 0, printed
    answer = re.search(r"^answer: (.*)$", ran.stdout, re.MULTILINE)
    sound = re.search(r"^sound: ([\d.]+) s, peak (\d+)$", ran.stdout, re.MULTILINE)
    assert answer is not None, printed
    assert ANSWER in answer[1].lower(), printed
    assert sound is not None, printed
    assert float(sound[1]) > 1, printed
    assert int(sound[2]) > 0.05 * 32_768, printed


def test_the_first_test_of_the_page_works(server: ServerProcess) -> None:
    """`websocat`, as the page has it, prints that the session has started."""
    start = '{"type":"session.start","session":{"model":"any"}}\n'
    url = f"ws://127.0.0.1:{server.port}/v1/live/sessions"
    ran = subprocess.run(
        [str(PYTHON.parent / "websocat"), "-n1", url],
        input=start,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert '"session.started"' in ran.stdout, ran.stderr
