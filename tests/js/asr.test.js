import { LocalAgreement } from "asr/streaming/local-agreement.js";
import { alignTokens } from "asr/engine/alignment.js";
import { RATE_HZ, STEP_SAMPLES, SpeechSegmenter, padRuns } from "asr/streaming/speech-segmenter.js";
import { decode, probabilities } from "asr/engine/decoding.js";
import { candidates } from "asr/model/device.js";
import { compressionRatio, withFallback } from "asr/engine/fallback.js";
import { StreamSegmenter } from "asr/streaming/stream-segmenter.js";
import { MODELS, resolveModel } from "asr/model/model-list.js";
import { readOptions } from "asr/options.js";
import { LogitRules } from "asr/engine/logit-rules.js";
import { splitSegments } from "asr/engine/segments.js";
import { Stream } from "asr/streaming/stream.js";
import { SoundLevels } from "asr/engine/sound-levels.js";
import { SpeechWindow, windowsOf } from "asr/engine/windows.js";
import { splitWords, timedWords } from "asr/engine/word-timestamps.js";
import { equal, errorOf, near, ok, seeded, test } from "./harness.js";

const VAD = readOptions({}).vad_parameters;

test("local agreement never changes confirmed text, and confirms what two consecutive hypotheses share", () => {
  const random = seeded(11);
  const words = [" a", " b", " B,", " c", " d."];
  for (let run = 0; run < 300; run += 1) {
    const agreement = new LocalAgreement();
    let [last, stable] = [[], ""];
    for (let step = 0; step < 12; step += 1) {
      const kept = last.slice(0, Math.floor(random() * (last.length + 1)));
      const grown = Array.from(
        { length: Math.floor(random() * 4) },
        () => words[Math.floor(random() * words.length)],
      );
      const hypothesis = [...kept, ...grown];
      const result = agreement.push(hypothesis);
      ok(result.stable.startsWith(stable), `"${stable}" was changed: "${result.stable}"`);
      ok(result.text.startsWith(result.stable), `"${result.text}" does not begin with "${result.stable}"`);
      if (result.stable.length > stable.length) {
        const count = result.stable.match(/\S+/g).length;
        const bare = (list) =>
          list
            .slice(0, count)
            .join("")
            .toLowerCase()
            .replace(/[^a-d]/g, "");
        equal(bare(hypothesis), bare(last), "the confirmed words");
      }
      [last, stable] = [hypothesis, result.stable];
    }
    equal(agreement.push(last).text.length >= stable.length, true);
  }
});

test("a repeated hypothesis is confirmed", () => {
  const agreement = new LocalAgreement();
  equal(agreement.push([" one", " two"]), { stable: "", text: " one two" });
  equal(agreement.push([" one,", " two", " three"]), { stable: " one, two", text: " one, two three" });
  equal(agreement.push([" won", " too"]), { stable: " one, two", text: " one, two" });
});

const cutAll = (vad, probabilities) => {
  const cutter = new SpeechSegmenter(vad);
  const runs = probabilities.map((p) => cutter.push(p)).filter((run) => run !== null);
  const last = cutter.flush(probabilities.length * STEP_SAMPLES);
  return last === null ? runs : [...runs, last];
};

test(
  "a run starts at the threshold and ends where speech stopped, after a long enough silence",
  () => {
    const silence = Math.ceil((2 * RATE_HZ) / STEP_SAMPLES);
    const probabilities = [0.1, 0.9, 0.9, 0.4, 0.9, ...Array(10).fill(0.1), 0.9, ...Array(silence + 2).fill(0.1)];
    equal(cutAll(VAD, probabilities), [{ start: STEP_SAMPLES, end: 16 * STEP_SAMPLES }]);
    equal(cutAll(VAD, [0.1, 0.9, 0.9]), [{ start: STEP_SAMPLES, end: 3 * STEP_SAMPLES }]);
    equal(cutAll({ ...VAD, min_speech_duration_ms: 100 }, [0.9, ...Array(silence + 2).fill(0)]), []);
    equal(cutAll(VAD, Array(200).fill(0.45)), []);
  },
);

