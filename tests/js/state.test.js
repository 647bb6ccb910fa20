import { HistoryStore } from "voice/history-store.js";
import { findRefusal } from "voice/protocol/refusal.js";
import { asQuestion, recordingOf } from "voice/questions.js";
import { AgentLevel, describeState, serverState, withoutOwnSession } from "voice/state.js";
import { TranscriptLog, plainText, sentenceCase } from "voice/transcript-log.js";
import { formatDate } from "voice/units.js";
import { closeMessage, formatDelay } from "voice/ui/call-messages.js";
import { Metrics } from "voice/ui/metrics.js";
import { SampleEnd } from "voice/voice-sample.js";
import { CONDITIONS, PROBLEMS, REFUSALS, adviceHere, droppedMessage, errorMessage } from "voice/ui/messages.js";
import { conditionOf } from "voice/diagnostics/condition.js";
import { checkBeforeCall, diagnose } from "voice/diagnostics/diagnostics.js";
import { equal, ok, test } from "./harness.js";

const READY = Object.freeze({ status: "ready", lanes: { room: 2, queued: 0 } });
const FULL = Object.freeze({ status: "ready", lanes: { room: 0, queued: 0 } });
const label = (facts) => describeState(facts).server.label;

test("with every session in use the server is not called ready, and the message says what a press does", () => {
  equal(label({ phase: "idle", health: READY }), "Ready");
  equal(label({ phase: "idle", health: FULL }), "Full");
  ok(describeState({ phase: "idle", health: FULL }).message.includes("queue"), "the queue is not mentioned");
});

test("a call whose server is silent does not say that it listens", () => {
  const live = describeState({ phase: "live", health: READY, stalled: false });
  const stalled = describeState({ phase: "live", health: null, stalled: true });
  equal([live.server.label, live.message], ["Connected", "Listening. Just talk."]);
  equal([stalled.server.label, stalled.title], ["Not responding", "Not responding · packet-voice"]);
  ok(!stalled.message.includes("Listening"), stalled.message);
});

test("a call whose microphone is silent does not say that it listens", () => {
  const { message } = describeState({ phase: "live", health: READY, isUnheard: true });
  equal(message, "Your microphone is silent.");
});

test("a call says whether it listens or answers, also while the microphone is held open or muted", () => {
  const shown = (facts) => {
    const { message, title } = describeState({ phase: "live", health: READY, ...facts });
    return [message.split(".")[0], title.split(" · ")[0]];
  };
  equal(shown({ isAnswering: true }), ["Answering", "● Answering"]);
  equal(shown({ pushToTalk: true, muted: false }), ["Listening", "● Listening"]);
  equal(shown({ pushToTalk: true, muted: true }), ["Hold “Hold to talk” or the space bar to speak", "Hold to talk"]);
  equal(shown({ muted: true }), ["You are muted", "Muted"]);
  equal(shown({ muted: true, isAnswering: true }), ["Answering", "● Answering"]);
});

test("an answer lasts through its pauses, and ends after one of a second", () => {
  const level = new AgentLevel();
  const changes = (frames, rms) => Array.from({ length: frames }, () => level.changes(rms)).filter(Boolean).length;
  equal([changes(20, 0), level.isAnswering], [0, false]);
  equal([changes(10, 0.1), changes(8, 0), changes(3, 0.1), level.isAnswering], [1, 0, 0, true]);
  equal([changes(20, 0.001), level.isAnswering], [1, false]);
});

test("a server that is gone is offline in every phase without a conversation", () => {
  for (const phase of ["idle", "connecting", "lost"]) equal(label({ phase, health: null }), "Offline", phase);
  equal(label({ phase: "lost", health: READY }), "Reconnecting");
});

test("the title and the icon show the state", () => {
  const shown = (facts) => [describeState(facts).title, describeState(facts).icon];
  equal(shown({ phase: "live", health: READY }), ["● Listening · packet-voice", "live"]);
  equal(shown({ phase: "live", health: READY, muted: true }), ["Muted · packet-voice", "waiting"]);
  equal(shown({ phase: "queued", health: FULL, position: 2 }), ["Queue: 2 · packet-voice", "waiting"]);
  equal(shown({ phase: "idle", health: READY }), ["Talk · packet-voice", "idle"]);
  equal(shown({ phase: "idle", health: null }), ["Offline · packet-voice", "off"]);
});

