import { AudioIO } from "voice/audio/audio-io.js";
import { newContext, openContext } from "voice/audio/context.js";
import { LevelDetector } from "voice/vad/level-detector.js";
import { SpeechGate } from "voice/vad/speech-gate.js";
import { applyVolume } from "voice/audio/limiter.js";
import { AudioError, openMicrophone } from "voice/audio/microphone.js";
import { DEFAULTS } from "voice/preferences.js";
import { equal, ok, test } from "./harness.js";

/** A browser like Firefox, which refuses a microphone whose rate is not the context's. `run(world)` inside it. */
async function inFirefox({ rates, devices = {} }, run) {
  const world = { contexts: [], streams: [], events: [], denied: false };
  const node = () => ({ connect() {}, disconnect() {}, port: { postMessage() {} } });
  class Context {
    constructor({ sampleRate = 48_000 } = {}) {
      Object.assign(this, { sampleRate, state: "running", currentTime: 0, destination: {} });
      this.audioWorklet = { addModule: async () => {} };
      world.contexts.push(this);
    }
    createMediaStreamSource(stream) {
      if (stream.rate !== this.sampleRate) throw new DOMException("another rate", "NotSupportedError");
      return node();
    }
    async resume() {}
    async close() {
      this.state = "closed";
    }
  }
  const getUserMedia = async ({ audio }) => {
    const id = audio.deviceId?.exact ?? "builtin";
    if (devices.missing?.includes(id)) throw new DOMException("", "OverconstrainedError");
    const track = { label: id, muted: false, live: true, getSettings: () => ({ sampleRate: rates[id], deviceId: id }) };
    track.stop = () => (track.live = false);
    const stream = { rate: rates[id], getAudioTracks: () => [track], getTracks: () => [track], track };
    world.streams.push(stream);
    return stream;
  };
  const kept = [globalThis.AudioContext, globalThis.AudioWorkletNode];
  const media = navigator.mediaDevices.getUserMedia;
  const query = navigator.permissions.query;
  globalThis.AudioContext = Context;
  globalThis.AudioWorkletNode = class {
    constructor() {
      this.port = { postMessage() {}, onmessage: null };
    }
    connect() {}
  };
  navigator.mediaDevices.getUserMedia = getUserMedia;
  navigator.permissions.query = async () => ({ state: world.denied ? "denied" : "granted" });
  try {
    await run(world);
  } finally {
    [globalThis.AudioContext, globalThis.AudioWorkletNode] = kept;
    navigator.mediaDevices.getUserMedia = media;
    navigator.permissions.query = query;
  }
}

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
