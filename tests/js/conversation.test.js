import { Backoff } from "voice/protocol/backoff.js";
import { Conversation } from "voice/protocol/conversation.js";
import { afterClose } from "voice/protocol/close-codes.js";
import { Heard } from "voice/protocol/received-ids.js";
import { Liveness } from "voice/protocol/liveness.js";
import { Outbox } from "voice/protocol/send-queue.js";
import { Priority, Type, decode, encode, payloadOf } from "voice/protocol/packets.js";
import { Receipts } from "voice/protocol/unacked-packets.js";
import { equal, holds, law, seeded, thrown } from "./laws.js";

const text = (content) => new TextEncoder().encode(content);
const EMPTY = new Uint8Array(0);

function packet(type, payload, { seq = 0, timestampMs = 0, wantsAck = false } = {}) {
  return encode({ type, priority: 0, seq, timestampMs, wantsAck, payload });
}

const metadata = (content) => packet(Type.METADATA, text(JSON.stringify(content)));

/** A client, the messages it wrote, and what it was told. */
function client({ heard = new Heard(), receipts = new Receipts() } = {}) {
  const outbox = new Outbox({ audioLimit: 8, receipts });
  const conversation = new Conversation({ outbox, heard, receipts, nowMs: 0, epochMs: () => 1000 });
  const written = () => {
    const packets = [];
    for (let message = outbox.take(); message !== null; message = outbox.take()) packets.push(decode(message));
    return packets;
  };
  return { conversation, outbox, receipts, written, hear: (message, nowMs = 0) => conversation.receive(message, nowMs) };
}

law("whatever wants an ACK is acknowledged by its seq, once shown, and never shown again", () => {
  const { hear, written } = client();
  const shown = hear(packet(Type.TEXT_FINAL, text("hello"), { seq: 258, wantsAck: true }));
  equal(shown, [{ kind: "text", final: true, text: "hello" }]);
  const [ack] = written();
  equal([ack.type, ack.priority, Array.from(ack.payload)], [Type.ACK, Priority.HIGH, [2, 1, 0, 0]]);
});

law("an ACK is never acknowledged", () => {
  const { hear, written } = client();
  hear(packet(Type.ACK, Uint8Array.of(0, 0, 0, 0), { wantsAck: true }));
  equal(written(), []);
});

law("after a resume, what had arrived is acknowledged and not shown again", () => {
  const heard = new Heard();
  const first = client({ heard });
  first.hear(packet(Type.TEXT_FINAL, text("one"), { wantsAck: true }));
  first.hear(packet(Type.TEXT_FINAL, text("two"), { seq: 1, wantsAck: true }));
  const second = client({ heard });
  second.hear(metadata({ type: "resumed", resumeToken: "t", unacked: [1, 2], nextId: 3 }));
  const texts = ["two", "three", "four"].map((content, seq) =>
    second.hear(packet(Type.TEXT_FINAL, text(content), { seq, wantsAck: true })),
  );
  equal(texts.map((events) => events.map((event) => event.text)), [[], ["three"], ["four"]]);
  equal(second.written().length, 3, "acks");
});

law("audio waits for ready, and goes out with its capture time bit for bit", () => {
  const { conversation, hear, written } = client();
  const frame = new Float32Array(1920).fill(0.25);
  conversation.speak(frame, 1.5);
  equal(written(), []);
  hear(metadata({ type: "ready" }));
  conversation.speak(frame, 1767225600123.4001);
  const [audio] = written();
  equal([audio.type, audio.priority], [Type.AUDIO_CHUNK, Priority.CRITICAL]);
  equal(audio.timestampMs, 1767225600123.4001);
  equal(audio.payload.length, 7680);
});

law("a burst comes apart into frames, each with its own echo", () => {
  const { hear } = client();
  const samples = Float32Array.from({ length: 3 * 1920 }, (_, i) => i / 6000);
  const events = hear(packet(Type.AUDIO_CHUNK, payloadOf(samples), { timestampMs: 1000 }));
  equal(events.map(({ echoMs, index }) => [echoMs, index]), [[840, 0], [920, 1], [1000, 2]]);
  equal(events[1].samples, samples.subarray(1920, 3840));
});

