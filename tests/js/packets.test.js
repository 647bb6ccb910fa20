import { copySamples, decode, encode, payloadOf } from "voice/protocol/packets.js";
import { equal, errorOf, near, test } from "./harness.js";

const vectors = await (await fetch("/tests/data/packets.json")).json();

const bytesOf = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

function bitsOf(ms) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, ms);
  return view.getBigUint64(0).toString(16).padStart(16, "0");
}

for (const vector of vectors.packets) {
  test(`${vector.name}: decoded as by the server`, () => {
    const packet = decode(bytesOf(vector.hex));
    for (const field of ["type", "priority", "seq", "wantsAck"]) equal(packet[field], vector[field], field);
    equal(hexOf(packet.payload), vector.payload, "payload");
    if (Number.isNaN(packet.timestampMs)) equal(vector.timestampMs, null, "timestamp");
    else equal(bitsOf(packet.timestampMs), vector.timestampBits, "timestamp");
  });
  // JavaScript engines do not preserve the payload of a NaN, and we never send one.
  if (vector.onlyRead || vector.timestampMs === null) continue;
  test(`${vector.name}: encoded as by the server`, () => {
    const { type, priority, seq, timestampMs, wantsAck } = vector;
    const message = encode({ type, priority, seq, timestampMs, wantsAck, payload: bytesOf(vector.payload) });
    equal(hexOf(message), vector.hex);
  });
}

for (const { name, hex, fault } of vectors.faults) {
  test(`${name}: rejected as ${fault}`, () => {
    const error = errorOf(() => decode(bytesOf(hex)));
    equal(error.name, "PacketError");
    equal(error.fault, fault);
  });
}

test("a packet is decoded at any offset of its buffer", () => {
  const whole = bytesOf(`ffff${vectors.packets[0].hex}`);
  equal(decode(whole.subarray(2)).type, vectors.packets[0].type);
});

test("samples round-trip exactly", () => {
  const samples = Float32Array.of(0, 0.5, -1, 1 / 3);
  const header = { type: 0x10, priority: 0, seq: 0, timestampMs: 0, wantsAck: false };
  const message = encode({ ...header, payload: payloadOf(samples) });
  equal(copySamples(decode(message).payload, new Float32Array(4)), samples);
});

test("encoding a payload that is too long throws a RangeError", () => {
  const payload = new Uint8Array(65_536);
  const error = errorOf(() => encode({ type: 1, priority: 0, seq: 0, timestampMs: 0, wantsAck: false, payload }));
  equal(error.name, "RangeError");
  near(payload.length, 65_535, 1);
});