const texts = (log) => log.lines.map(({ who, text, interrupted }) => [who, text, interrupted]);

function conversation() {
  const log = new TranscriptLog();
  log.start(0, Date.UTC(2026, 0, 1));
  return log;
}

test("two answers in one utterance are two lines", () => {
  const log = conversation();
  log.agentText({ text: "three plus", final: false }, 1000);
  log.agentText({ text: "three plus four is seven", final: false }, 1200);
  log.speaking(true, 2300);
  log.speaking(false, 2800);
  log.agentText({ text: "three plus four is seven i am fine", final: false }, 3200);
  log.agentText({ text: "three plus four is seven i am fine thank you", final: true }, 3400);
  equal(texts(log), [["agent", "three plus four is seven", false], ["agent", "i am fine thank you", false]]);
});

test("an answer that the user cuts short is marked as interrupted", () => {
  const log = conversation();
  log.agentText({ text: "nine minus twelve", final: false }, 1000);
  log.speaking(true, 1200, true);
  log.speaking(false, 2000);
  log.agentText({ text: "nine minus twelve", final: true }, 2300);
  equal(texts(log), [["agent", "nine minus twelve", true]]);
  ok(log.text().includes("Nine minus twelve … (interrupted)"), log.text());
});

test("an agent that goes on while the user agrees is not interrupted", () => {
  const log = conversation();
  for (let i = 0; i < 5; i += 1) {
    log.agentText({ text: "and so on ".repeat(i + 1), final: false }, 1000 + 200 * i);
    if (i === 1) log.speaking(true, 1250, true);
    if (i === 2) log.speaking(false, 1450);
  }
  log.agentText({ text: "and so on ".repeat(5), final: true }, 1900);
  equal(texts(log), [["agent", "and so on ".repeat(5).trim(), false]]);
});

test("an empty utterance leaves no line", () => {
  const log = conversation();
  log.userText({ text: "hm", final: false }, 10);
  log.userText({ text: "", final: true }, 20);
  equal([log.lines.length, log.isEmpty], [0, true]);
});

test("sentences begin with a capital, and nothing else is changed", () => {
  equal(sentenceCase("i am fine. and you? élan"), "I am fine. And you? Élan");
  equal(sentenceCase("3.5 is a number"), "3.5 is a number");
});

test("the transcript as TXT and JSON contains both sides", () => {
  const log = conversation();
  log.model = "tiny";
  log.userText({ text: "who are you", final: true }, 2000);
  log.agentText({ text: "i am a model", final: true }, 3000);
  ok(log.text().includes("0:02  You: Who are you\n0:03  Agent: I am a model\n"), log.text());
  equal(plainText(JSON.parse(JSON.stringify(log.toJSON()))), log.text()); // of one that was kept
  equal(log.toJSON().lines, [
    { atS: 2, who: "user", text: "who are you", interrupted: false },
    { atS: 3, who: "agent", text: "i am a model", interrupted: false },
  ]);
});

const CALL = Object.freeze({
  phase: "live",
  contextState: "running",
  hasMicrophone: true,
  inputDb: -20,
  wasHeard: true,
  liveMs: 20_000,
  zeroMs: 0,
  slowMs: 0,
  clippedShare: 0,
  upHz: 12.5,
  recentUnderruns: 0,
  modelMs: 20,
});

test("a healthy call has no condition to tell", () => equal(conditionOf(CALL), null));

const CONDITION_CASES = [
  ["no_signal", { zeroMs: 4000, wasHeard: false, inputDb: -120 }],
  ["no_signal", { zeroMs: 9000 }],
  ["not_heard", { wasHeard: false, inputDb: -70 }],
  ["source_muted", { sourceMuted: true }],
  ["clipping", { clippedShare: 0.2 }],
  ["clipping", { clippedShare: 0.2, autoGainControl: true }],
  ["server_slow", { slowMs: 4000, modelMs: 120 }],
  ["device_slow", { upHz: 6 }],
  ["gaps", { recentUnderruns: 6 }],
];
for (const [condition, facts] of CONDITION_CASES) {
  test(`${condition} is told with a remedy: ${JSON.stringify(facts)}`, () => {
    equal(conditionOf({ ...CALL, ...facts }), condition);
    ok(CONDITIONS[condition].text({ ...CALL, ...facts }, { hostname: "localhost" }).length > 20, "no remedy");
  });
}

