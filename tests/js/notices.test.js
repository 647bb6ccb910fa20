import { moveFocusFrom } from "voice/focus.js";
import { Notices } from "voice/ui/notices.js";
import { CONDITIONS, PROBLEMS, REFUSALS, captionsProblem } from "voice/ui/messages.js";
import { isNoteworthy } from "voice/ui/noteworthy.js";
import { equal, ok, test } from "./harness.js";

const LANES = Object.freeze({ room: 1, queued: 0 });
const CALL = Object.freeze({
  phase: "live", contextState: "running", hasMicrophone: true, inputDb: -20, wasHeard: true, liveMs: 20_000,
  zeroMs: 0, slowMs: 0, clippedShare: 0, upHz: 12.5, recentUnderruns: 0, modelMs: 20,
});

/** The notices of an empty page. → {root, send, topics}; `topics`: the help that was asked for. */
function notices(facts = CALL) {
  document.getElementById("notices")?.remove();
  const root = document.createElement("div");
  root.id = "notices";
  document.body.append(root);
  const topics = [];
  const view = new Notices({ resume: () => {}, help: (topic) => topics.push(topic), facts: () => facts });
  return { root, topics, send: (event) => view.onEvent(event, "live") };
}

const EVENTS = [
  ...Object.keys(REFUSALS).map((why) => ({ kind: "ended", why })),
  ...Object.keys(PROBLEMS).map((why) => ({ kind: "audio_failed", why })),
  { kind: "health", health: { status: "unauthorized" } },
  { kind: "health", health: { status: "refused", code: "bad_gateway" } },
  { kind: "health", health: { status: "not_ready" } },
  { kind: "health", health: { status: "ready", lanes: LANES, model: { trained: false } } },
  { kind: "health", health: { status: "ready", lanes: LANES, capacity: { advice: "Use a smaller one." } } },
  { kind: "token_refused", why: "token_wrong" },
  { kind: "token_refused", why: "request_timeout", message: "too slow", retryAfterMs: 7000 },
  { kind: "connection_stats", droppedFrames: 9 },
  { kind: "microphone_changed", label: "", why: "lost" },
  { kind: "output_missing" },
  { kind: "audio_state", state: "suspended" },
  { kind: "error", code: "bad_metadata", message: "no", retryAfterMs: 3000 },
  { kind: "draining" },
  { kind: "recording", on: true, name: "a" },
  { kind: "dropped", what: "audio", count: 9 },
  { kind: "vad", state: "not_ready", why: "missing" },
  { kind: "captions", state: "not_ready", why: "unreachable", message: "No." },
  { kind: "captions", state: "behind" },
];

test("each notice leads to a section of the help", async () => {
  const page = new DOMParser().parseFromString(await (await fetch("/packet-voice")).text(), "text/html");
  for (const event of EVENTS) {
    ok(isNoteworthy(event, { droppedFrames: event.count }), `the notices are not loaded for ${JSON.stringify(event)}`);
    const { root, send, topics } = notices();
    root.replaceChildren();
    send(event);
    const what = JSON.stringify(event);
    equal(root.querySelectorAll(".notice").length, 1, `the number of notices after ${what}`);
    root.querySelector(`button[aria-label^="Help: "]`)?.click();
    ok(page.getElementById(`help-${topics[0]}`) !== null, `no help after ${what}: ${topics}`);
  }
});

test("a visit without problems needs no notices", () => {
  const health = { status: "ready", lanes: LANES, model: { trained: true } };
  const events = [
    { kind: "health", health }, { kind: "loaded" }, { kind: "opening" }, { kind: "audio_state", state: "running" },
    { kind: "ready" }, { kind: "vad", state: "on" }, { kind: "captions", state: "none_stored" }, { kind: "speaking" },
    { kind: "connection_stats", droppedFrames: 0 }, { kind: "recording", on: false }, { kind: "ended", why: "stopped" },
  ];
  for (const event of events) ok(!isNoteworthy(event, { condition: null, droppedFrames: 0 }), JSON.stringify(event));
  ok(!isNoteworthy({ kind: "dropped", what: "audio", count: 1 }, { droppedFrames: 1 }), "one frame");
  ok(isNoteworthy({ kind: "connection_stats", droppedFrames: 0 }, { condition: "gaps" }), "a condition");
});

