import { Backoff } from "voice/protocol/backoff.js";
import { Conversation } from "voice/protocol/conversation.js";
import { FramePool } from "voice/protocol/frame-pool.js";
import { configureFields, hasPersona } from "voice/protocol/persona.js";
import { afterClose } from "voice/protocol/close-codes.js";
import { ReceivedIds } from "voice/protocol/received-ids.js";
import { Liveness } from "voice/protocol/liveness.js";
import { SendQueue } from "voice/protocol/send-queue.js";
import { Priority, Type, decode, encode, payloadOf } from "voice/protocol/packets.js";
import { UnackedPackets } from "voice/protocol/unacked-packets.js";
import { equal, errorOf, ok, seeded, test } from "./harness.js";

const text = (content) => new TextEncoder().encode(content);
const EMPTY = new Uint8Array(0);

function packet(type, payload, { seq = 0, timestampMs = 0, wantsAck = false } = {}) {
  return encode({ type, priority: 0, seq, timestampMs, wantsAck, payload });
}

const metadata = (content) => packet(Type.METADATA, text(JSON.stringify(content)));

/** A client with its queue; `receive(message)` returns events, `sent()` the packets queued since. */
function client({ receivedIds = new ReceivedIds(), unackedPackets = new UnackedPackets() } = {}) {
  const sendQueue = new SendQueue({ maxAudioFrames: 8, unackedPackets });
  const framePool = new FramePool();
  const session = { receivedIds, unackedPackets, framePool };
  const conversation = new Conversation({ ...session, sendQueue, nowMs: 0, epochMs: () => 1000 });
  const sent = () => {
    const packets = [];
    for (let message = sendQueue.shift(); message !== null; message = sendQueue.shift()) packets.push(decode(message));
    return packets;
  };
  const receive = (message, nowMs = 0) => conversation.receive(message, nowMs);
  return { conversation, sendQueue, unackedPackets, framePool, sent, receive };
}

test("a packet that requests an ACK is acknowledged by its seq", () => {
  const { receive, sent } = client();
  const shown = receive(packet(Type.TEXT_FINAL, text("hello"), { seq: 258, wantsAck: true }));
  equal(shown, [{ kind: "text", final: true, text: "hello" }]);
  const [ack] = sent();
  equal([ack.type, ack.priority, Array.from(ack.payload)], [Type.ACK, Priority.HIGH, [2, 1, 0, 0]]);
});

test("an ACK is never acknowledged", () => {
  const { receive, sent } = client();
  receive(packet(Type.ACK, Uint8Array.of(0, 0, 0, 0), { wantsAck: true }));
  equal(sent(), []);
});

test("after a resume, a packet received before is acknowledged but gives no event", () => {
  const receivedIds = new ReceivedIds();
  const first = client({ receivedIds });
  first.receive(packet(Type.TEXT_FINAL, text("one"), { wantsAck: true }));
  first.receive(packet(Type.TEXT_FINAL, text("two"), { seq: 1, wantsAck: true }));
  const second = client({ receivedIds });
  second.receive(metadata({ type: "resumed", resumeToken: "t", unacked: [1, 2], nextId: 3 }));
  const texts = ["two", "three", "four"].map((content, seq) =>
    second.receive(packet(Type.TEXT_FINAL, text(content), { seq, wantsAck: true })),
  );
  equal(texts.map((events) => events.map((event) => event.text)), [[], ["three"], ["four"]]);
  equal(second.sent().length, 3, "acks");
});

test("audio is sent only after ready, with its exact capture time", () => {
  const { conversation, receive, sent } = client();
  const frame = new Float32Array(1920).fill(0.25);
  conversation.sendAudio(frame, 1.5);
  equal(sent(), []);
  receive(metadata({ type: "ready" }));
  conversation.sendAudio(frame, 1767225600123.4001);
  const [audio] = sent();
  equal([audio.type, audio.priority], [Type.AUDIO_CHUNK, Priority.CRITICAL]);
  equal(audio.timestampMs, 1767225600123.4001);
  equal(audio.payload.length, 7680);
});