test("a user who is muted, or asks by a recording, is not told that the microphone is dead", () => {
  for (const facts of [{ muted: true }, { hasMicrophone: false }, { asking: true }, { phase: "queued" }]) {
    equal(conditionOf({ ...CALL, zeroMs: 9000, ...facts }), null, JSON.stringify(facts));
  }
});

test("pure zeros, a quiet microphone and a slow server are noticed by the metrics", () => {
  const metrics = new Metrics();
  const factsAt = (ms) => metrics.diagnosticFacts("live", { bargeIn: "off" }, ms);
  metrics.onEvent({ kind: "opening" }, 0);
  metrics.onEvent({ kind: "audio_state", state: "running", hasMicrophone: true }, 0);
  metrics.onEvent({ kind: "ready" }, 0);
  for (let ms = 0; ms < 4000; ms += 80) metrics.onEvent({ kind: "captured", peaks: [0], rms: 0 }, ms);
  equal(conditionOf(factsAt(4000)), "no_signal");
  for (let ms = 4000; ms < 14_000; ms += 80) metrics.onEvent({ kind: "captured", peaks: [0.0005], rms: 0.0002 }, ms);
  equal(conditionOf(factsAt(14_000)), "not_heard");
  metrics.onEvent({ kind: "captured", peaks: [0.3], rms: 0.1 }, 14_080);
  equal(conditionOf(factsAt(14_080)), null);
  metrics.onEvent({ kind: "stats", encodeMs: 10, stepMs: 90, decodeMs: 10 }, 15_000);
  equal(conditionOf(factsAt(19_000)), "server_slow");
});

test("a voice that touches full scale is not too loud, one that clips for half a second is", () => {
  const conditionAfter = (clipped, frames) => {
    const metrics = new Metrics();
    metrics.onEvent({ kind: "opening" }, 0);
    metrics.onEvent({ kind: "audio_state", state: "running", hasMicrophone: true }, 0);
    metrics.onEvent({ kind: "ready" }, 0);
    for (let i = 0; i < 60; i += 1) {
      const isLoud = i < frames;
      metrics.onEvent({ kind: "captured", peaks: [isLoud ? 1 : 0.3], rms: 0.2, clipped: isLoud ? clipped : 0 }, 80 * i);
    }
    return conditionOf(metrics.diagnosticFacts("live", { bargeIn: "off" }, 4800));
  };
  equal([conditionAfter(2, 60), conditionAfter(50, 3), conditionAfter(50, 8)], [null, null, "clipping"]);
  ok(CONDITIONS.clipping.text({ autoGainControl: true }).includes("automatic gain control"), "the cause is not named");
});

test("gaps count only where the agent's voice has them", () => {
  const gapsAt = (level) => {
    const metrics = new Metrics();
    metrics.onEvent({ kind: "ready" }, 0);
    for (let i = 0; i < 60; i += 1) {
      metrics.onEvent({ kind: "played", peaks: [level], rms: level, frames: i, underruns: i, latenciesMs: [] }, 80 * i);
    }
    return metrics.diagnosticFacts("live", { bargeIn: "off" }, 4800).recentUnderruns;
  };
  ok(gapsAt(0.2) > 50, "gaps in speech are not counted");
  equal(gapsAt(0.001), 0);
});

test("on the server's own computer no network is blamed", () => {
  for (const hostname of ["localhost", "127.0.0.1", "[::1]"]) {
    for (const text of [CONDITIONS.gaps.text(CALL, { hostname }), droppedMessage({ what: "unsent", count: 9 }, { hostname })]) {
      ok(!/network|cable/.test(text), `${hostname}: ${text}`);
    }
  }
  ok(CONDITIONS.gaps.text(CALL, { hostname: "192.168.1.20" }).includes("network"), "the network is not named");
});

