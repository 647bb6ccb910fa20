"""/metrics agrees with /health; dashboard, alerts and docs use only metrics that are served."""

import json
import re
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.hub_rig import proxy_of
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import fetch, until_health

from actors.runtime.histogram import BOUNDS_MS
from pipeline.protocol.packets import Packet, Priority, encode
from web.routes.metric_aliases import RENAMED

DASHBOARD = Path(__file__).parents[3] / "configs/grafana/packet-voice.json"
ALERTS = Path(__file__).parents[3] / "configs/prometheus/alerts.yaml"
PAGE = Path(__file__).parents[3] / "docs/reference/metrics.md"
UPGRADING = Path(__file__).parents[3] / "docs/upgrading.md"
NAME = re.compile(r"\b(?:packet_voice|process)_[a-z_]+")


class Scrape:
    """One response of /metrics, parsed by Prometheus' own parser."""

    def __init__(self, text):
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name):
        return self.of(name)

    def of(self, name, /, **labels):
        return self.samples[name, tuple(sorted(labels.items()))]


async def scrape(served):
    answer = await fetch(served, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.body.decode())


async def scrape_all(tmp_path):
    """A scrape of a server with every kind of metric: a session, and the hub proxy."""
    proxy = proxy_of("http://127.0.0.1:9", tmp_path)
    async with small_server(SETTINGS, proxy=proxy, admit="auto") as served, packet_client(served) as client:
        await client.exchange(speech(3))
        return await scrape(served)


async def test_it_is_well_formed():
    """Every family has help and a type, no sample is repeated, names end as Prometheus asks."""
    async with small_server() as served, packet_client(served) as client:
        await client.exchange(speech(3))
        metrics = await scrape(served)
    names = [line.rpartition(" ")[0] for line in metrics.text.splitlines() if not line.startswith("#")]
    assert len(names) == len(set(names)) == len(metrics.samples)
    for family in metrics.families.values():
        assert family.documentation, family.name
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        assert NAME.fullmatch(family.name), family.name
        for sample in family.samples:
            assert sample.value >= 0
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            elif family.type == "gauge":
                assert not sample.name.endswith(("_total", "_count", "_sum", "_bucket"))


async def test_it_agrees_with_health():
    """Both show the same numbers."""
    async with small_server() as served, packet_client(served) as client:
        await client.exchange(speech(7))
        await client.connection.send_message(encode(Packet(0x7F, Priority.LOW, 0, 0.0, b"", False)))  # type: ignore[arg-type]
        await client.exchange(speech(2, seed=1))
        metrics, health = await scrape(served), (await fetch(served, "/health")).json
    shown = health["metrics"]
    for stage in ("encode", "step", "decode"):
        assert (
            metrics.of("packet_voice_batch_duration_seconds_count", stage=stage) == shown[stage]["count"] > 0
        )
    assert metrics["packet_voice_latency_seconds_count"] == shown["latency"]["count"] == 8
    assert metrics["packet_voice_server_overhead_seconds_count"] == shown["added"]["count"] == 8
    assert metrics.of("packet_voice_frames_total", direction="in") == shown["framesIn"] == 9
    assert metrics.of("packet_voice_frames_total", direction="out") == shown["framesOut"] == 8
    assert metrics["packet_voice_steps_total"] == 9
    assert metrics["packet_voice_frames_over_budget_total"] == shown["overBudget"]
    assert metrics.of("packet_voice_underruns_total", where="server") == shown["underruns"]
    assert metrics["packet_voice_lanes_open"] == health["lanes"]["open"] == 1
    assert metrics["packet_voice_lanes_max"] == health["lanes"]["max"] == 4
    assert metrics["packet_voice_session_limit"] == health["lanes"]["limit"] == 4
    assert metrics["packet_voice_sessions_running"] == health["lanes"]["running"] == 1
    assert metrics["packet_voice_sessions_put_back"] == health["lanes"]["putBack"] == 0
    assert metrics["packet_voice_put_backs_total"] == health["lanes"]["putBackTotal"] == 0
    assert metrics["packet_voice_frames_put_back_total"] == shown["framesPutBack"] == 0
    assert metrics["packet_voice_capacity_sessions"] == health["capacity"]["sessions"] == 4
    assert metrics["packet_voice_ready"] == 1
    assert metrics["packet_voice_stalled"] == 0
    assert metrics.of("packet_voice_model_info", name="small", trained="false") == 1
    assert metrics.of("packet_voice_packets_total", direction="received", type="audio_chunk") == 9
    assert metrics.of("packet_voice_packets_total", direction="sent", type="audio_chunk") == 8
    assert metrics.of("packet_voice_packets_total", direction="received", type="unknown") == 1
    assert metrics.of("packet_voice_packets_ignored_total", reason="unknown_packet") == 1
    assert shown["packets"]["received"]["audio_chunk"] == 9
    for name, queue in shown["queues"].items():
        counted = [
            metrics.of(f"packet_voice_queue_{what}_total", queue=name) for what in ("sent", "taken", "leaked")
        ]
        assert counted == [queue["sent"], queue["taken"], queue["leaked"]]
        assert counted[0] == counted[1] + counted[2] + metrics.of("packet_voice_queue_depth", queue=name)
    assert {
        action.replace("_", "") for action in labels(metrics, "packet_voice_overload_actions", "action")
    } == {action.lower() for action in shown["ladder"]}


