import { AudioIO } from "voice/audio/audio-io.js";
import { MicrophoneCapture } from "transcribe/microphone-capture.js";
import { newContext, openContext, watchContext } from "voice/audio/context.js";
import { LevelDetector } from "voice/vad/level-detector.js";
import { SpeechGate } from "voice/vad/speech-gate.js";
import { applyVolume } from "voice/audio/limiter.js";
import { AudioError } from "voice/audio/audio-error.js";
import { openMicrophone } from "voice/audio/microphone.js";
import { DEFAULTS } from "voice/preferences.js";
import { inFirefox } from "./fake-audio.js";
import { inRecognition } from "./fake-recognition.js";
import { equal, ok, test } from "./harness.js";

const RATES = { builtin: 48_000, headset: 16_000, usb: 48_000 };

test("a microphone of another rate can be chosen in mid-call: the path is built again, the old one is released", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const audio = await AudioIO.open(DEFAULTS, (event) => world.events.push(event));
    const attached = [];
    audio.connect((ports) => attached.push(ports));
    equal(audio.describe().rateHz, 48_000);
    await audio.switchMicrophone({ ...DEFAULTS, deviceId: "headset" });
    equal([audio.describe().rateHz, audio.describe().granted.label], [16_000, "headset"]);
    equal(world.streams.map(({ track }) => track.live), [false, true]);
    equal([attached.length, world.contexts.filter(({ state }) => state === "running").length], [2, 1]);
    await audio.switchMicrophone({ ...DEFAULTS, deviceId: "builtin" });
    equal(audio.describe().rateHz, 48_000);
    await audio.close();
    ok(world.streams.every(({ track }) => !track.live), "a microphone stayed open");
    ok(world.contexts.every(({ state }) => state === "closed"), "a context stayed open");
  }));

test("a microphone of a rate that no context has keeps the old one, releases the new one, and is an AudioError", () =>
  inFirefox({ rates: { ...RATES, odd: 11_111 } }, async (world) => {
    const audio = await AudioIO.open(DEFAULTS, () => {});
    world.streams[0].track.getSettings = () => ({ sampleRate: 48_000, deviceId: "builtin" });
    const Native = globalThis.AudioContext;
    globalThis.AudioContext = class extends Native {
      createMediaStreamSource() {
        throw new DOMException("another rate", "NotSupportedError");
      }
    };
    const error = await audio.switchMicrophone({ ...DEFAULTS, deviceId: "headset" }).catch((one) => one);
    // The call's own context still accepts its microphone; every new one refuses.
    ok(error instanceof AudioError && error.why === "microphone_rate", String(error));
    equal(world.streams.map(({ track }) => track.live), [true, false]);
    await audio.close();
  }));

test("the same remedy at the start of a call", () =>
  inFirefox({ rates: { builtin: 16_000 } }, async () => {
    const audio = await AudioIO.open(DEFAULTS, () => {});
    equal(audio.describe().rateHz, 16_000);
    await audio.close();
  }));

test("openContext closes every context that it does not return", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const stream = { rate: 16_000 };
    const { context } = await openContext((one) => one.createMediaStreamSource(stream), newContext(24_000), 16_000);
    equal(world.contexts.map((one) => one === context || one.state), ["closed", "closed", true]);
  }));

test("a selected microphone that is not connected is replaced by the default, and the page is told", () =>
  inFirefox({ rates: RATES, devices: { missing: ["usb"] } }, async (world) => {
    const preferences = { ...DEFAULTS, deviceId: "usb" };
    const audio = await AudioIO.open(preferences, (event) => world.events.push(event));
    const told = world.events.find(({ kind }) => kind === "microphone_changed");
    equal([told?.label, told?.why], ["builtin", "missing"]);
    equal((await openMicrophone(preferences)).track.label, "builtin");
    await audio.close();
  }));

test("a microphone that is unplugged in mid-call is replaced by another one", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const audio = await AudioIO.open({ ...DEFAULTS, deviceId: "usb" }, (event) => world.events.push(event));
    await world.streams[0].track.onended();
    equal(world.events.filter(({ kind }) => kind === "microphone_changed").map(({ why }) => why), ["lost"]);
    equal(audio.describe().granted.label, "builtin");
    await audio.close();
  }));

