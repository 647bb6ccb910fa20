/**
 * Encode and decode packets; one WebSocket message is one packet.
 *
 * The header is 17 bytes, little endian: type u8, priority u8, seq u32, timestamp f64, length u16, ack u8. The
 * server has the other implementation; `tests/data/packets.json` holds byte-exact vectors for both. The meaning
 * of a packet is in conversation.js.
 */

export const Type = Object.freeze({
  HEARTBEAT: 0x01,
  ACK: 0x02,
  AUDIO_CHUNK: 0x10,
  TEXT_PARTIAL: 0x20,
  TEXT_FINAL: 0x21,
  METADATA: 0x30,
});

export const Priority = Object.freeze({ CRITICAL: 0, HIGH: 1, NORMAL: 2, LOW: 3 });

export const HEADER_BYTES = 17;
export const SEQ_MODULUS = 2 ** 32;
const MAX_PAYLOAD_BYTES = 0xffff;

/** The message is not a packet. `fault`: empty_message, short_header or length_mismatch. */
export class PacketError extends Error {
  constructor(fault, message) {
    super(message);
    this.name = "PacketError";
    this.fault = fault;
  }
}

/** The bytes of one packet; `payload` is a Uint8Array. */
export function encode({ type, priority, seq, timestampMs, payload, wantsAck }) {
  if (payload.byteLength > MAX_PAYLOAD_BYTES) {
    throw new RangeError(`a payload of ${payload.byteLength} bytes does not fit in a packet`);
  }
  const message = new Uint8Array(HEADER_BYTES + payload.byteLength);
  const view = new DataView(message.buffer);
  view.setUint8(0, type);
  view.setUint8(1, priority);
  view.setUint32(2, seq, true);
  view.setFloat64(6, timestampMs, true);
  view.setUint16(14, payload.byteLength, true);
  view.setUint8(16, wantsAck ? 1 : 0);
  message.set(payload, HEADER_BYTES);
  return message;
}

/**
 * Decode `message`, a Uint8Array; the payload is a view of it.
 *
 * Throws PacketError, and nothing else.
 */
export function decode(message) {
  if (message.byteLength === 0) throw new PacketError("empty_message", "the message is empty");
  if (message.byteLength < HEADER_BYTES) {
    throw new PacketError("short_header", `a packet has at least ${HEADER_BYTES} bytes`);
  }
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const lengthBytes = view.getUint16(14, true);
  const payload = message.subarray(HEADER_BYTES);
  if (lengthBytes !== payload.byteLength) {
    const message = `the header announces ${lengthBytes} bytes of payload, not ${payload.byteLength}`;
    throw new PacketError("length_mismatch", message);
  }
  return {
    type: view.getUint8(0),
    priority: view.getUint8(1),
    seq: view.getUint32(2, true),
    timestampMs: view.getFloat64(6, true),
    wantsAck: view.getUint8(16) !== 0,
    payload,
  };
}

/** Copy an audio payload into `samples`, as many bytes; the header leaves it unaligned. → `samples` */
export function copySamples(payload, samples) {
  payloadOf(samples).set(payload);
  return samples;
}

/** The audio payload of `samples`; a view. Typed arrays are little endian wherever browsers run. */
export function payloadOf(samples) {
  return new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
}
