import { StreamClock } from "voice/captions/stream-clock.js";
import { WhisperCaptions } from "voice/captions/whisper-captions.js";
import { TranscriptLog } from "voice/transcript-log.js";
import { History } from "voice/ui/history.js";
import { Transcript } from "voice/ui/transcript.js";
import { inRecognition } from "./fake-recognition.js";
import { equal, ok, test } from "./harness.js";

const STARTED = Date.UTC(2026, 0, 1);
const words = (log) => log.lines.map(({ divider, text }) => (divider === undefined ? text : "---"));

function conversation() {
  const log = new TranscriptLog();
  log.start(0, STARTED);
  return log;
}

test("words that are recognized after the answer have the time at which they were spoken, and precede it", () => {
  const log = conversation();
  log.agentText({ text: "hello", final: true }, 2000);
  log.agentText({ text: "it is four", final: true }, 60_000);
  log.userText({ text: "what is two", final: false, spokenMs: 59_000 }, 66_000);
  log.userText({ text: "what is two plus two", final: true, spokenMs: 59_000 }, 72_000);
  log.userText({ text: "thanks", final: true, spokenMs: 73_000 }, 75_000);
  equal(words(log), ["hello", "what is two plus two", "it is four", "thanks"]);
  equal(log.toJSON().lines.map(({ atS }) => atS), [2, 59, 60, 73]);
  ok(log.text().includes("0:59  You: What is two plus two\n1:00  Agent: It is four\n"), log.text());
});

test("words that are recognized late never go back into an earlier conversation", () => {
  const log = conversation();
  log.agentText({ text: "one", final: true }, 5000);
  log.start(100_000, STARTED, "again");
  log.agentText({ text: "two", final: true }, 103_000);
  log.userText({ text: "late", final: true, spokenMs: 99_000 }, 104_000);
  equal(words(log), ["one", "---", "late", "two"]);
  equal(log.lines[2].atMs, 0);
});

test("words without a time of their own are spoken now, and none in the future", () => {
  const log = conversation();
  log.agentText({ text: "hello", final: true }, 1000);
  log.userText({ text: "a question", final: true }, 2000);
  log.userText({ text: "another", final: true, spokenMs: 9000 }, 3000);
  equal(log.lines.map(({ atMs }) => atMs), [1000, 2000, 3000]);
});

const PAGE = `<p id="lines-empty"></p><p id="lines-note"></p><p id="transcript-status"></p><p id="own-words"></p>
  <div id="keeping"><span id="keeping-text"></span><button id="keep-conversation"></button></div><button id="talk"></button>
  <button id="copy-lines"></button><button id="save-lines-txt"></button><button id="save-lines-json"></button>
  <ol id="lines"></ol>`;

/** Run `body({page, log, send})` with the transcript of an empty page. */
function inTranscript(body) {
  const page = document.createElement("div");
  page.innerHTML = PAGE;
  document.body.append(page);
  try {
    const log = conversation();
    const transcript = new Transcript(log, { keep: () => {} });
    body({ page, log, send: (event) => transcript.onEvent(event, "live", { isSample: false }) });
  } finally {
    page.remove();
  }
}

const shownTexts = (page) => [...page.querySelectorAll("#lines li p")].map(({ textContent }) => textContent);

test("the page shows the lines in the order in which they were spoken", () => {
  inTranscript(({ page, send }) => {
    const nowMs = performance.now();
    send({ kind: "user_text", text: "hello", final: true, spokenMs: nowMs - 500 });
    send({ kind: "text", text: "it is four", final: true });
    send({ kind: "user_text", text: "what", final: false, spokenMs: nowMs - 100 });
    send({ kind: "user_text", text: "what is two", final: true, spokenMs: nowMs - 100 });
    send({ kind: "text", text: "bye", final: true });
    equal(shownTexts(page), ["Hello", "What is two", "It is four", "Bye"]);
  });
});

test("an answer that began when Stop was pressed is interrupted, one that was said before is not", () => {
  inTranscript(({ page, send }) => {
    send({ kind: "text", text: "hello.", final: true });
    send({ kind: "closing" });
    send({ kind: "text", text: "i am", final: false });
    send({ kind: "ended", why: "stopped" });
    equal(shownTexts(page), ["Hello.", "I am – interrupted"]);
  });
});

test("a long conversation is shown from its latest 500 lines, and saved whole", () => {
  inTranscript(({ page, log, send }) => {
    for (let i = 1; i <= 600; i += 1) send({ kind: "text", text: `answer ${i}`, final: true });
    equal(shownTexts(page), Array.from({ length: 500 }, (_, i) => `Answer ${i + 101}`));
    equal(log.toJSON().lines.length, 600);
  });
});

test("the time of a sample is when it was captured, also after a pause and where the page was busy", () => {
  const clock = new StreamClock(16_000);
  equal(clock.timeOf(0), null);
  for (let i = 1; i <= 10; i += 1) clock.push(1600, 5000 + 100 * i); // one second
  equal([clock.timeOf(0), clock.timeOf(0.5)], [5000, 5500]);
  for (let i = 0; i < 3; i += 1) clock.push(1600, 6300); // late, at once
  equal([clock.timeOf(1), clock.timeOf(1.25)], [6000, 6250]);
  for (let i = 1; i <= 10; i += 1) clock.push(1600, 16_300 + 100 * i); // after a pause of ten seconds
  equal([clock.timeOf(1.25), clock.timeOf(1.5)], [6250, 16_500]);
});