test("each condition of a call leads to a section of the help, and ends with it", () => {
  const cases = { no_signal: { zeroMs: 9000 }, server_slow: { slowMs: 4000, modelMs: 90 }, gaps: { recentUnderruns: 6 } };
  for (const [condition, worse] of Object.entries(cases)) {
    const facts = { ...CALL, ...worse };
    const { root, send, topics } = notices(facts);
    send({ kind: "connection_stats" });
    equal(root.querySelector("strong").textContent, `${CONDITIONS[condition].title}.`);
    root.querySelector(`button[aria-label^="Help: "]`).click();
    equal(topics.length, 1);
    Object.assign(facts, CALL);
    send({ kind: "connection_stats" });
    equal(root.childElementCount, 0, "the notices after it is over");
  }
});

test("a notice that was closed stays closed while its reason lasts", () => {
  const { root, send } = notices({ ...CALL, zeroMs: 9000 });
  for (let i = 0; i < 3; i += 1) {
    send({ kind: "connection_stats" });
    root.querySelector(".close")?.click();
  }
  equal(root.childElementCount, 0);
});

test("the focus moves to the next notice when one is closed, then to the next control", () => {
  const { root, send } = notices();
  const talk = document.createElement("button");
  talk.id = "talk";
  document.body.append(talk);
  send({ kind: "draining" });
  send({ kind: "output_missing" });
  const [first, second] = root.querySelectorAll(".close");
  first.focus();
  first.click();
  ok(document.activeElement === second, "the second notice does not have the focus");
  second.click();
  ok(document.activeElement === talk, "the call button does not have the focus");
  talk.remove();
});

test("the focus stays where it is if something else disappears", () => {
  const [kept, gone] = [document.createElement("button"), document.createElement("div")];
  document.body.append(kept, gone);
  kept.focus();
  moveFocusFrom(gone, null);
  ok(document.activeElement === kept, "it moved");
  kept.remove();
});

test("a notice of limited duration is replaced by a newer one of its topic", () => {
  const { root, send } = notices();
  send({ kind: "dropped", what: "audio", count: 9 });
  send({ kind: "dropped", what: "agent_audio", count: 9 });
  equal(root.childElementCount, 1);
});

test("drops are one notice with their sum; less than half a second, or beside a slow machine, none", () => {
  const { root, send } = notices();
  const drop = () => send({ kind: "dropped", what: "audio", count: 4 });
  drop();
  equal(root.childElementCount, 0);
  drop();
  const [box] = root.children;
  ok(box.textContent.includes("0.6 s of your audio"), box.textContent);
  drop();
  equal([...root.children], [box], "the notices");
  ok(box.textContent.includes("1.0 s of your audio"), box.textContent);
  send({ kind: "health", health: { status: "ready", lanes: LANES, capacity: { advice: "This machine is too slow." } } });
  drop();
  equal(root.querySelectorAll("[data-key=dropped]").length, 0);
});

test("a refusal that the page has no words for is told in the server's own, and one without any has a remedy too", () => {
  const { root, send } = notices();
  send({ kind: "token_refused", why: "request_timeout", message: "it took too long", retryAfterMs: 7000 });
  ok(root.textContent.includes("It took too long. Try again in 7 s."), root.textContent);
  send({ kind: "health", health: { status: "refused", code: "refused_elsewhere" } });
  ok(root.textContent.includes(REFUSALS.refused_elsewhere.title), root.textContent);
});

test("audio that the page could not send is told as it happens, and once", () => {
  const { root, send } = notices();
  send({ kind: "connection_stats", droppedFrames: 25 });
  ok(root.textContent.includes("2.0 s of your audio was not sent"), root.textContent);
  root.querySelector(".close").click();
  send({ kind: "connection_stats", droppedFrames: 25 });
  equal(root.childElementCount, 0);
});

test("silence that is dropped is not reported as audio", () => {
  const cases = [
    [{ inputDb: -70 }, { kind: "dropped", what: "audio", count: 9 }],
    [{ muted: true }, { kind: "dropped", what: "audio", count: 9 }],
    [{ inputDb: null }, { kind: "connection_stats", droppedFrames: 9 }],
    [{ outputDb: -80 }, { kind: "dropped", what: "agent_audio", count: 9 }],
  ];
  for (const [quiet, event] of cases) {
    const { root, send } = notices({ ...CALL, ...quiet });
    send(event);
    equal(root.querySelectorAll("[data-key=dropped]").length, 0, JSON.stringify(event));
    const audible = notices({ ...CALL, outputDb: -20 });
    audible.send(event);
    equal(audible.root.querySelectorAll("[data-key=dropped]").length, 1, JSON.stringify(event));
  }
});

test("captions whose model the hub does not have are told so in plain words", () => {
  const text = captionsProblem({ why: "gone", message: "org/whisper has no config.json (HTTP 404)." }, location);
  ok(text.includes("could not be downloaded") && !text.includes("config.json"), text);
});
