import { LANGUAGES, languageName } from "transcribe/data/languages.js";
import { AsrError } from "asr/errors.js";
import { ModelRepository } from "asr/model/files.js";
import { mixToMono, repairedMono } from "transcribe/data/audio-file.js";
import { FORMATS, toJson, toSubRip, toText, toWebVtt } from "transcribe/data/exports.js";
import { JobRunner } from "transcribe/jobs.js";
import { MicrophoneCapture } from "transcribe/microphone-capture.js";
import { PHASES, isBusy, nextPhase } from "transcribe/phase.js";
import { messageFor } from "transcribe/ui/messages.js";
import { Peaks, WordIndex, viewStart } from "transcribe/ui/timeline-model.js";
import { deleteModel, listModels, partsOf } from "transcribe/data/storage.js";
import { formatDuration, cueTime, formatPosition, formatBytes } from "transcribe/data/format.js";
import { PROBLEMS, REFUSALS } from "voice/ui/messages.js";
import { inFirefox } from "./fake-audio.js";
import { equal, near, ok, seeded, test } from "./harness.js";

const segment = (start, end, text) => ({ id: 1, start, end, text, words: [] });
const result = (...segments) => ({ segments, info: { language: "en", duration: 1 } });

test("each language of Whisper has a name", () => {
  equal(LANGUAGES.filter((code) => languageName(code) === code), []);
});

test("cue times are whole milliseconds, rounded once, with as many hour digits as needed", () => {
  equal(cueTime(0, ","), "00:00:00,000");
  equal(cueTime(59_999, "."), "00:00:59.999");
  equal(cueTime(60_000, "."), "00:01:00.000");
  equal(cueTime(3_600_000 + 61_001, ","), "01:01:01,001");
  equal(cueTime(100 * 3_600_000, "."), "100:00:00.000");
});

test("SubRip: numbered from 1, comma before the milliseconds, an empty line between cues", () => {
  const text = toSubRip(result(segment(0, 1.5, " Good morning."), segment(3661.2345, 3662, " Bye.")));
  equal(
    text,
    "1\n00:00:00,000 --> 00:00:01,500\nGood morning.\n\n2\n01:01:01,235 --> 01:01:02,000\nBye.\n",
  );
});

test("SubRip: no text can end its cue or look like a line of timestamps", () => {
  equal(
    toSubRip(result(segment(0, 1, " a\n\nb --> <i>c</i>\r\n"))),
    "1\n00:00:00,000 --> 00:00:01,000\na b → <i>c</i>\n",
  );
});

test("WebVTT: a header, a period before the milliseconds, markup escaped", () => {
  const text = toWebVtt(result(segment(59.9996, 61, " R&D <b> --> x"), segment(61, 62, "\n\n")));
  equal(
    text,
    "WEBVTT\n\n00:01:00.000 --> 00:01:01.000\nR&amp;D &lt;b&gt; --&gt; x\n\n00:01:01.000 --> 00:01:02.000\n\n",
  );
});

test("a browser parses every cue back, times and text", async () => {
  const random = seeded(7);
  const odd = ["<v Ann>", "&amp;", "-->", "a\n\nb", "1", "é € 漢字", "&lt;", "  "];
  const segments = Array.from({ length: 40 }, (_, i) => {
    const text = Array.from({ length: 4 }, () => odd[Math.floor(random() * odd.length)]).join(" ");
    return segment(i * 400 + random(), i * 400 + 1 + random(), `w ${text}`);
  });
  const url = URL.createObjectURL(new Blob([toWebVtt(result(...segments))], { type: "text/vtt" }));
  const video = document.createElement("video");
  const track = document.createElement("track");
  video.append(track);
  document.body.append(video);
  track.track.mode = "hidden";
  const loaded = new Promise((resolve, reject) => {
    track.onload = resolve;
    track.onerror = reject;
  });
  track.src = url;
  await loaded;
  const cues = [...track.track.cues];
  equal(cues.length, 40);
  cues.forEach((cue, i) => {
    near(cue.startTime, segments[i].start, 0.0006, "start");
    near(cue.endTime, segments[i].end, 0.0006, "end");
    equal(cue.getCueAsHTML().textContent, segments[i].text.replace(/\s+/g, " ").trim());
  });
  video.remove();
});

test("a cue ends after it starts, whatever the timestamps", () => {
  equal(toSubRip(result(segment(2, 2, "a"))).split("\n")[1], "00:00:02,000 --> 00:00:02,001");
  equal(toSubRip(result(segment(-0.01, 0.5, "a"))).split("\n")[1], "00:00:00,000 --> 00:00:00,500");
});

test("plain text is one line per segment, JSON is the complete result", () => {
  const whole = result(segment(0, 1, " one\n more "), segment(1, 2, " two"));
  equal(toText(whole), "one more\ntwo\n");
  equal(JSON.parse(toJson(whole)), { info: whole.info, segments: whole.segments });
  equal(toText(result()), "");
  equal(toSubRip(result()), "");
  equal(toWebVtt(result()), "WEBVTT\n");
  equal(Object.keys(FORMATS), ["txt", "srt", "vtt", "json"]);
});