test("for any probabilities, runs are ordered, disjoint, long enough and not too long", () => {
  const random = seeded(7);
  for (let run = 0; run < 100; run += 1) {
    const vad = {
      ...VAD,
      max_speech_duration_s: 2 + random() * 8,
      min_silence_duration_ms: random() * 1500,
      min_speech_duration_ms: random() * 300,
      speech_pad_ms: random() * 400,
    };
    let level = 0;
    const probabilities = Array.from({ length: 1500 }, () => {
      if (random() < 0.05) level = random();
      return Math.min(1, Math.max(0, level + (random() - 0.5) / 4));
    });
    const runs = cutAll(vad, probabilities);
    const total = probabilities.length * STEP_SAMPLES;
    let free = 0;
    for (const { start, end } of runs) {
      ok(start >= free && end > start && end <= total, `${start} to ${end} after ${free}`);
      ok(end - start > (vad.min_speech_duration_ms * RATE_HZ) / 1000, "too short");
      ok(end - start <= vad.max_speech_duration_s * RATE_HZ, `${(end - start) / RATE_HZ} s is too long`);
      free = end;
    }
    let before = 0;
    for (const [i, { start, end }] of padRuns(runs, total, vad.speech_pad_ms).entries()) {
      ok(start >= before && start <= runs[i].start && end >= runs[i].end && end <= total, `padRuns run ${i}`);
      before = end;
    }
  }
});

test(
  "a stream gives the same windows as the whole recording, emits all their samples, and bounds its buffer",
  async () => {
    const random = seeded(3);
    for (let run = 0; run < 10; run += 1) {
      const vad = { ...VAD, max_speech_duration_s: 5, min_silence_duration_ms: 300, speech_pad_ms: 100 };
      const count = 1200;
      let level = 0;
      const judged = Array.from({ length: count }, () => {
        if (random() < 0.08) level = random() < 0.5 ? 0.05 : 0.95;
        return level;
      });
      const sound = Float32Array.from({ length: count * STEP_SAMPLES }, (_, i) => i);
      let processed = 0;
      let judgedUntil = 0;
      const detector = {
        reset() {},
        async process(samples) {
          processed += samples.length;
          const until = Math.floor(processed / STEP_SAMPLES);
          const probabilities = judged.slice(judgedUntil, until);
          judgedUntil = until;
          return probabilities;
        },
      };
      const windows = [];
      let grown = [];
      const segmenter = new StreamSegmenter(detector, vad, (message) => {
        if (message.kind === "extended") grown.push(message);
        else if (message.kind === "discarded") grown = [];
        else if (message.kind === "window") {
          const parts = grown.flatMap(({ samples }) => Array.from(samples));
          ok(
            grown.every(({ start }) => start === message.start),
            "the extension belongs to the window",
          );
          parts.forEach((value, i) => ok(value === message.start + i, `sample ${i} of the extension`));
          equal(message.samples.length, message.end - message.start);
          ok(
            message.samples.every((value, i) => value === message.start + i),
            "the window's own samples",
          );
          windows.push(message);
          grown = [];
        }
      });
      for (let at = 0; at < sound.length;) {
        const size = 1 + Math.floor(random() * 4000);
        await segmenter.push(sound.subarray(at, at + size));
        at += size;
      }
      segmenter.flush();
      const runs = cutAll(vad, judged);
      equal(windows.length, runs.length, "windows");
      windows.forEach(({ start, end }, i) => {
        ok(start <= runs[i].start && end >= runs[i].end, "a window contains its run");
        ok(i === 0 || start >= windows[i - 1].end, "windows are disjoint");
        ok(end - start <= 30 * RATE_HZ, "a window fits");
      });
    }
  },
);

