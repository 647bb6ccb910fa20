import { Figures } from "voice/ui/metrics.js";
import { Window } from "voice/percentiles.js";
import { nextPhase } from "voice/phase.js";
import { DEFAULTS, keepPreferences, loadPreferences } from "voice/preferences.js";
import { Recorder, clock } from "voice/audio/recorder.js";
import { diagnose } from "voice/ui/silence.js";
import { SpeechGate } from "voice/vad/speech-gate.js";
import { Suggestions } from "voice/ui/suggestions.js";
import { equal, holds, law, near } from "./laws.js";

const WELL = Object.freeze({
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
  barging: false,
  underrunsLately: 0,
  trained: true,
});

const states = (facts) => diagnose({ ...WELL, ...facts }).map(({ state }) => state);

law("all is well where all is well", () => equal(states({}), ["ok", "ok", "ok", "ok", "ok"]));

const CAUSES = [
  ["a suspended context", { contextState: "suspended" }, 0, "bad"],
  ["mute", { muted: true }, 0, "warn"],
  ["a microphone switched off by the system", { sourceMuted: true }, 0, "bad"],
  ["pure zeros", { inputDb: -120 }, 0, "bad"],
  ["a faint voice", { inputDb: -60 }, 0, "warn"],
  ["frames that do not leave", { upHz: 3 }, 1, "bad"],
  ["frames that do not come back", { downHz: 0 }, 1, "bad"],
  ["the queue", { phase: "queued" }, 1, "warn"],
  ["a lost connection", { phase: "lost" }, 1, "bad"],
  ["a machine that cannot keep up", { modelMs: 95 }, 2, "bad"],
  ["a machine that is late", { modelMs: 45 }, 2, "warn"],
  ["an agent that chose silence", { paddingShare: 0.99 }, 3, "warn"],
  ["an untrained model", { trained: false }, 3, "warn"],
  ["gaps", { underrunsLately: 2 }, 4, "warn"],
  ["barge-in", { barging: true }, 4, "warn"],
];

for (const [cause, facts, link, state] of CAUSES) {
  law(`${cause} is found, and nothing else is blamed for it`, () => {
    const found = states(facts);
    equal(found[link], state);
    if (facts.phase === undefined) found.forEach((other, i) => holds(i === link || other === "ok", `link ${i}`));
  });
}

law("the padding share counts the steps without a word", () => {
  const figures = new Figures();
  figures.heed({ kind: "opening" }, 0);
  figures.heed({ kind: "ready" }, 0);
  equal(figures.paddingShare, null);
  for (let k = 1; k <= 101; k += 1) {
    if (k % 4 === 0) figures.heed({ kind: "text", final: false, text: "…" }, k);
    figures.heed({ kind: "played", peaks: [0], frames: k, underruns: 0, latenciesMs: [100 + k] }, 80 * k);
  }
  near(figures.paddingShare, 0.75, 0.01);
  near(figures.stepHz, 12.5, 1e-9);
  equal(figures.micToSpeaker.summary().count, 101);
});

law("percentiles are nearest ranks of the last values only", () => {
  const last = new Window(100);
  equal(last.summary(), { p50: null, p95: null, count: 0 });
  for (let value = 1; value <= 1000; value += 1) last.add(value);
  equal(last.summary(), { p50: 950, p95: 995, count: 1000 });
});

law("a recording holds user left and agent right, each at its time", async () => {
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
  equal(clock(recorder.durationMs), "0:01");
});

law("preferences come back, and what is unreadable is what was never chosen", () => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  equal(loadPreferences(storage), DEFAULTS);
  keepPreferences(storage, { ...DEFAULTS, barge: "flush", sampling: { seed: 7 } });
  equal(loadPreferences(storage).sampling, { seed: 7 });
  kept.set("packet-voice", '{"barge": 3, "unknown": 1}');
  equal(loadPreferences(storage), DEFAULTS);
  kept.set("packet-voice", "{");
  equal(loadPreferences(storage), DEFAULTS);
});

