import { Metrics } from "voice/ui/metrics.js";
import { RollingPercentiles } from "voice/percentiles.js";
import { initialFacts, nextFacts, nextPhase } from "voice/facts.js";
import { DEFAULTS, loadPreferences, savePreferences } from "voice/preferences.js";
import { Recorder } from "voice/audio/recorder.js";
import { diagnose } from "voice/diagnostics/diagnostics.js";
import { formatDuration } from "voice/units.js";
import { SpeechGate } from "voice/vad/speech-gate.js";
import { Suggestions } from "voice/ui/suggestions.js";
import { OnDemand } from "voice/on-demand.js";
import { equal, near, ok, test } from "./harness.js";

const HEALTHY = Object.freeze({
  phase: "live",
  contextState: "running",
  muted: false,
  sourceMuted: false,
  inputDb: -20,
  upHz: 12.5,
  downHz: 12.5,
  paddingShare: 0.6,
  modelMs: 20,
  outputDb: -18,
  bargingIn: false,
  recentUnderruns: 0,
  trained: true,
});

const states = (facts) => diagnose({ ...HEALTHY, ...facts }).map(({ state }) => state);

test("a healthy call passes every check", () => equal(states({}), ["ok", "ok", "ok", "ok", "ok"]));

const CAUSES = [
  ["a suspended context", { contextState: "suspended" }, 0, "bad"],
  ["mute", { muted: true }, 0, "warn"],
  ["a microphone switched off by the system", { sourceMuted: true }, 0, "bad"],
  ["pure zeros", { inputDb: -120 }, 0, "bad"],
  ["a faint voice", { inputDb: -60 }, 0, "warn"],
  ["frames that do not leave", { upHz: 3 }, 1, "bad"],
  ["frames that do not come back", { downHz: 0 }, 1, "bad"],
  ["the queue", { phase: "queued" }, 1, "warn"],
  ["a paused conversation", { phase: "paused" }, 1, "warn"],
  ["a lost connection", { phase: "lost" }, 1, "bad"],
  ["a server that cannot keep up", { modelMs: 95 }, 2, "bad"],
  ["a server that responds late", { modelMs: 45 }, 2, "warn"],
  ["an untrained model", { trained: false }, 3, "warn"],
  ["gaps", { recentUnderruns: 2 }, 4, "warn"],
  ["barge-in", { bargingIn: true }, 4, "warn"],
];

for (const [cause, facts, link, state] of CAUSES) {
  test(`${cause} is reported, and only by its own check`, () => {
    const found = states(facts);
    equal(found[link], state);
    if (facts.phase === undefined) found.forEach((other, i) => ok(i === link || other === "ok", `link ${i}`));
  });
}

test("the padding share is the share of steps without a word", () => {
  const metrics = new Metrics();
  metrics.onEvent({ kind: "opening" }, 0);
  metrics.onEvent({ kind: "ready" }, 0);
  equal(metrics.paddingShare, null);
  for (let k = 1; k <= 101; k += 1) {
    if (k % 4 === 0) metrics.onEvent({ kind: "text", final: false, text: "…" }, k);
    metrics.onEvent({ kind: "played", peaks: [0], frames: k, underruns: 0, latenciesMs: [100 + k] }, 80 * k);
  }
  near(metrics.paddingShare, 0.75, 0.01);
  near(metrics.stepHz, 12.5, 1e-9);
  equal(metrics.micToSpeaker.summary().count, 101);
});

test("percentiles are nearest ranks of the last values", () => {
  const last = new RollingPercentiles(100);
  equal(last.summary(), { p50: null, p95: null, count: 0 });
  for (let value = 1; value <= 1000; value += 1) last.add(value);
  equal(last.summary(), { p50: 950, p95: 995, count: 1000 });
});

test("a recording has the user left and the agent right, each at its time", async () => {
  const recorder = new Recorder();
  recorder.user(new Float32Array(1920).fill(0.5), 5000);
  recorder.agent(new Float32Array(1920).fill(-0.25), 5040);
  recorder.user(new Float32Array(1920).fill(2), 5960);
  const bytes = await recorder.wav().arrayBuffer();
  const view = new DataView(bytes);
  equal(String.fromCharCode(...new Uint8Array(bytes, 0, 4)), "RIFF");
  equal([view.getUint16(22, true), view.getUint32(24, true)], [2, 24_000]);
  equal(view.getUint32(40, true), 4 * 24_960);
  equal(bytes.byteLength, 44 + 4 * 24_960);
  const at = (sample) => [view.getInt16(44 + 4 * sample, true), view.getInt16(46 + 4 * sample, true)];
  equal([at(0), at(960), at(2000), at(24_959)], [[16384, 0], [16384, -8192], [0, -8192], [32767, 0]]);
  equal(formatDuration(recorder.durationMs), "0:01");
});