test("a session that is put back sends neither audio nor captions until it continues", () => {
  const { conversation, receive, sent } = client();
  const speak = () => {
    conversation.sendAudio(new Float32Array(1920), 0);
    conversation.sendText({ text: "hello", final: true });
    return sent().map(({ type }) => type);
  };
  equal(receive(metadata({ type: "queued", position: 2 }))[0].kind, "queued");
  equal(receive(metadata({ type: "ready" }))[0].kind, "ready");
  equal(speak(), [Type.AUDIO_CHUNK, Type.TEXT_FINAL].sort());
  equal(receive(metadata({ type: "queued", position: 2 })), [{ kind: "paused", position: 2 }]);
  equal(receive(metadata({ type: "queued", position: 1 })), [{ kind: "paused", position: 1 }]);
  equal(speak(), []);
  equal(receive(metadata({ type: "ready" })), [{ kind: "continued" }]);
  equal(speak(), [Type.AUDIO_CHUNK, Type.TEXT_FINAL].sort());
});

test("after a pause, a packet that is sent again on a later connection is still known", () => {
  const receivedIds = new ReceivedIds();
  const first = client({ receivedIds });
  first.receive(metadata({ type: "ready" }));
  first.receive(packet(Type.TEXT_FINAL, text("one"), { wantsAck: true }));
  first.receive(metadata({ type: "queued", position: 1 }));
  first.receive(metadata({ type: "ready" }));
  first.receive(packet(Type.TEXT_FINAL, text("two"), { seq: 1, wantsAck: true }));
  const second = client({ receivedIds });
  second.receive(metadata({ type: "resumed", resumeToken: "t", unacked: [1], nextId: 2 }));
  equal(second.receive(packet(Type.TEXT_FINAL, text("two"), { wantsAck: true })), []);
});

test("a burst is split into frames, each with its own echo time", () => {
  const { receive } = client();
  const samples = Float32Array.from({ length: 3 * 1920 }, (_, i) => i / 6000);
  const events = receive(packet(Type.AUDIO_CHUNK, payloadOf(samples), { timestampMs: 1000 }));
  equal(events.map(({ echoMs, index }) => [echoMs, index]), [[840, 0], [920, 1], [1000, 2]]);
  equal(events[1].samples, samples.subarray(1920, 3840));
});

test("a frame that came back is filled again", () => {
  const { receive, framePool } = client();
  const receiveFrame = (sample) => {
    const frame = new Float32Array(1920).fill(sample);
    return receive(packet(Type.AUDIO_CHUNK, payloadOf(frame)))[0].samples;
  };
  const first = receiveFrame(0.5);
  const second = receiveFrame(0.25);
  ok(first !== second && first[0] === 0.5, "nobody had given the first one back");
  framePool.give(first);
  ok(receiveFrame(-1) === first, "it was not used");
  equal([...new Set(first)], [-1]);
});

test("an invalid packet, text, metadata object or frame length is a protocol error", () => {
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
    equal(errorOf(() => client().receive(message)).name, "ServerProtocolError", String(message));
  }
});

test("unknown packets and metadata are ignored and counted", () => {
  const { conversation, receive } = client();
  equal(receive(packet(0x7f, EMPTY)), []);
  equal(receive(metadata({ type: "news from a later version" })), []);
  equal(conversation.ignored, 2);
});

test("after bye only ACKs and heartbeats are sent", () => {
  const { conversation, receive, sent } = client();
  receive(metadata({ type: "ready" }));
  conversation.sendMetadata({ type: "bye" });
  conversation.sendMetadata({ type: "vad", speaking: true });
  conversation.sendAudio(new Float32Array(1920), 0);
  receive(packet(Type.TEXT_FINAL, text("bye"), { wantsAck: true }));
  receive(packet(Type.HEARTBEAT, EMPTY));
  equal(sent().map(({ type }) => type), [Type.METADATA, Type.ACK, Type.HEARTBEAT]);
});

test("a heartbeat is an answer if one of ours is unanswered, else it is answered, at most once per second", () => {
  const liveness = new Liveness({ everyMs: 5000, timeoutMs: 15_000, nowMs: 0 });
  liveness.heartbeatSent(5000);
  equal([5100, 5200, 5300, 6300].map((nowMs) => liveness.shouldAnswer(nowMs)), [false, true, false, true]);
});