test("skipped samples still advance the time", async () => {
  const messages = [];
  const detector = { reset() {}, process: async (samples) => (samples.length === STEP_SAMPLES ? [0.9] : []) };
  const segmenter = new StreamSegmenter(detector, { ...VAD, speech_pad_ms: 0 }, (message) => messages.push(message));
  await segmenter.push(new Float32Array(10 * STEP_SAMPLES));
  segmenter.skip(5 * RATE_HZ);
  await segmenter.push(new Float32Array(10 * STEP_SAMPLES));
  segmenter.flush();
  const windows = messages.filter(({ kind }) => kind === "window").map(({ start, end }) => [start, end]);
  equal(windows, [
    [0, 10 * STEP_SAMPLES],
    [10 * STEP_SAMPLES + 5 * RATE_HZ, 20 * STEP_SAMPLES + 5 * RATE_HZ],
  ]);
});

test("windows contain every run, are at most 30 s, and map every sample to the recording", () => {
  const random = seeded(5);
  for (let run = 0; run < 5; run += 1) {
    const runs = [];
    let at = 0;
    for (let n = 0; n < 12; n += 1) {
      const start = at + Math.floor(random() * 5 * RATE_HZ);
      at = start + 1 + Math.floor(random() * 31 * RATE_HZ);
      runs.push({ start, end: at });
    }
    const recording = Float32Array.from({ length: at }, (_, i) => i);
    const pieces = [];
    for (const window of windowsOf(recording, runs)) {
      ok(window.samples.length <= 30 * RATE_HZ, "too long");
      let passed = 0;
      for (const { start, end } of window.pieces) {
        near(window.at(passed / RATE_HZ), start / RATE_HZ, 1e-6, "a piece's start");
        const middle = Math.floor((end - start) / 2);
        near(window.at((passed + middle) / RATE_HZ), (start + middle) / RATE_HZ, 1e-6, "its middle");
        equal(window.samples[passed + middle], start + middle, "the sample there");
        passed += end - start;
        near(window.at(passed / RATE_HZ, { isEnd: true }), end / RATE_HZ, 1e-6, "its end");
      }
      equal(window.samples.length, passed);
      pieces.push(...window.pieces);
    }
    const length = (parts) => parts.reduce((sum, { start, end }) => sum + end - start, 0);
    equal(length(pieces), length(runs), "samples");
    ok(
      pieces.every(({ start }, i) => i === 0 || start >= pieces[i - 1].end),
      "in order",
    );
  }
});

/** A stream between a fake VAD client and a fake ASR client that responds on demand. */
function streamed() {
  const events = [];
  const answers = [];
  const pushed = [];
  const vadClient = {
    startStream: async (_, onMessage) => (vadClient.onMessage = onMessage),
    push: (samples) => pushed.push(samples.length),
    skip: (samples) => pushed.push(-samples),
    flush: async () => {},
    endStream() {},
  };
  const answer = (text) => ({
    segments: [{ start: 0, end: 0.5, text, tokens: [], words: null }],
    consumed: 30,
    language: "en",
    language_probability: 1,
    all_language_probs: null,
    temperature: 0,
  });
  const asrClient = {
    decode: () => new Promise((resolve) => answers.push((text) => resolve(answer(text)))),
    cancel() {},
  };
  const stream = new Stream(vadClient, asrClient, readOptions({}, { streaming: true }), (event) => events.push(event));
  const close = (n) => {
    const samples = new Float32Array(RATE_HZ);
    vadClient.onMessage({ kind: "window", start: n * RATE_HZ, end: (n + 1) * RATE_HZ, samples });
  };
  const nextTask = () => new Promise((resolve) => setTimeout(resolve));
  return { stream, vadClient, events, answers, pushed, close, nextTask };
}