test("advice for the server's machine names the computer that it is meant for", () => {
  equal(adviceHere("This machine is too slow.", { hostname: "localhost" }), "This computer is too slow.");
  equal(
    adviceHere("This machine is too slow.", { hostname: "192.168.1.20" }),
    "The computer that runs the server is too slow.",
  );
});

test("after a denied microphone the diagnosis says so", () => {
  const metrics = new Metrics();
  metrics.onEvent({ kind: "opening" }, 0);
  metrics.onEvent({ kind: "failed", why: "microphone_denied" }, 0);
  const [microphone] = diagnose(metrics.diagnosticFacts("idle", { bargeIn: "off" }, 10));
  equal(microphone.state, "bad");
  ok(microphone.text.includes("blocked"), microphone.text);
});

const GOOD = Object.freeze({
  frames: 60,
  underruns: 0,
  inputPeak: 0.2,
  roundTripMs: 3,
  health: { status: "ready", metrics: { step: { count: 9, p50: 20 } } },
});
const BEFORE_CALL = [
  [{}, ["ok", "ok", "ok", "ok"]],
  [{ inputPeak: 0 }, ["bad", "ok", "ok", "ok"]],
  [{ inputPeak: 0.0004 }, ["warn", "ok", "ok", "ok"]],
  [{ frames: 3 }, ["ok", "bad", "ok", "ok"]],
  [{ underruns: 5 }, ["ok", "warn", "ok", "ok"]],
  [{ roundTripMs: 200 }, ["ok", "ok", "warn", "ok"]],
  [{ roundTripMs: null, health: null }, ["ok", "ok", "bad", "bad"]],
  [{ health: { status: "ready", metrics: { step: { count: 9, p50: 99 } } } }, ["ok", "ok", "ok", "bad"]],
];
for (const [facts, states] of BEFORE_CALL) {
  test(`before a call, each link has one line: ${JSON.stringify(facts)}`, () => {
    equal(checkBeforeCall({ ...GOOD, ...facts }).map(({ state }) => state), states);
  });
}

const answering = (status, body) => async () => new Response(body === undefined ? "" : JSON.stringify(body), { status });

const REFUSED = [
  [401, "unauthorized", true],
  [403, "origin_refused", true],
  [403, "cross_site_refused", true],
  [421, "host_refused", true],
  [400, "client_address_unreadable", true],
  [429, "too_many_requests", false],
  [429, "too_many_attempts", false],
  [503, "draining", false],
];
for (const [status, code, isPermanent] of REFUSED) {
  test(`a refusal with ${code} is told as such`, async () => {
    const ask = answering(status, { error: { code, message: "…", retryAfterMs: 7 } });
    const refusal = await findRefusal("wss://host:1/ws?resume=x", ask);
    equal([refusal.why, refusal.isPermanent, refusal.retryAfterMs], [code, isPermanent, 7]);
    ok(!closeMessage(code).startsWith("Disconnected"), "no words for it");
    ok(code in REFUSALS, "no remedy");
  });
}

test("a server that is gone, a proxy without WebSockets and one without a server are told apart", async () => {
  const gone = async () => {
    throw new TypeError("failed to fetch");
  };
  equal((await findRefusal("ws://host/ws", gone)).why, "unreachable");
  equal((await findRefusal("ws://host/ws", answering(405, { error: { code: "method_not_allowed" } }))).why, "no_websocket");
  equal((await findRefusal("ws://host/ws", answering(502))).why, "bad_gateway");
  equal((await findRefusal("ws://host/ws", answering(403))).why, "refused_elsewhere");
  equal((await findRefusal("ws://host/ws", answering(429))).why, "too_many_requests");
});

test("a proxy without its server is not a server that refuses this page", () => {
  equal(serverState({ status: "refused", code: "bad_gateway" }), "unreachable");
  equal(serverState({ status: "refused", code: "host_refused" }), "refused");
});

test("the probe of a refusal never contains the resume token", async () => {
  const asked = [];
  await findRefusal("wss://host/ws?resume=secret", async (url) => {
    asked.push(url);
    return new Response("", { status: 405 });
  });
  equal(asked, ["https://host/ws"]);
});

