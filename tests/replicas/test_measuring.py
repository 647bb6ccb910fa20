"""What `python -m pipeline loadtest --replicas` measures is there, and nothing broke on the way."""

from pipeline.loadtest import failover
from pipeline.loadtest.failover import added_by_balancer, crowd_behind_balancer


async def test_what_the_balancer_adds_is_measured_both_ways(servers):
    """Straight to a replica and through the balancer, with and without a model between."""
    added = await added_by_balancer(servers, 10)
    for taken in added.values():
        assert set(taken) == {"direct", "through", "added"}
        assert taken["direct"]["p50"] > 0


async def test_a_crowd_is_spread_and_heard(servers, monkeypatch):
    """Every session has its place, every frame its answer or its reason, and the balancer its cost."""
    monkeypatch.setattr(failover, "IDLE_S", 0.2)
    figures, laws = await crowd_behind_balancer(servers, 6, 3.0, 1)
    assert laws == []
    assert figures["spread"] == {"r1": 2, "r2": 2, "r3": 2}
    assert figures["frames_in"] > 0
    assert figures["balancer_rss_mib"] > 0