test(
  "at most four windows are queued; the oldest is dropped and reported, the others stay in order",
  async () => {
    const { stream, events, answers, close, nextTask } = streamed();
    await nextTask();
    for (let n = 0; n < 8; n += 1) close(n); // the first is being decoded, four are queued, three are too many
    equal(
      events
        .filter(({ type }) => type === "dropped")
        .map(({ what, start, end, reason }) => [what, start, end, reason]),
      [1, 2, 3].map((n) => ["window", n, n + 1, "behind"]),
    );
    const flushed = stream.flush();
    for (const n of [0, 4, 5, 6, 7]) {
      answers.shift()(` ${n}`);
      await nextTask();
    }
    await flushed;
    equal(
      events.filter(({ type }) => type === "utterance").map(({ start, text }) => [start, text]),
      [0, 4, 5, 6, 7].map((n) => [n, ` ${n}`]),
    );
    equal(answers.length, 0, "superfluous decodes");
  },
);

test("finals come before partials, and a partial of a finished utterance is not emitted", async () => {
  const { vadClient, events, answers, close, nextTask } = streamed();
  await nextTask();
  vadClient.onMessage({ kind: "extended", start: 0, samples: new Float32Array(RATE_HZ) });
  equal(answers.length, 1, "partials under way");
  vadClient.onMessage({ kind: "extended", start: 0, samples: new Float32Array(RATE_HZ) });
  close(0);
  answers.shift()(" late");
  await nextTask();
  answers.shift()(" done");
  await nextTask();
  equal(
    events.map(({ type }) => type),
    ["final", "utterance"],
  );
});

test("audio that the VAD cannot keep up with is dropped, reported, and still counted as time", async () => {
  const { stream, vadClient, events, pushed, nextTask } = streamed();
  await nextTask();
  for (let second = 0; second < 40; second += 1) stream.push(new Float32Array(RATE_HZ));
  await nextTask();
  equal(
    events.map(({ type, what }) => [type, what]),
    [["dropped", "audio"]],
  );
  vadClient.onMessage({ kind: "processed", count: 30 * RATE_HZ });
  stream.push(new Float32Array(100));
  await nextTask();
  equal(pushed.slice(-2), [-10 * RATE_HZ, 100]);
});

// A vocabulary of 10 words, the special tokens, and timestamps from 0 to 4 s.
const TOKENS = { end: 10, noTimestamps: 14, timestampBegin: 15, suppress: [3], suppressFirst: [0, 10] };
const SIZE = 15 + 201;

test(
  "for any logits: timestamps in pairs, never decreasing, the first at most 1 s, no suppressed token",
  async () => {
    const random = seeded(9);
    const rules = new LogitRules(TOKENS, { maxInitialTimestamp: 1 });
    for (let run = 0; run < 60; run += 1) {
      const noise = () => ({ logits: Float32Array.from({ length: SIZE }, () => 4 * random()), attention: [] });
      const temperature = run % 2;
      const args = { first: noise(), step: async () => noise(), rules, end: 10, temperature, maxTokens: 40, random };
      const { tokens, logprobs, attentions, avg_logprob } = await decode({ ...args, onToken: async () => {} });
      ok(tokens.length <= 40 && tokens.length === logprobs.length, "lengths");
      ok(attentions.length >= tokens.length, "an attention for each token");
      ok(avg_logprob <= 0, "a probability");
      ok(tokens[0] >= 15 && tokens[0] <= 15 + 50, `begins with ${tokens[0]}`);
      ok(!tokens.includes(3) && !tokens.includes(14), "suppressed");
      const times = tokens.filter((token) => token >= 15);
      ok(
        times.every((time, i) => i === 0 || time >= times[i - 1]),
        `times go back: ${times}`,
      );
      tokens.forEach((token, i) => {
        if (i < 2 || token < 15) return;
        ok(!(tokens[i - 1] >= 15 && tokens[i - 2] >= 15), "three times in a row");
      });
    }
  },
);