test("preferences are restored, and unreadable ones fall back to the defaults", () => {
  const stored = new Map();
  const storage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, value) => stored.set(key, value) };
  equal(loadPreferences(storage), DEFAULTS);
  savePreferences(storage, { ...DEFAULTS, bargeIn: "flush", sampling: { seed: 7 } });
  equal(loadPreferences(storage).sampling, { seed: 7 });
  stored.set("packet-voice", '{"barge": "off", "words": "whisper", "wordsModel": "base"}'); // of earlier versions
  equal(loadPreferences(storage), { ...DEFAULTS, bargeIn: "off", captions: "whisper", captionsModel: "base" });
  stored.set("packet-voice", '{"vad": true}'); // of earlier versions: the model was switched on
  equal(loadPreferences(storage).vad, "silero");
  stored.set("packet-voice", '{"bargeIn": 3, "unknown": 1}');
  equal(loadPreferences(storage), DEFAULTS);
  stored.set("packet-voice", "{");
  equal(loadPreferences(storage), DEFAULTS);
});

test("a click is not speech, and a pause between words does not end it", () => {
  const gate = new SpeechGate();
  const push = (probability, windows) =>
    Array.from({ length: windows }, () => gate.push(probability)).some(Boolean);
  equal([push(0.9, 1), push(0.1, 1), gate.speaking], [false, false, false]);
  equal([push(0.9, 2), gate.speaking], [true, true]);
  equal([push(0.1, 8), push(0.9, 1), push(0.1, 8), gate.speaking], [false, false, false, true]);
  equal([push(0.1, 13), gate.speaking], [true, false]);
});

test("a silent agent is not called playing", () => {
  const [, , , , speaker] = diagnose({ ...HEALTHY, outputDb: -98 });
  equal([speaker.state, speaker.text], ["ok", "The agent is not speaking at the moment."]);
});

test("late events do not reopen a call that the user has ended", () => {
  const phases = (kinds) => kinds.reduce((phase, kind) => nextPhase(phase, { kind }), "idle");
  equal(phases(["opening", "connecting", "queued", "ready"]), "live");
  equal(phases(["opening", "connecting", "ready", "lost", "connecting", "resumed"]), "live");
  equal(phases(["opening", "connecting", "queued", "ready", "paused"]), "paused");
  equal(phases(["opening", "connecting", "ready", "paused", "continued"]), "live");
  equal(phases(["opening", "connecting", "ready", "paused", "lost", "connecting", "resumed", "paused"]), "paused");
  equal(phases(["opening", "connecting", "ready", "lost", "connecting"]), "lost");
  equal(phases(["opening", "ready", "closing", "paused", "continued"]), "closing");
  equal(phases(["opening", "closing", "connecting", "ready"]), "closing");
  equal(phases(["opening", "closing", "ready", "ended"]), "idle");
});

test("only events that concern the state of the page change it", () => {
  const idle = initialFacts({ pushToTalk: false });
  const after = (facts, ...events) => events.reduce(nextFacts, facts);
  const health = { status: "ready", lanes: { running: 0, room: 2 } };
  const live = after(idle, { kind: "health", health }, { kind: "opening", isSample: false }, { kind: "ready" });
  for (const kind of ["captured", "played", "text", "stats", "connection_stats"]) ok(after(live, { kind }) === live, kind);
  const asked = after(live, { kind: "health", health });
  ok(after(asked, { kind: "health", health: { ...health, metrics: {} } }) === asked, "health as before");
  ok(after(asked, { kind: "health", health: null }).health === null, "no health");
  const heard = after(live, { kind: "answering", answering: true }, { kind: "muted", muted: true });
  equal([heard.phase, heard.isAnswering, heard.muted], ["live", true, true]);
  const lost = after(heard, { kind: "lost" });
  const attempts = [lost, after(lost, { kind: "connecting" }), after(lost, { kind: "connecting" }, { kind: "lost" })];
  equal(attempts.map(({ phase, isReconnecting }) => [phase, isReconnecting]), [["lost", false], ["lost", true], ["lost", false]]);
  const counted = after(heard, { kind: "health", health: { ...health, lanes: { running: 1, room: 1 } } });
  const over = after(counted, { kind: "closing" }, { kind: "ended", why: "stopped" });
  equal([over.phase, over.isAnswering, over.muted, over.health.lanes], ["idle", false, false, health.lanes]);
});