law("what is no packet, no UTF-8, no object or no whole frame ends the connection", () => {
  const broken = [
    "text",
    new ArrayBuffer(3),
    packet(Type.TEXT_PARTIAL, Uint8Array.of(0xff)),
    packet(Type.METADATA, text("[1]")),
    packet(Type.METADATA, text("{")),
    packet(Type.METADATA, text('{"type":1}')),
    packet(Type.AUDIO_CHUNK, new Uint8Array(4 * 1919)),
    packet(Type.AUDIO_CHUNK, EMPTY),
  ];
  for (const message of broken) {
    equal(thrown(() => client().hear(message)).name, "ServerProtocolError", String(message));
  }
});

law("what is not known is ignored and counted", () => {
  const { conversation, hear } = client();
  equal(hear(packet(0x7f, EMPTY)), []);
  equal(hear(metadata({ type: "news from a later version" })), []);
  equal(conversation.ignored, 2);
});

law("after goodbye nothing more is said but acks and heartbeats", () => {
  const { conversation, hear, written } = client();
  hear(metadata({ type: "ready" }));
  conversation.tell({ type: "bye" });
  conversation.tell({ type: "vad", speaking: true });
  conversation.speak(new Float32Array(1920), 0);
  hear(packet(Type.TEXT_FINAL, text("bye"), { wantsAck: true }));
  hear(packet(Type.HEARTBEAT, EMPTY));
  equal(written().map(({ type }) => type), [Type.METADATA, Type.ACK, Type.HEARTBEAT]);
});

law("a heartbeat answers our question, or asks and is answered, once a second at most", () => {
  const liveness = new Liveness({ everyMs: 5000, timeoutMs: 15_000, nowMs: 0 });
  liveness.ask(5000);
  equal([5100, 5200, 5300, 6300].map((nowMs) => liveness.answers(nowMs)), [false, true, false, true]);
});

law("two ends that keep the rule never echo heartbeats for ever", () => {
  const random = seeded(7);
  for (let run = 0; run < 200; run += 1) {
    const ends = [0, 1].map(() => new Liveness({ everyMs: 5000, timeoutMs: 15_000, nowMs: 0 }));
    const flying = [[], []]; // heartbeats on their way to each end
    let asked = 0;
    let sent = 0;
    for (let nowMs = 0; nowMs < 60_000; nowMs += 500) {
      for (const me of [0, 1]) {
        if (ends[me].isDue(nowMs)) {
          ends[me].ask(nowMs);
          flying[1 - me].push(1);
          asked += 1;
          sent += 1;
        }
        if (flying[me].length > 0 && random() < 0.7) {
          flying[me].pop();
          ends[me].hear(nowMs);
          if (ends[me].answers(nowMs)) {
            flying[1 - me].push(1);
            sent += 1;
          }
        }
        holds(!ends[me].isOver(nowMs), "silent between two that talk");
      }
    }
    holds(sent <= 2 * asked, `${sent} heartbeats for ${asked} questions`);
  }
});

law("silence is noticed, and any packet ends it", () => {
  const { conversation, hear } = client();
  equal([conversation.tick(14_999), conversation.tick(15_000)], [false, true]);
  hear(packet(0x7f, EMPTY), 15_000);
  equal(conversation.tick(29_999), false);
});

law("the outbox lets what matters go first, numbers what leaves, and drops the oldest audio", () => {
  const outbox = new Outbox({ audioLimit: 2 });
  const offer = (type, priority, mark) =>
    outbox.offer({ type, priority, timestampMs: mark, payload: EMPTY, wantsAck: false });
  offer(Type.METADATA, Priority.LOW, 1);
  offer(Type.METADATA, Priority.HIGH, 2);
  for (const mark of [3, 4, 5]) offer(Type.AUDIO_CHUNK, Priority.CRITICAL, mark);
  equal(outbox.droppedFrames, 1);
  const left = [0, 1, 2, 3].map(() => decode(outbox.take()));
  equal(left.map(({ seq, timestampMs }) => [seq, timestampMs]), [[0, 4], [1, 5], [2, 2], [3, 1]]);
  equal(outbox.take(), null);
});