test("temperature 0 is greedy, and the probabilities are those of the logits", async () => {
  const logits = new Float32Array(SIZE).fill(-50);
  logits[15] = 2;
  const after = new Float32Array(SIZE).fill(-50);
  after[10] = 1;
  const { tokens, logprobs, avg_logprob } = await decode({
    first: { logits, attention: [] },
    step: async () => ({ logits: after, attention: [] }),
    rules: { apply: () => {} },
    end: 10,
    temperature: 0,
    maxTokens: 5,
    onToken: async () => {},
  });
  equal(tokens, [15]);
  near(logprobs[0], 0, 1e-9);
  near(avg_logprob, 0, 1e-9);
  const [left, right] = probabilities(Float32Array.of(0, Math.log(3), 99), [0, 1], { among: [0, 1] });
  near(left, 0.25, 1e-6);
  near(right, 0.75, 1e-6);
});

test("temperatures are tried until a hypothesis is good; otherwise the most likely one that does not repeat wins", async () => {
  const options = readOptions({});
  const asked = [];
  const attempts = (answers) => async (temperature) => {
    asked.push(temperature);
    return answers[asked.length - 1] ?? answers.at(-1);
  };
  const good = { text: " one two three", avg_logprob: -0.2, no_speech_prob: 0 };
  const dull = { text: " ha".repeat(90), avg_logprob: -0.1, no_speech_prob: 0 };
  const unsure = { text: " mumble", avg_logprob: -1.5, no_speech_prob: 0 };
  equal((await withFallback(attempts([dull, unsure, good]), options)).temperature, 0.4);
  equal(asked.splice(0), [0, 0.2, 0.4]);
  const best = await withFallback(
    attempts([dull, unsure, { ...unsure, avg_logprob: -1.2 }, unsure, dull, dull]),
    options,
  );
  equal([best.avg_logprob, best.temperature, asked.splice(0).length], [-1.2, 1, 6]);
  equal((await withFallback(attempts([{ ...unsure, no_speech_prob: 0.9 }]), options)).temperature, 0);
  equal(asked.splice(0), [0]);
  ok((await compressionRatio(dull.text)) > 2.4 && (await compressionRatio(good.text)) < 1.5, "ratios");
});

test("timestamps split segments, and text after the last pair is left for the next clip", () => {
  const at = (seconds) => 15 + Math.round(seconds * 50);
  const cut = (tokens) => splitSegments(tokens, 15, 4);
  equal(cut([at(0), 1, 2, at(1)]), { segments: [{ start: 0, end: 1, from: 0, to: 4 }], consumed: 4 });
  equal(cut([at(0), 1, at(1), at(1.5), 2, at(3)]).segments, [
    { start: 0, end: 1, from: 0, to: 3 },
    { start: 1.5, end: 3, from: 3, to: 6 },
  ]);
  equal(cut([at(0), 1, at(1), at(1), 2]), { segments: [{ start: 0, end: 1, from: 0, to: 3 }], consumed: 1 });
  equal(cut([at(0), 1, 2]), { segments: [{ start: 0, end: 4, from: 0, to: 3 }], consumed: 4 });
  equal(cut([at(0), at(0), 1]).consumed, 4, "seconds consumed: progress is guaranteed");
});

test("tokens start where their attention starts, in order, with or without silence between them", () => {
  const frames = 150;
  const starts = [0, 20, 55, 90, 120];
  const attentions = starts.map((start, i) =>
    [0, 1].map(() =>
      Float32Array.from({ length: 1500 }, (_, f) => (f >= start && f < (starts[i + 1] ?? frames) ? 0.04 : 1e-4)),
    ),
  );
  const found = alignTokens(attentions, frames);
  found.forEach((time, i) => near(time, starts[i] * 0.02, 0.06, `token ${i}`));
  equal(alignTokens([], frames), null);
  equal(
    alignTokens(
      attentions.map(() => []),
      frames,
    ),
    null,
  );
  equal(
    alignTokens(
      attentions.map((heads) => heads.map((head) => head.map(() => NaN))),
      frames,
    ),
    null,
  );
});

