"""The measurements of `python -m pipeline loadtest --replicas` have results and no violations."""

from pipeline.loadtest import failover
from pipeline.loadtest.failover import balancer_overhead, load_behind_balancer


async def test_the_balancer_overhead_is_measured(servers):
    """Directly to a replica and through the balancer, with and without a model."""
    overhead = await balancer_overhead(servers, 10)
    for taken in overhead.values():
        assert set(taken) == {"direct", "through", "added"}
        assert taken["direct"]["p50"] > 0


async def test_a_load_is_distributed_and_answered(servers, monkeypatch):
    """Sessions are spread evenly, frames are answered or reported as dropped, the balancer is measured."""
    monkeypatch.setattr(failover, "IDLE_S", 0.2)
    results, violations = await load_behind_balancer(servers, 6, 3.0, 1)
    assert violations == []
    assert results["spread"] == {"r1": 2, "r2": 2, "r3": 2}
    assert results["frames_in"] > 0
    assert results["balancer_rss_mib"] > 0