test("two ends that follow the rule never echo heartbeats forever", () => {
  const random = seeded(7);
  for (let run = 0; run < 200; run += 1) {
    const ends = [0, 1].map(() => new Liveness({ everyMs: 5000, timeoutMs: 15_000, nowMs: 0 }));
    const inFlight = [[], []]; // heartbeats on their way to each end
    let requested = 0;
    let sent = 0;
    for (let nowMs = 0; nowMs < 60_000; nowMs += 500) {
      for (const me of [0, 1]) {
        if (ends[me].isDue(nowMs)) {
          ends[me].heartbeatSent(nowMs);
          inFlight[1 - me].push(1);
          requested += 1;
          sent += 1;
        }
        if (inFlight[me].length > 0 && random() < 0.7) {
          inFlight[me].pop();
          ends[me].packetReceived(nowMs);
          if (ends[me].shouldAnswer(nowMs)) {
            inFlight[1 - me].push(1);
            sent += 1;
          }
        }
        ok(!ends[me].hasTimedOut(nowMs), "timed out although both ends send");
      }
    }
    ok(sent <= 2 * requested, `${sent} heartbeats for ${requested} requests`);
  }
});

test("a silent server times out, and any packet resets the timeout", () => {
  const { conversation, receive } = client();
  equal([conversation.tick(14_999), conversation.tick(15_000)], [false, true]);
  receive(packet(0x7f, EMPTY), 15_000);
  equal(conversation.tick(29_999), false);
});

test("the send queue sends by priority, numbers packets as they leave, and drops the oldest audio", () => {
  const sendQueue = new SendQueue({ maxAudioFrames: 2 });
  const push = (type, priority, timeMs) =>
    sendQueue.push({ type, priority, timestampMs: timeMs, payload: EMPTY, wantsAck: false });
  push(Type.METADATA, Priority.LOW, 1);
  push(Type.METADATA, Priority.HIGH, 2);
  for (const timeMs of [3, 4, 5]) push(Type.AUDIO_CHUNK, Priority.CRITICAL, timeMs);
  equal(sendQueue.droppedFrames, 1);
  const left = [0, 1, 2, 3].map(() => decode(sendQueue.shift()));
  equal(left.map(({ seq, timestampMs }) => [seq, timestampMs]), [[0, 4], [1, 5], [2, 2], [3, 1]]);
  equal(sendQueue.shift(), null);
});