test("words are split at spaces, keep their punctuation, and are never split inside a character", () => {
  const pieces = [" Hello", ",", " wor", "ld", "!", " “", "Yes", "”", " ", "é"];
  const decode = (tokens) => tokens.map((token) => pieces[token]).join("");
  const split = (tokens, language = "en") => splitWords(tokens, language, decode).map(({ word }) => word);
  equal(split([0, 1, 2, 3, 4]), [" Hello,", " world!"]);
  equal(split([0, 5, 6, 7]), [" Hello", " “Yes”"]);
  equal(split([0, 2, 3], "ja"), [" Hello", " wor", "ld"]);
  const bytes = [[0xe6], [0x97], [0xa5], [0xe6, 0x9c, 0xac]];
  const utf8 = (tokens) => new TextDecoder().decode(Uint8Array.from(tokens.flatMap((token) => bytes[token])));
  equal(splitWords([0, 1, 2, 3], "ja", utf8), [
    { word: "日", count: 3 },
    { word: "本", count: 1 },
  ]);
});

test("every word has ordered start and end times, and interpolated ones are marked", () => {
  const random = seeded(13);
  for (let run = 0; run < 200; run += 1) {
    const segment = { start: 1, end: 4 };
    let at = 1;
    const words = Array.from({ length: 1 + Math.floor(random() * 8) }, () => {
      const start = at;
      if (random() < 0.7) at += random() * 0.4;
      const isKnown = random() < 0.7;
      return {
        word: ` ${"x".repeat(1 + Math.floor(random() * 6))}`,
        probability: 1,
        start: isKnown ? start : null,
        end: isKnown ? at : null,
      };
    });
    const timed = timedWords(words, segment);
    let before = 0;
    timed.forEach(({ start, end, interpolated }, i) => {
      ok(
        Number.isFinite(start) && Number.isFinite(end) && start >= before - 1e-9 && end >= start,
        `word ${i}: ${start} to ${end}`,
      );
      const isKnown = words[i].start !== null && words[i].end > words[i].start;
      ok(isKnown || interpolated === true, `word ${i} is marked`);
      before = end;
    });
  }
  const all = timedWords(
    [" ab", " cdef"].map((word) => ({ word, probability: 1, start: null, end: null })),
    { start: 0, end: 3 },
  );
  equal(
    all.map(({ start, end }) => [start, end]),
    [
      [0, 1],
      [1, 3],
    ],
  );
});

/** Noise with these levels, in dB, one for each 0.1 s. */
const noiseOf = (levels) => {
  const random = seeded(5);
  return Float32Array.from(
    { length: levels.length * 0.1 * RATE_HZ },
    (_, i) => 10 ** (levels[Math.floor(i / (0.1 * RATE_HZ))] / 20) * 1.7 * (2 * random() - 1),
  );
};
const tenths = (count, level) => Array(count).fill(level);

test("a word begins and ends with its sound, at any loudness and in front of any background", () => {
  for (const [loud, silent] of [
    [-20, -200],
    [-20, -70],
    [-55, -90],
    [-20, -40],
  ]) {
    const levels = new SoundLevels(noiseOf([...tenths(7, silent), ...tenths(5, loud), ...tenths(10, silent)]));
    const word = levels.soundIn(0.1, 2);
    near(word.start, 0.7, 0.021, `start at ${loud} dB above ${silent} dB`);
    near(word.end, 1.2, 0.021, `end at ${loud} dB above ${silent} dB`);
    const inside = levels.soundIn(0.8, 1);
    equal([inside.start, inside.end], [0.8, 1]);
  }
});

test("of two sounds with a pause between them the longer one is the word; a short gap is part of it", () => {
  const sounds = [...tenths(2, -20), ...tenths(4, -80), ...tenths(3, -20), ...tenths(1, -80), ...tenths(3, -20)];
  const levels = new SoundLevels(noiseOf([...sounds, ...tenths(5, -80)]));
  const word = levels.soundIn(0.1, 1.8);
  near(word.start, 0.6, 0.021);
  near(word.end, 1.3, 0.021);
});