test("a permission that is taken back is told as such, and nothing else is opened", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const audio = await AudioIO.open(DEFAULTS, (event) => world.events.push(event));
    world.denied = true;
    await world.streams[0].track.onended();
    equal(world.events.find(({ kind }) => kind === "audio_failed")?.why, "microphone_revoked");
    equal(world.streams.length, 1);
    await audio.close();
  }));

test("a call without a microphone opens none, and can turn one on later", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const audio = await AudioIO.open(DEFAULTS, () => {}, { microphone: false });
    equal([world.streams.length, audio.hasMicrophone], [0, false]);
    await audio.switchMicrophone(DEFAULTS);
    equal([world.streams.length, audio.hasMicrophone], [1, true]);
    await audio.close();
  }));

const devicesChanged = async () => {
  navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
};

test("a loudspeaker that is unplugged in mid-call is replaced by the default, told, and used again when it is back", () =>
  inFirefox({ rates: RATES }, async (world) => {
    world.outputs = ["headset", "usb"];
    const kinds = () => world.events.map(({ kind }) => kind).filter((kind) => kind.startsWith("output"));
    const audio = await AudioIO.open({ ...DEFAULTS, outputId: "usb" }, (event) => world.events.push(event));
    const [context] = world.contexts.slice(-1);
    equal([context.sinkId, kinds()], ["usb", []]);
    world.outputs = ["headset"];
    await devicesChanged();
    equal([context.sinkId, kinds()], ["", ["output_missing"]]);
    await devicesChanged();
    equal(kinds(), ["output_missing"]);
    world.outputs = ["headset", "usb"];
    await devicesChanged();
    equal([context.sinkId, kinds()], ["usb", ["output_missing", "output_found"]]);
    await audio.close();
  }));

test("a loudspeaker that is not connected when the call starts is used as soon as it is", () =>
  inFirefox({ rates: RATES }, async (world) => {
    world.outputs = ["headset"];
    const audio = await AudioIO.open({ ...DEFAULTS, outputId: "usb" }, (event) => world.events.push(event));
    ok(world.events.some(({ kind }) => kind === "output_missing"), "it is not told");
    world.outputs = ["usb"];
    await devicesChanged();
    equal(world.contexts.at(-1).sinkId, "usb");
    await audio.close();
  }));

test("without a permission, by which devices could be told apart, the loudspeaker is left alone", () =>
  inFirefox({ rates: RATES }, async (world) => {
    world.outputs = ["usb"];
    const audio = await AudioIO.open({ ...DEFAULTS, outputId: "usb" }, (event) => world.events.push(event));
    world.outputs = [];
    await devicesChanged();
    equal(world.contexts.at(-1).sinkId, "usb");
    await audio.close();
  }));

test("whatever a browser throws when a microphone is switched is an AudioError, as at the start", () =>
  inFirefox({ rates: RATES }, async () => {
    const audio = await AudioIO.open(DEFAULTS, () => {});
    navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException("", "InvalidStateError");
    };
    const { error: log } = console;
    console.error = () => {}; // the page logs what it has no words for
    const error = await audio.switchMicrophone({ ...DEFAULTS, deviceId: "headset" }).catch((one) => one);
    console.error = log;
    ok(error instanceof AudioError && error.why === "audio_failed", String(error));
    equal(audio.describe().granted.label, "builtin");
    await audio.close();
  }));

const gone = async () => {
  throw new TypeError("failed to fetch");
};
for (const [what, fetched] of [["cannot be fetched", gone], ["cannot be decoded", async () => new Response("text")]]) {
  test(`a recorded question that ${what} is an AudioError`, () =>
    inFirefox({ rates: RATES }, async () => {
      const kept = globalThis.fetch;
      globalThis.fetch = fetched;
      const audio = await AudioIO.open(DEFAULTS, () => {});
      const error = await audio.ask("question.wav").catch((one) => one);
      globalThis.fetch = kept;
      ok(error instanceof AudioError && error.why === "question_failed", String(error));
      await audio.close();
    }));
}