test("times have no superfluous digits and never 60 seconds; sizes have a decimal unit", () => {
  equal([formatDuration(0), formatDuration(59.99), formatDuration(60), formatDuration(3600)], ["0:00", "0:59", "1:00", "1:00:00"]);
  equal([formatPosition(0), formatPosition(59.96), formatPosition(3599.99), formatPosition(12.34)], ["0:00.0", "1:00.0", "1:00:00.0", "0:12.3"]);
  equal([formatBytes(0), formatBytes(999), formatBytes(2_000_000), formatBytes(77_700_000), formatBytes(2.5e9)], [
    "0 B",
    "999 B",
    "2.0 MB",
    "78 MB",
    "2.5 GB",
  ]);
});

test("each time has at most one word, for any order of segments", () => {
  const random = seeded(3);
  const words = Array.from({ length: 200 }, (_, i) => ({ start: i, end: i + 0.25 + 0.75 * random() }));
  const index = new WordIndex();
  for (const word of [...words].sort(() => random() - 0.5)) index.add([word]);
  equal(index.words, words);
  for (let k = 0; k < 500; k += 1) {
    const s = 210 * random() - 5;
    const expected = words.findIndex(({ start, end }) => s >= start && s < end);
    equal(index.at(s), expected, `the word at ${s}`);
  }
});

test("steps move from word to word and stay in range", () => {
  const index = new WordIndex();
  equal(index.step(0, 1), -1);
  index.add([1, 2, 3].map((start) => ({ start, end: start + 0.5 })));
  equal([index.step(0, 1), index.step(0, -1)], [0, 0]);
  equal([index.step(1, 1), index.step(2.7, 1), index.step(2, -1)], [1, 2, 0]);
  equal([index.step(1, -10), index.step(1, 10)], [0, 2]);
});

test("the playback position is visible, and the view stays within the audio", () => {
  const random = seeded(5);
  for (let k = 0; k < 500; k += 1) {
    const durationS = 100 * random();
    const atS = durationS * random();
    const spanS = 1 + 20 * random();
    const start = viewStart({ atS, spanS, durationS, startS: 100 * random() });
    ok(start >= 0 && start <= Math.max(0, durationS - spanS), `${start} of ${durationS}`);
    ok(start <= atS && atS <= start + spanS, `${atS} from ${start}`);
    equal(viewStart({ atS, spanS, durationS, startS: start }), start, "the view does not move");
  }
});

test("peaks do not depend on how the audio is split", () => {
  const samples = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * (i / 1000));
  const whole = new Peaks({ rateHz: 1000, perSecond: 100 });
  whole.push(samples);
  const pieces = new Peaks({ rateHz: 1000, perSecond: 100 });
  for (let i = 0; i < 1000; i += 7) pieces.push(samples.subarray(i, i + 7));
  equal(pieces.values, whole.values);
  equal(whole.values.length, 100);
});

test("channels are averaged; a single one is unchanged", () => {
  const left = Float32Array.of(1, 0, -1);
  equal(mixToMono([left]), left);
  equal(mixToMono([left, Float32Array.of(0, 0.5, -1)]), Float32Array.of(0.5, 0.25, -1));
});

test("every busy phase can be cancelled or fail; events that do not fit change nothing", () => {
  const walk = (kinds, from = "idle") => kinds.reduce(nextPhase, from);
  equal(walk(["loading", "loaded", "decoding", "transcribing", "done"]), "ready");
  equal(walk(["loading", "loaded", "opening", "listening", "finishing", "done"]), "ready");
  for (const phase of PHASES.filter(isBusy)) {
    const after = phase === "loading" ? "idle" : "ready";
    equal(nextPhase(phase, "cancelled"), after, phase);
    equal(nextPhase(phase, phase === "loading" ? "load_failed" : "failed"), after, phase);
  }
  equal(walk(["segment", "partial", "transcribing"], "ready"), "ready");
  equal(walk(["opening"], "transcribing"), "transcribing");
});

test("a model is recognized by the URLs of its files, and listed and deleted as one", async () => {
  equal(partsOf("http://h/api/hf/a/b/resolve/main/onnx/x.onnx"), { model: "a/b", revision: "main", file: "onnx/x.onnx" });
  equal(partsOf("http://h/static/x.js"), null);
  const name = `tests-${crypto.randomUUID()}`;
  const cache = await caches.open(name);
  const put = (path, bytes) => cache.put(new URL(`/api/hf/${path}`, location.href), new Response(new Uint8Array(bytes)));
  const files = ["config.json", "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx"];
  for (const file of files) await put(`a/b/resolve/main/${file}`, 100);
  await put("a/b/resolve/old/config.json", 7);
  await put("c/d/resolve/main/config.json", 500);
  await cache.put(new URL("/other", location.href), new Response("x"));
  const store = { keys: async () => [name], open: (one) => caches.open(one) };
  const kept = await listModels(store);
  equal(kept.map(({ model, revision, bytes }) => [model, revision, bytes]), [
    ["c/d", "main", 500],
    ["a/b", "main", 300],
    ["a/b", "old", 7],
  ]);
  equal(kept[1].files.map(({ file }) => file).sort(), [...files].sort());
  await deleteModel(store, { model: "a/b", revision: "main" });
  equal((await listModels(store)).map(({ model, revision }) => `${model}@${revision}`), ["c/d@main", "a/b@old"]);
  equal((await cache.keys()).length, 3, "other cache entries are kept");
  await caches.delete(name);
});