test("silence contains no words, and where nothing tells sound from silence nothing is ruled out", () => {
  const spoken = new SoundLevels(noiseOf([...tenths(10, -25), ...tenths(40, -80)]));
  equal([spoken.mayContainSound(0, 1), spoken.mayContainSound(3, 5)], [true, false]);
  equal(spoken.soundIn(3, 5), { start: 3, end: 5 });
  for (const steady of [noiseOf(tenths(30, -30)), new Float32Array(3 * RATE_HZ), new Float32Array(100)]) {
    const levels = new SoundLevels(steady);
    equal([levels.hasContrast, levels.mayContainSound(0, 1)], [false, true]);
    equal(levels.soundIn(1, 2), { start: 1, end: 2 });
  }
});

test("a word that crosses a joint is where most of it lies, and words stay in order", () => {
  const second = (at) => at * RATE_HZ;
  const pieces = [
    { start: second(1), end: second(3) },
    { start: second(7), end: second(8) },
  ];
  const window = new SpeechWindow(pieces, new Float32Array(second(3)));
  equal(window.spanOf({ start: 0.5, end: 1.5 }), { start: 1.5, end: 2.5 });
  equal(window.spanOf({ start: 1.8, end: 2.5 }), { start: 7, end: 7.5 });
  equal(window.spanOf({ start: 1, end: 2.5 }), { start: 2, end: 3 });
  equal(window.spanOf({ start: 2, end: 2 }), { start: 7, end: 7 });
  const random = seeded(3);
  for (let run = 0; run < 200; run += 1) {
    const cuts = Array.from({ length: 6 }, () => 3 * random()).sort((a, b) => a - b);
    let before = 0;
    for (let i = 0; i + 1 < cuts.length; i += 1) {
      const { start, end } = window.spanOf({ start: cuts[i], end: cuts[i + 1] });
      ok(start >= before && end >= start, `${cuts} at ${i}: ${start} to ${end} after ${before}`);
      before = end;
    }
  }
});

test("options have faster-whisper's defaults, and invalid ones are named", () => {
  const options = readOptions({ temperature: 0.5, vad_parameters: { threshold: 0.6 } });
  equal([options.temperature, options.vad_parameters.neg_threshold.toFixed(2)], [[0.5], "0.45"]);
  equal(readOptions({}).vad_parameters.min_silence_duration_ms, 2000);
  equal(readOptions({}, { streaming: true }).vad_filter, true);
  for (const [given, name] of [
    [{ best_of: 5 }, "best_of"],
    [{ temperature: [] }, "temperature"],
    [{ language: "English" }, "language"],
    [{ vad_parameters: { max_speech_duration_s: 40 } }, "vad_parameters.max_speech_duration_s"],
  ]) {
    const { code, message } = errorOf(() => readOptions(given));
    equal(code, "options");
    ok(message.includes(name), message);
  }
});

test("models are pinned to commits where known, and the precision fits the device", () => {
  equal(
    MODELS.map(({ name }) => name),
    ["tiny", "tiny.en", "base", "base.en", "small", "small.en"],
  );
  ok(
    MODELS.every(({ revision }) => /^([0-9a-f]{40}|main)$/.test(revision)),
    "a revision",
  );
  equal(resolveModel("tiny").repository, "onnx-community/whisper-tiny_timestamped");
  equal(resolveModel("a/b"), { repository: "a/b", revision: "main" });
  ok(errorOf(() => resolveModel("enormous")) instanceof TypeError, "no such model");
  const first = (device, hasHalf) =>
    Object.values(candidates({ device, hasHalf }, null)).map(([{ file }]) => file);
  equal(first("wasm", false), ["onnx/encoder_model_quantized.onnx", "onnx/decoder_model_merged_quantized.onnx"]);
  equal(first("webgpu", true), ["onnx/encoder_model_fp16.onnx", "onnx/decoder_model_merged_q4.onnx"]);
  equal(candidates({ device: "wasm" }, "fp32").encoder_model, [
    { dtype: "fp32", file: "onnx/encoder_model.onnx" },
  ]);
});