function memoryStorage(limit = Infinity) {
  const stored = new Map();
  return {
    getItem: (key) => stored.get(key) ?? null,
    setItem(key, value) {
      if (value.length > limit) throw new DOMException("full", "QuotaExceededError");
      stored.set(key, value);
    },
    removeItem: (key) => stored.delete(key),
  };
}

test("past conversations are newest first, replaced by their id, and deletable", () => {
  const store = new HistoryStore(memoryStorage());
  equal(store.list(), []);
  store.save("a", { lines: [{ text: "one" }] });
  store.save("b", { lines: [{ text: "two" }] });
  store.save("a", { lines: [{ text: "one" }, { text: "more" }] });
  equal(store.list().map(({ id, lines }) => [id, lines.length]), [["a", 2], ["b", 1]]);
  store.delete("a");
  equal(store.list().map(({ id }) => id), ["b"]);
  store.clear();
  equal(store.list(), []);
});

test("when storage is full the oldest conversations make room", () => {
  const store = new HistoryStore(memoryStorage(400));
  for (let i = 0; i < 9; i += 1) store.save(String(i), { lines: [{ text: "word ".repeat(10) }] });
  ok(store.list().length < 9 && store.list()[0].id === "8", JSON.stringify(store.list()));
});

test("a question has a recording whatever its case and punctuation; others have none", () => {
  ok(recordingOf("What is three plus four?")?.endsWith("/questions/what-is-three-plus-four.wav"), "not found");
  equal([recordingOf("what is five"), recordingOf("")], [null, null]);
  equal(["who are you", "Who are you?", "Say yes."].map(asQuestion), ["who are you?", "Who are you?", "Say yes."]);
});

test("when to try again is said where the server says it", () => {
  equal(formatDelay(200), "in 1 s");
  equal(formatDelay(40_100), "in 41 s");
  equal(formatDelay(150_000), "in 3 min");
  equal(errorMessage({ message: "every lane is taken", retryAfterMs: 5000 }), "Every lane is taken. Try again in 5 s.");
  equal(errorMessage({ message: "no" }), "No.");
  ok(REFUSALS.too_many_attempts.text({}, 41_000).includes("in 41 s"), "the time is missing");
  ok(!REFUSALS.too_many_attempts.text({}).includes("undefined"), "an unknown time is shown");
});

test("without a microphone the check before a call still has a line for each link", () => {
  const facts = { frames: 0, underruns: 0, inputPeak: 0, roundTripMs: 3, health: null };
  const checks = checkBeforeCall({ ...facts, problem: PROBLEMS.microphone_denied });
  equal(checks.map(({ name, state }) => [name, state]), [
    ["Microphone", "bad"],
    ["Loudspeaker", "idle"],
    ["Network", "ok"],
    ["Machine", "bad"],
  ]);
  ok(checks[0].text.startsWith("Microphone access is blocked."), checks[0].text);
});

test("a sample of a voice ends in the pause after the answer, without one soon, and at the latest after 8 s", () => {
  const lengthOf = (rmsAt) => {
    const end = new SampleEnd(0);
    let ms = 0;
    while (!end.isOver(rmsAt(ms), ms)) ms += 80;
    return [ms, end.wasHeard];
  };
  equal(lengthOf((ms) => (ms > 500 && ms < 2000 ? 0.1 : 0)), [2960, true]);
  equal(lengthOf(() => 0), [4000, false]);
  equal(lengthOf(() => 0.1), [8000, true]);
});

test("a sample of a voice does not say that it listens", () => {
  const { message } = describeState({ phase: "live", health: READY, withoutMicrophone: true, isSample: true });
  ok(message.startsWith("A sample of the voice"), message);
});

test("a machine that is too slow at times is not called fast enough", () => {
  const facts = { phase: "live", modelMs: 12, contextState: "running", inputDb: -20, upHz: 12.5, downHz: 12.5, outputDb: -20 };
  const speed = (more) => diagnose({ ...facts, ...more }).find(({ name }) => name === "Model speed");
  equal(speed({ advice: null }).state, "ok");
  equal(speed({ advice: "Close other programs." }).state, "bad");
  equal(speed({ advice: "Close other programs.", phase: "idle", modelMs: null }).state, "bad");
  const health = { status: "ready", metrics: { step: { count: 9, p50: 12 } }, capacity: { advice: "Close other programs." } };
  const rows = checkBeforeCall({ frames: 60, underruns: 0, inputPeak: 0.5, roundTripMs: 5, health });
  equal(rows.find(({ name }) => name === "Machine").state, "bad");
});