test("a context that is interrupted is told, and resumed by the user's next action", () => {
  const [told, calls] = [[], []];
  const context = { state: "interrupted", resume: async () => calls.push(context.state) };
  const act = () => document.dispatchEvent(new Event("pointerdown"));
  const unwatch = watchContext(context, (state) => told.push(state));
  context.onstatechange?.();
  act();
  equal([told, calls], [["interrupted"], ["interrupted"]]);
  context.state = "suspended";
  document.dispatchEvent(new Event("visibilitychange"));
  document.dispatchEvent(new Event("keydown"));
  equal(calls, ["interrupted", "suspended", "suspended"]);
  context.state = "running";
  act();
  context.state = "interrupted";
  unwatch();
  act();
  equal(calls.length, 3);
});

test("both pages watch the context that they use, whichever that is", () =>
  inFirefox({ rates: RATES }, async (world) => {
    const states = () => world.events.filter(({ kind }) => kind === "audio_state").map(({ state }) => state);
    const pause = () => {
      const [context] = world.contexts.filter(({ state }) => state === "running").slice(-1);
      context.state = "suspended";
      context.onstatechange?.();
      context.state = "running";
    };
    const audio = await AudioIO.open(DEFAULTS, (event) => world.events.push(event));
    pause();
    await audio.switchMicrophone({ ...DEFAULTS, deviceId: "headset" }); // in another context
    pause();
    equal(states(), ["suspended", "suspended"]);
    await audio.close();
    const told = [];
    const nothing = () => {};
    const onState = (state) => told.push(state);
    const callbacks = { onSamples: nothing, onLevel: nothing, onProblem: nothing, onLost: nothing, onState };
    const capture = await MicrophoneCapture.open(callbacks);
    pause();
    equal(told, ["suspended"]);
    await capture.close();
  }));

test("recognition by the browser that cannot go on ends, and says so", () =>
  inRecognition(({ started, events }) => {
    started[0].onerror({ error: "no-speech" });
    started[0].onend();
    equal([started.length, events.length], [2, 0]);
    started[1].onerror({ error: "not-allowed" });
    started[1].onend();
    equal([started.length, events.map(({ state, why }) => [state, why])], [2, [["not_ready", "browser"]]]);
  }));

test("the agent's volume never clips and leaves quiet sound exactly as it is", () => {
  const loud = Float32Array.from({ length: 128 }, (_, i) => Math.sin(i));
  applyVolume(loud, 2, 2);
  ok(loud.every((value) => Math.abs(value) < 1), "it clips");
  const same = Float32Array.of(0.99, -1, 0.25);
  applyVolume(same, 1, 1);
  equal(Array.from(same), Array.from(Float32Array.of(0.99, -1, 0.25)));
  const quiet = new Float32Array(4).fill(0.1);
  applyVolume(quiet, 0, 2);
  equal(Array.from(quiet, (value) => Math.round(1000 * value)), [50, 100, 150, 200]);
});

function speechAfter(detector, levels) {
  const gate = new SpeechGate();
  const seen = [];
  for (const [level, windows] of levels) {
    const samples = Float32Array.from({ length: 768 * windows }, (_, i) => level * Math.SQRT2 * Math.sin(i / 3));
    for (const probability of detector.process(samples)) gate.push(probability);
    seen.push(gate.speaking);
  }
  return seen;
}

test("speech is noticed by its level above the background, however loud that is", () => {
  equal(speechAfter(new LevelDetector(24_000), [[0.001, 60], [0.05, 10], [0.001, 20]]), [false, true, false]);
  equal(speechAfter(new LevelDetector(24_000), [[0, 60], [0.1, 10], [0, 20]]), [false, true, false]);
  const hum = speechAfter(new LevelDetector(24_000), [[0.01, 300], [0.012, 60], [0.2, 10]]);
  equal(hum.slice(1), [false, true]);
});