async def test_what_ended_stays_counted():
    """The frames and packets of an ended session stay counted, and why it ended."""
    async with small_server() as served:
        async with packet_client(served) as client:
            await client.exchange(speech(3))
            before = await scrape(served)
        await until_health(served, lambda health: health["endings"])
        after = await scrape(served)
    assert after["packet_voice_clients"] == 0
    assert sum(labels(after, "packet_voice_sessions_ended", "reason").values()) == 1
    for name in ("packet_voice_frames", "packet_voice_packets", "packet_voice_queue_taken"):
        for sample in before.families[name].samples:
            assert after.of(sample.name, **sample.labels) >= sample.value


async def test_histograms_are_cumulative_around_real_time():
    """Buckets are cumulative, and there are bounds at the 30 ms budget and at 80 ms."""
    async with small_server() as served, packet_client(served) as client:
        await client.exchange(speech(5))
        metrics = await scrape(served)
    assert {30, 80} <= set(BOUNDS_MS)
    for name in ("batch_duration", "latency", "server_overhead"):
        family = metrics.families[f"packet_voice_{name}_seconds"]
        assert family.type == "histogram"
        series = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                series.setdefault(sample.labels.get("stage"), []).append(sample)
        for stage, buckets in series.items():
            bounds = [float(bucket.labels["le"]) for bucket in buckets]
            counts = [bucket.value for bucket in buckets]
            assert bounds == sorted(bounds)
            assert bounds[-1] == float("inf")
            assert 0.08 in bounds
            assert counts == sorted(counts)
            of_stage = {} if stage is None else {"stage": stage}
            assert counts[-1] == metrics.of(f"{family.name}_count", **of_stage)
            assert metrics.of(f"{family.name}_sum", **of_stage) > 0


async def test_the_process_is_this_one():
    """Memory, threads and files are those of the server's process."""
    async with small_server() as served:
        metrics = await scrape(served)
    process = psutil.Process()
    assert metrics["process_resident_memory_bytes"] == pytest.approx(process.memory_info().rss, rel=0.2)
    assert metrics["process_threads"] >= 4  # this one, and one for each model
    assert metrics["process_open_fds"] > 0
    assert metrics["packet_voice_tasks"] > 0


async def test_metrics_are_served_while_models_load():
    """Without a model there is no model_info, and counts are zero."""
    async with small_server(weights=lambda: None) as served:
        metrics = await scrape(served)
    assert "packet_voice_model_info" not in metrics.families
    assert metrics.of("packet_voice_batch_duration_seconds_count", stage="step") == 0


async def test_names_that_people_use_exist(tmp_path):
    """Dashboard and alerts use current metrics only; metrics.md documents exactly those."""
    metrics = await scrape_all(tmp_path)
    current = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.families.values()
        if not family.documentation.startswith("Deprecated")
    }
    series = {
        sample.name
        for family in metrics.families.values()
        for sample in family.samples
        if not family.documentation.startswith("Deprecated")
    }
    for expression, names in [*queries(), *alerts()]:
        assert names <= series | current, expression
    rows = re.findall(r"^\| `((?:packet_voice|process)_[a-z_]+)", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(current)


async def test_former_names_equal_their_successors(tmp_path):
    """A renamed metric has the same samples under both names, and HELP names the successor."""
    metrics = await scrape_all(tmp_path)
    for name, former in RENAMED.items():
        family, alias = metrics.families[name], metrics.families[former.name]
        suffix = "_total" if family.type == "counter" else ""
        assert alias.type == family.type
        assert alias.documentation == f"Deprecated, use {name}{suffix}."
        assert len(alias.samples) == len(family.samples) > 0
        for sample, copy in zip(family.samples, alias.samples, strict=True):
            assert copy.name.removeprefix(former.name) == sample.name.removeprefix(name)
            renamed = {former.labels.get(label, label): value for label, value in sample.labels.items()}
            assert (copy.labels, copy.value) == (renamed, sample.value)


async def test_former_names_are_in_the_upgrade_notes(tmp_path):
    """upgrading.md lists exactly the deprecated metrics, each with its successor."""
    metrics = await scrape_all(tmp_path)
    deprecated = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.families.values()
        if family.documentation.startswith("Deprecated")
    }
    section = UPGRADING.read_text().partition("### Metrics\n")[2].partition("\n###")[0]
    listed = dict(re.findall(r"^\| `(packet_voice_[a-z_]+)[^`]*` \| `([a-z_(]+)", section, re.MULTILINE))
    assert listed.keys() == deprecated
    for name, former in RENAMED.items():
        suffix = "_total" if metrics.families[name].type == "counter" else ""
        assert listed[f"{former.name}{suffix}"] == f"{name}{suffix}"


def test_the_dashboard_can_be_imported():
    """Panels do not overlap, each has a query, and variables are declared in the file."""
    board = json.loads(DASHBOARD.read_text())
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    declared = {variable["name"] for variable in board["templating"]["list"]}
    for expression, asked in queries():
        assert asked
        assert set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"} <= declared
        assert expression.count("(") == expression.count(")")


def queries():
    """Every PromQL expression of the dashboard with the series it names."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], set(NAME.findall(target["expr"]))


def alerts():
    """Every PromQL expression of the alerts with the series it names."""
    for line in ALERTS.read_text().splitlines():
        if line.strip().startswith("expr:") and (names := set(NAME.findall(line))):
            yield line, names


def labels(metrics, family, label):
    """The values of a label, each with its sample."""
    return {sample.labels[label]: sample.value for sample in metrics.families[family].samples}