test("an agent that says nothing is no warning", () => {
  const facts = { phase: "live", contextState: "running", inputDb: -20, upHz: 12.5, downHz: 12.5, outputDb: -20, modelMs: 12, paddingShare: 0.99, trained: true };
  equal(diagnose(facts).find(({ name }) => name === "Agent").state, "ok");
});

test("a session of this page that has ended takes no place", () => {
  const health = { status: "ready", lanes: { room: 0, queued: 0, running: 1, limit: 1 } };
  equal(serverState(health), "full");
  equal(serverState(withoutOwnSession(health)), "ready");
  equal(serverState(withoutOwnSession({ ...health, lanes: { ...health.lanes, queued: 1 } })), "full");
  equal(withoutOwnSession(null), null);
});

test("a sentence that Stop cuts is interrupted, a finished one is not", () => {
  for (const [stoppedMs, isAudible, interrupted] of [[1200, false, true], [9000, true, true], [9000, false, false]]) {
    const log = conversation();
    log.agentText({ text: "three plus", final: false }, 1000);
    log.cutOff(stoppedMs, isAudible);
    log.agentText({ text: "three plus", final: true }, stoppedMs + 10); // the server closes the utterance
    log.close("agent");
    equal(log.toJSON().lines[0].interrupted, interrupted);
  }
});

test("an answer that has been said whole is not interrupted, although it is still heard", () => {
  for (const [text, sinceMs, interrupted] of [["it is seven.", 800, false], ["it is seven.", 200, true], ["it is", 800, true]]) {
    const log = conversation();
    log.agentText({ text, final: false }, 1000);
    log.cutOff(1000 + sinceMs, true);
    log.close("agent");
    equal(log.toJSON().lines[0].interrupted, interrupted, `${text} ${sinceMs} ms`);
  }
});

test("a second conversation has its own date, since its times begin anew", () => {
  const log = conversation();
  log.agentText({ text: "hello", final: true }, 9000);
  const secondMs = Date.UTC(2026, 5, 1);
  log.start(60_000, secondMs);
  log.agentText({ text: "again", final: true }, 61_000);
  ok(log.text().includes(`--- New conversation, ${formatDate(secondMs)} ---\n0:01  Agent: Again`), log.text());
});

test("the user's words are missing until there are some", () => {
  const log = conversation();
  equal(log.isWithoutUser, false); // nothing was said
  log.agentText({ text: "hello", final: true }, 1000);
  equal(log.isWithoutUser, true);
  log.userText({ text: "hi", final: true }, 3000);
  equal(log.isWithoutUser, false);
});

test("a transcript without the user's words says so wherever it goes", () => {
  const log = conversation();
  log.agentText({ text: "hello", final: true }, 1000);
  equal([log.isOneSided, "note" in log.toJSON()], [false, false]); // nobody else has spoken
  log.speaking(true, 2000);
  equal(log.isOneSided, true);
  ok(log.text().includes("Only the agent's words"), log.text());
  ok(log.toJSON().note.includes("Only the agent's words"));
  log.userText({ text: "hi", final: true }, 3000);
  equal([log.isOneSided, "note" in log.toJSON()], [false, false]);
});

test("a transcript with some of the user's words says that others may be missing", () => {
  const log = conversation();
  const say = (nowMs) => [log.speaking(true, nowMs), log.speaking(false, nowMs + 500)];
  say(1000);
  log.setCaptioning(true);
  equal(log.isPartlyOneSided, false); // none of them so far
  say(5000);
  log.userText({ text: "hi", final: true, spokenMs: 5000 }, 6000);
  ok(log.text().includes("Some of what you said may be missing"), log.text());
  const whole = conversation();
  whole.setCaptioning(true);
  whole.speaking(true, 1000);
  whole.userText({ text: "hi", final: true }, 2000);
  whole.setCaptioning(false); // nobody speaks then
  equal("note" in whole.toJSON(), false);
});