test("backoff delays grow, are bounded, respect the server's minimum, and reset after a success", () => {
  const backoff = new Backoff(() => 0);
  equal([0, 1, 2, 3, 4, 5, 6].map(() => backoff.next()), [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  equal(backoff.next(30_000), 30_000);
  backoff.reset();
  equal(new Backoff(() => 1).next(), 375);
  equal(backoff.next(), 500);
});

test("each close code has one decision: stop, reconnect, or resume", () => {
  const after = (code, error = null, closing = false) => afterClose({ code, error, closing });
  equal(after(1006, null, true).reconnect, false, "stopped by the user");
  for (const code of [1000, 4001, 1002, 1009]) equal(after(code).reconnect, false, String(code));
  equal([after(1006).reconnect, after(1006).resume], [true, true]);
  equal([after(1001).reconnect, after(1001).resume], [true, false]);
  equal([after(1011).reconnect, after(1011).resume], [true, false]);
  const full = after(1013, { code: "full", retryAfterMs: 5000 });
  equal([full.reconnect, full.why, full.retryAfterMs], [true, "full", 5000]);
});

const ackOf = (seq) => packet(Type.ACK, Uint8Array.of(seq, 0, 0, 0));

test("captions are sent after ready: partials without an ACK, finals with one", () => {
  const { conversation, receive, sent, unackedPackets } = client();
  conversation.sendText({ text: "too early", final: false });
  receive(metadata({ type: "ready" }));
  conversation.sendText({ text: "né €", final: false });
  const [partial] = sent();
  equal([partial.type, partial.priority, partial.wantsAck], [Type.TEXT_PARTIAL, Priority.NORMAL, false]);
  conversation.sendText({ text: "né €5", final: true });
  const [final] = sent();
  equal([final.type, final.priority, final.wantsAck], [Type.TEXT_FINAL, Priority.HIGH, true]);
  equal(new TextDecoder().decode(final.payload), "né €5");
  equal([unackedPackets.count, unackedPackets.acked], [1, 0]);
  receive(ackOf(final.seq));
  receive(ackOf(final.seq));
  equal([unackedPackets.count, unackedPackets.acked, conversation.ignored], [0, 1, 1]);
  conversation.sendMetadata({ type: "bye" });
  conversation.sendText({ text: "too late", final: true });
  equal(sent().map(({ type }) => type), [Type.METADATA]);
});

test("under pressure only the newest partial caption is kept, with lower priority than everything but statistics", () => {
  const { conversation, sendQueue, receive, sent } = client();
  receive(metadata({ type: "ready" }));
  conversation.sendMetadata({ type: "client_stats", underruns: 0 });
  for (let k = 0; k < 5; k += 1) {
    conversation.sendText({ text: `so far ${k}`, final: false });
    conversation.sendAudio(new Float32Array(1920), k);
  }
  conversation.sendMetadata({ type: "vad", speaking: true });
  equal(sendQueue.droppedPartials, 4);
  equal(sendQueue.droppedFrames, 0);
  const packets = sent();
  equal(packets.map(({ priority }) => priority), [0, 0, 0, 0, 0, 1, 2, 3]);
  equal(new TextDecoder().decode(packets[6].payload), "so far 4");
});

test("a partial caption is not sent after the final one", () => {
  const { conversation, receive, sent } = client();
  receive(metadata({ type: "ready" }));
  conversation.sendText({ text: "so", final: false });
  conversation.sendText({ text: "so far", final: true });
  equal(sent().map(({ type }) => type), [Type.TEXT_FINAL]);
});

test("after a lost connection, unacknowledged packets are returned once, in order", () => {
  const unackedPackets = new UnackedPackets();
  const first = client({ unackedPackets });
  first.receive(metadata({ type: "ready" }));
  for (const text of ["one", "two", "three"]) first.conversation.sendText({ text, final: true });
  const [one] = first.sent();
  first.receive(ackOf(one.seq));
  const unacked = unackedPackets.takeAll();
  equal(unacked.map(({ payload }) => new TextDecoder().decode(payload)), ["two", "three"]);
  equal(unackedPackets.takeAll(), []);
  const second = client({ unackedPackets });
  for (const packet of unacked) second.sendQueue.push(packet);
  equal(second.sent().map(({ seq }) => seq), [0, 1]);
  second.receive(ackOf(1));
  equal([unackedPackets.count, unackedPackets.acked], [1, 2]);
});

test("a session that is held sends no audio until the next ready, and ids go on", () => {
  const { conversation, receive, sent } = client();
  const frame = new Float32Array(1920);
  receive(metadata({ type: "ready" }));
  const final = packet(Type.TEXT_FINAL, text("one"), { seq: 1, wantsAck: true });
  equal(receive(final).length, 1);
  conversation.hold();
  conversation.sendAudio(frame, 1);
  receive(metadata({ type: "ready", voice: "NATF0" }));
  conversation.sendAudio(frame, 2);
  equal(
    sent().filter(({ type }) => type === Type.AUDIO_CHUNK).map(({ timestampMs }) => timestampMs),
    [2],
  );
});

test("a persona is asked for and recognized by what is not empty", () => {
  equal(configureFields({ voice: "", role: "" }), {});
  equal(configureFields({ voice: "NATF0", role: "be kind" }), { voice: "NATF0", role: "be kind" });
  equal(hasPersona({}, { voice: "", role: "" }), true);
  equal(hasPersona({ voice: "NATF0", role: "default" }, { voice: "NATF0", role: "" }), true);
  equal(hasPersona({ voice: "NATF0" }, { voice: "NATF0", role: "be kind" }), false);
  equal(hasPersona({}, { voice: "NATF0", role: "" }), false);
});