law("a click is no speech, a pause between words is no end", () => {
  const gate = new SpeechGate();
  const hear = (probability, windows) =>
    Array.from({ length: windows }, () => gate.push(probability)).some(Boolean);
  equal([hear(0.9, 1), hear(0.1, 1), gate.speaking], [false, false, false]);
  equal([hear(0.9, 2), gate.speaking], [true, true]);
  equal([hear(0.1, 8), hear(0.9, 1), hear(0.1, 8), gate.speaking], [false, false, false, true]);
  equal([hear(0.1, 13), gate.speaking], [true, false]);
});

law("a goodbye is not undone by what was on its way", () => {
  const phases = (kinds) => kinds.reduce((phase, kind) => nextPhase(phase, { kind }), "idle");
  equal(phases(["opening", "connecting", "queued", "ready"]), "live");
  equal(phases(["opening", "connecting", "ready", "lost", "connecting", "resumed"]), "live");
  equal(phases(["opening", "closing", "connecting", "ready"]), "closing");
  equal(phases(["opening", "closing", "ready", "ended"]), "idle");
});

/** A view of suggestions in a section of its own, told what happens as the page is: event and phase. */
function suggesting() {
  document.getElementById("suggestions")?.remove();
  const section = document.createElement("section");
  section.id = "suggestions";
  section.hidden = true;
  document.body.append(section);
  const view = new Suggestions();
  let phase = "idle";
  const tell = (kind, content) => {
    phase = nextPhase(phase, { kind });
    view.heed({ kind, ...content }, phase);
  };
  return { section, tell };
}

const ASKED = Object.freeze({ name: "sums", about: "It adds.", suggestions: ["what is <b>1</b> plus 2", "bye"] });

law("what to ask is said until words were exchanged, and again when the conversation is over", () => {
  const { section, tell } = suggesting();
  const seen = [];
  const after = (kind, content) => {
    tell(kind, content);
    seen.push(!section.hidden);
  };
  after("health", { health: { status: "ready", model: ASKED } });
  for (const kind of ["opening", "connecting", "queued"]) after(kind);
  after("connection_established", { model: ASKED });
  after("ready");
  after("text", { text: "", final: false });
  equal(seen, Array(7).fill(true));
  seen.length = 0;
  after("text", { text: "three", final: false });
  after("health", { health: { status: "ready", model: ASKED } });
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

law("what a model suggests is text, in quotation marks, and stays in place while it is the same", () => {
  const { section, tell } = suggesting();
  tell("health", { health: { status: "ready", model: ASKED } });
  const items = [...section.querySelectorAll("ul > li")];
  equal(items.map((item) => item.textContent), ["“what is <b>1</b> plus 2”", "“bye”"]);
  equal([section.querySelector("b"), section.querySelector("p").textContent], [null, "It adds."]);
  equal(section.querySelector("ul").getAttribute("aria-labelledby"), section.querySelector("h2").id);
  for (const health of [{ model: ASKED }, { model: null }, { status: "unauthorized" }, null]) {
    tell("health", { health });
    holds(section.querySelector("li") === items[0], "the list was made anew");
  }
});

law("of a model that suggests nothing, nothing is shown, whatever is left out", () => {
  const { section, tell } = suggesting();
  tell("health", { health: { status: "ready", model: ASKED } });
  for (const none of [{}, { about: null, suggestions: [] }, { suggestions: null }]) {
    tell("connection_established", { model: none });
    equal([section.hidden, section.childElementCount], [true, 0]);
  }
  tell("health", { health: { model: { about: "It adds." } } });
  equal([section.hidden, section.querySelector("h2"), section.textContent], [false, null, "It adds."]);
  tell("health", { health: { model: { suggestions: ["bye"] } } });
  equal([section.hidden, section.querySelector("p")], [false, null]);
});