/** A Suggestions view in its own section; `send(kind, content)` passes an event, and the facts that follow from it. */
function suggestionsView() {
  document.getElementById("suggestions")?.remove();
  const section = document.createElement("section");
  section.id = "suggestions";
  section.hidden = true;
  document.body.append(section);
  const view = new Suggestions({ ask: () => {} });
  let facts = initialFacts({ pushToTalk: false });
  const send = (kind, content) => {
    const event = { kind, ...content };
    facts = nextFacts(facts, event);
    view.onEvent(event, facts.phase, facts);
    view.onState(null, facts);
  };
  return { section, send };
}

const MODEL = Object.freeze({ name: "sums", about: "It adds.", suggestions: ["what is <b>1</b> plus 2", "bye"] });

test("suggestions are shown until the first text, and again after the call", () => {
  const { section, send } = suggestionsView();
  const seen = [];
  const after = (kind, content) => {
    send(kind, content);
    seen.push(!section.hidden);
  };
  after("health", { health: { status: "ready", model: MODEL } });
  for (const kind of ["opening", "connecting", "queued"]) after(kind);
  after("connection_established", { model: MODEL });
  after("ready");
  after("text", { text: "", final: false });
  equal(seen, Array(7).fill(true));
  seen.length = 0;
  after("text", { text: "three", final: false });
  after("health", { health: { status: "ready", model: MODEL } });
  for (const kind of ["lost", "connecting", "resumed", "closing"]) after(kind);
  equal(seen, Array(6).fill(false));
  after("ended");
  after("user_text", { text: "late", final: true });
  after("opening");
  after("ready");
  equal(seen.slice(6), Array(4).fill(true));
  after("user_text", { text: "what", final: false });
  equal(section.hidden, true);
});

test("suggestions are inserted as text, in quotation marks, and not rebuilt while unchanged", () => {
  const { section, send } = suggestionsView();
  send("health", { health: { status: "ready", model: MODEL } });
  const items = [...section.querySelectorAll("ul > li")];
  equal(items.map((item) => item.textContent), ["“what is <b>1</b> plus 2”", "“bye”"]);
  equal([section.querySelector("b"), section.querySelector("p").textContent], [null, "It adds."]);
  equal(section.querySelector("ul").getAttribute("aria-labelledby"), section.querySelector("h2").id);
  for (const health of [{ model: MODEL }, { model: null }, { status: "unauthorized" }, null]) {
    send("health", { health });
    ok(section.querySelector("li") === items[0], "the list was rebuilt");
  }
});

test("without suggestions nothing is shown, whichever fields are missing", () => {
  const { section, send } = suggestionsView();
  send("health", { health: { status: "ready", model: MODEL } });
  for (const none of [{}, { about: null, suggestions: [] }, { suggestions: null }]) {
    send("connection_established", { model: none });
    equal([section.hidden, section.childElementCount], [true, 0]);
  }
  send("health", { health: { model: { about: "It adds." } } });
  equal([section.hidden, section.querySelector("h2"), section.textContent], [false, null, "It adds."]);
  send("health", { health: { model: { suggestions: ["bye"] } } });
  equal([section.hidden, section.querySelector("p")], [false, null]);
});

test("a part of the page is loaded once, and a failure is not kept", async () => {
  const failures = [];
  let loads = 0;
  const part = new OnDemand(
    async () => {
      loads += 1;
      if (loads === 1) throw new TypeError("Failed to fetch dynamically imported module");
      return "part";
    },
    (error) => failures.push(error.message),
  );
  equal([await part.get(), part.loaded, failures.length], [null, null, 1]);
  equal(await Promise.all([part.get(), part.get()]), ["part", "part"]);
  equal([loads, part.loaded, failures.length], [2, "part", 1]);
});
