"""HAProxy accepts the committed configuration, with and without its environment variables."""

import subprocess

import pytest
import trustme

from pipeline.loadtest.haproxy import CONFIGURATION, HAPROXY

REPLICAS = {"REPLICA_1": "127.0.0.1:8801 agent-port 8901", "REPLICA_8": "[::1]:8808"}


def check(environment):
    command = [HAPROXY, "-c", "-dW", "-f", str(CONFIGURATION)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("environment", [{}, REPLICAS, {"BALANCER_BIND": "*:8080", **REPLICAS}])
def test_it_is_valid_with_any_environment(environment):
    """Warnings count as errors."""
    done = check(environment)
    assert done.returncode == 0, done.stderr


def test_it_accepts_a_certificate_and_tls_to_the_replicas(tmp_path):
    """TLS in front of the balancer, and to the replicas, is set in the environment."""
    authority = trustme.CA()
    authority.issue_cert("voice.example.org").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "own.pem"
    )
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    replica = f"127.0.0.1:8801 agent-port 8901 ssl verify required ca-file {tmp_path / 'ca.pem'}"
    done = check({"BALANCER_CERTIFICATE": str(tmp_path / "own.pem"), "REPLICA_1": replica})
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_detected(tmp_path):
    """The check fails for an unknown option."""
    assert check({"REPLICA_1": "127.0.0.1:8801 no-such-option"}).returncode != 0