test("Whisper's captions say when the utterance began, also one that the end of the call cuts short", () => {
  const events = [];
  const captions = new WhisperCaptions({ captions: "whisper" }, { onEvent: (event) => events.push(event) });
  captions._clock = new StreamClock(16_000);
  captions._clock.push(160_000, 15_000);
  captions._onEngineEvent({ type: "partial", text: "what is", start: 4 });
  captions._onEngineEvent({ type: "utterance", text: "what is two", start: 4 });
  captions._onEngineEvent({ type: "partial", text: "and", start: 8 });
  captions._onEngineEvent({ type: "dropped", what: "window" });
  const of = ({ kind, text, final, spokenMs }) => (kind === "user_text" ? [text, final, spokenMs] : []);
  equal(events.map(of), [["what is", false, 9000], ["what is two", true, 9000], ["and", false, 13_000], ["and", true, 13_000], []]);
});

/** Captions during a call; `over()`: what was said has been written down. */
function inCall() {
  const [events, sent] = [[], []];
  const captions = new WhisperCaptions({ captions: "auto" }, { onEvent: (event) => events.push(event) });
  captions._clock = new StreamClock(16_000);
  captions._on = { kind: "captions", state: "on" };
  captions._call = { port: { close: () => {} }, send: (caption) => sent.push(caption), setPortEnabled: () => {} };
  const { promise, resolve: over } = Promise.withResolvers();
  captions._stream = { flush: () => promise, stop: () => {} };
  captions._onEngineEvent({ type: "partial", text: "what is", start: 4 });
  const told = () => events.map(({ kind, state, text, final }) => (kind === "captions" ? state : `${text}${final ? "." : "…"}`));
  return { captions, sent, told, over };
}

test("the last words of a call are written down after it", async () => {
  const { captions, sent, told, over } = inCall();
  captions.detach();
  equal(sent.at(-1), { text: "what is", final: true }); // the server gets no more
  equal(captions.isActive, false);
  captions._onEngineEvent({ type: "utterance", text: "what is two", start: 4 });
  over();
  await new Promise((resolve) => setTimeout(resolve));
  equal(told(), ["what is…", "finishing", "what is two.", "on"]);
  equal(sent.length, 2);
});

test("the next call does not wait for the last words of the one before", async () => {
  const { captions, told, over } = inCall();
  captions.detach();
  captions._load = async () => false;
  captions.attach({}, { send: () => {}, setPortEnabled: () => {} });
  over();
  await new Promise((resolve) => setTimeout(resolve));
  equal(told(), ["what is…", "finishing", "on"]); // its line was closed by the page
});

test("the browser's captions say when the utterance began", () =>
  inRecognition(({ started, events }) => {
    const [recognition] = started;
    const result = (transcript, isFinal) =>
      recognition.onresult({ resultIndex: 0, results: [Object.assign([{ transcript }], { isFinal })] });
    recognition.onspeechstart();
    const heardMs = performance.now();
    while (performance.now() === heardMs); // the clock has gone on
    for (const [text, isFinal] of [["what", false], ["what is", true], ["and", false], ["and now", true]]) result(text, isFinal);
    const at = events.map(({ spokenMs }) => spokenMs);
    ok(at[0] <= heardMs && at[1] === at[0], "not when the speech began");
    ok(at[2] > heardMs && at[3] === at[2], "the second utterance has a time of its own");
  }));

const KEPT = [
  [[{ divider: "12:00" }, { who: "agent", text: "hello. i add numbers" }, { who: "user", text: "what is two plus two" }],
    "What is two plus two (2 lines)"],
  [[{ who: "agent", text: "hello. i add numbers" }], "Hello. I add numbers (1 line)"],
];

test("a kept conversation is named after what its user said first, else after the agent's words", () => {
  const page = document.createElement("div");
  page.innerHTML = `<details id="history"></details>`;
  document.body.append(page);
  const key = "packet-voice-history";
  const before = localStorage.getItem(key);
  const startedAt = new Date(STARTED).toISOString();
  const conversations = KEPT.map(([lines], id) => ({ id: String(id), startedAt, lines: lines.map((line) => ({ atS: 0, ...line })) }));
  try {
    localStorage.setItem(key, JSON.stringify(conversations));
    new History({ log: new TranscriptLog(), preferences: { history: false }, onChange: () => {}, onEvent: () => {} });
    const titles = [...page.querySelectorAll("#history-list summary")].map(({ textContent }) => textContent);
    equal(titles.map((title) => title.slice(title.indexOf(": ") + 2)), KEPT.map(([, title]) => title));
    ok(titles.every((title) => title.includes("2026") || title.includes("2025")), titles[0]);
  } finally {
    if (before === null) localStorage.removeItem(key);
    else localStorage.setItem(key, before);
    page.remove();
  }
});