const tone = (level) => Float32Array.from({ length: 1600 }, (_, i) => level * Math.sin(i / 5));

test("what would spoil a transcript without any failure is told, and mended where it can be", () => {
  const speech = tone(0.3);
  const inverted = speech.map((sample) => -0.9 * sample);
  equal(repairedMono([speech]), { samples: speech, problem: null });
  equal(repairedMono([new Float32Array(8)]).problem, "only_zeros");
  equal(repairedMono([inverted, speech]), { samples: speech, problem: "cancelled" });
  equal(repairedMono([tone(0.01)]).problem, "quiet");
  const { samples, problem } = repairedMono([tone(9000)]);
  equal(problem, "over_scale");
  ok(Math.max(...samples) <= 1, "it is still too loud");
});

const ELSEWHERE = /agent|Settings|question|Resume/; // there is none of them on this page
const TOLD = [
  ...Object.keys(PROBLEMS).filter((why) => !["output_missing", "question_failed"].includes(why)),
  ...["only_zeros", "cancelled", "over_scale", "quiet", "no_signal", "source_muted", "server_storage"],
];
test("the transcription page gives no advice that only the voice page has a use for", () => {
  for (const why of TOLD) {
    const { title, text } = messageFor(why, "", { protocol: "http:", port: "1", pathname: "/", hostname: "h", origin: "o" });
    ok(title !== "Something went wrong", `no words for ${why}`);
    ok(!ELSEWHERE.test(text), `${why}: ${text}`);
  }
});

test("a microphone that is muted by the system or delivers nothing is told, until that is over", () =>
  inFirefox({ rates: { builtin: 48_000 } }, async (world) => {
    const told = [];
    const silent = () => {};
    const callbacks = { onSamples: silent, onLevel: silent, onState: silent, onLost: silent };
    const capture = await MicrophoneCapture.open({ ...callbacks, onProblem: (why) => told.push(why) });
    const { track } = world.streams[0];
    const frames = (rms, count) => {
      for (let i = 0; i < count; i += 1) world.nodes[0].port.onmessage({ data: { rms } });
    };
    frames(0, 30);
    frames(0.001, 1);
    equal(told, []);
    frames(0, 40);
    frames(0.1, 1);
    equal(told, ["no_signal", null]);
    track.muted = true;
    track.onmute();
    frames(0, 40);
    track.muted = false;
    track.onunmute();
    frames(0.1, 1);
    equal(told.slice(2), ["source_muted", "no_signal", null]);
    await capture.close();
  }));

test("what was said before the microphone was lost is transcribed to its end", async () => {
  const events = [];
  const sink = { loadRecording() {}, durationS: 3 };
  const jobs = new JobRunner({ modelSettings() {}, options() {}, audioSink: sink, onEvent: (event) => events.push(event.kind) });
  const calls = [];
  jobs._stream = { flush: async () => calls.push("flush"), stop: () => calls.push("stop") };
  jobs._microphone = { close: async () => calls.push("close") };
  jobs._transcriber = { cancel: () => calls.push("cancel") };
  jobs.phase = "listening";
  await jobs._onMicrophoneLost("microphone_gone");
  equal(calls, ["close", "flush", "stop"]);
  equal(events, ["microphone_lost", "finishing", "done"]);
});

const answered = (status, error) => new Response(JSON.stringify({ error }), { status });
for (const [status, code, expected] of [
  [401, "unauthorized", "unauthorized"],
  [403, "origin_refused", "origin_refused"],
  [421, "host_refused", "host_refused"],
  [429, "too_many_attempts", "too_many_attempts"],
  [401, "gated", "gated"],
  [403, "repo_refused", "refused"],
  [507, "cache_full", "server_storage"],
  [502, "hub_unreachable", "unreachable"],
]) {
  test(`a file that is refused with ${code} is told as ${expected}`, async () => {
    const kept = globalThis.fetch;
    globalThis.fetch = async () => answered(status, { code, message: "no" });
    try {
      const repository = new ModelRepository({ base: location.href, repository: "a/b", revision: "main" });
      const error = await repository.fetchToCache("config.json", () => {}).catch((one) => one);
      ok(error instanceof AsrError, String(error));
      equal(error.code, expected);
      const { title } = messageFor(error.code, error.message, location);
      equal(title, REFUSALS[expected]?.title ?? title);
      ok(title !== "Something went wrong", "no words for it");
    } finally {
      globalThis.fetch = kept;
    }
  });
}