law("delays grow, are bounded, keep what the server asked for, and start again after a success", () => {
  const backoff = new Backoff(() => 0);
  equal([0, 1, 2, 3, 4, 5, 6].map(() => backoff.next()), [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  equal(backoff.next(30_000), 30_000);
  backoff.reset();
  equal(new Backoff(() => 1).next(), 375);
  equal(backoff.next(), 500);
});

law("each way to end has one way to go on", () => {
  const after = (code, error = null, parted = false) => afterClose({ code, error, parted });
  equal(after(1006, null, true).again, false, "stopped by the user");
  for (const code of [1000, 4001, 1002, 1009]) equal(after(code).again, false, String(code));
  equal([after(1006).again, after(1006).resume], [true, true]);
  equal([after(1001).again, after(1001).resume], [true, false]);
  equal([after(1011).again, after(1011).resume], [true, false]);
  const full = after(1013, { code: "full", retryAfterMs: 5000 });
  equal([full.again, full.why, full.retryAfterMs], [true, "full", 5000]);
});

const ackOf = (seq) => packet(Type.ACK, Uint8Array.of(seq, 0, 0, 0));

law("the user's words go out as partials without an ACK and finals with one, once there is a lane", () => {
  const { conversation, hear, written, receipts } = client();
  conversation.write({ text: "too early", final: false });
  hear(metadata({ type: "ready" }));
  conversation.write({ text: "né €", final: false });
  const [partial] = written();
  equal([partial.type, partial.priority, partial.wantsAck], [Type.TEXT_PARTIAL, Priority.NORMAL, false]);
  conversation.write({ text: "né €5", final: true });
  const [final] = written();
  equal([final.type, final.priority, final.wantsAck], [Type.TEXT_FINAL, Priority.HIGH, true]);
  equal(new TextDecoder().decode(final.payload), "né €5");
  equal([receipts.waiting, receipts.acked], [1, 0]);
  hear(ackOf(final.seq));
  hear(ackOf(final.seq));
  equal([receipts.waiting, receipts.acked, conversation.ignored], [0, 1, 1]);
  conversation.tell({ type: "bye" });
  conversation.write({ text: "too late", final: true });
  equal(written().map(({ type }) => type), [Type.METADATA]);
});

law("under pressure the words so far go first: only the newest waits, and behind everything but reports", () => {
  const { conversation, outbox, hear, written } = client();
  hear(metadata({ type: "ready" }));
  conversation.tell({ type: "client_stats", underruns: 0 });
  for (let k = 0; k < 5; k += 1) {
    conversation.write({ text: `so far ${k}`, final: false });
    conversation.speak(new Float32Array(1920), k);
  }
  conversation.tell({ type: "vad", speaking: true });
  equal(outbox.droppedPartials, 4);
  equal(outbox.droppedFrames, 0);
  const packets = written();
  equal(packets.map(({ priority }) => priority), [0, 0, 0, 0, 0, 1, 2, 3]);
  equal(new TextDecoder().decode(packets[6].payload), "so far 4");
});

law("what an utterance was so far does not follow its end", () => {
  const { conversation, hear, written } = client();
  hear(metadata({ type: "ready" }));
  conversation.write({ text: "so", final: false });
  conversation.write({ text: "so far", final: true });
  equal(written().map(({ type }) => type), [Type.TEXT_FINAL]);
});

law("after a cut, what had no ACK is known, in order, and once", () => {
  const receipts = new Receipts();
  const first = client({ receipts });
  first.hear(metadata({ type: "ready" }));
  for (const text of ["one", "two", "three"]) first.conversation.write({ text, final: true });
  const [one] = first.written();
  first.hear(ackOf(one.seq));
  const again = receipts.takeAll();
  equal(again.map(({ payload }) => new TextDecoder().decode(payload)), ["two", "three"]);
  equal(receipts.takeAll(), []);
  const second = client({ receipts });
  for (const kept of again) second.outbox.offer(kept);
  equal(second.written().map(({ seq }) => seq), [0, 1]);
  second.hear(ackOf(1));
  equal([receipts.waiting, receipts.acked], [1, 2]);
});
