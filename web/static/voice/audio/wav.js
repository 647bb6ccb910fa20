/** WAV files of 16-bit PCM. Source: RFC 2361, WAVE_FORMAT_PCM. */

const HEADER_BYTES = 44;
const BYTES = 2;

/** Floats to 16-bit samples; values beyond ±1 are clipped. */
export function quantize(samples) {
  return Int16Array.from(samples, (sample) => Math.round(32767 * Math.max(-1, Math.min(1, sample))));
}

/** A WAV file as a Blob; `chunks` are Int16Arrays, interleaved if there are several channels. */
export function wav(chunks, { rateHz, channels }) {
  const dataBytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const ascii = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  ascii(0, "RIFF");
  header.setUint32(4, HEADER_BYTES - 8 + dataBytes, true);
  ascii(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, channels, true);
  header.setUint32(24, rateHz, true);
  header.setUint32(28, rateHz * channels * BYTES, true);
  header.setUint16(32, channels * BYTES, true);
  header.setUint16(34, 8 * BYTES, true);
  ascii(36, "data");
  header.setUint32(40, dataBytes, true);
  return new Blob([header, ...chunks], { type: "audio/wav" });
}
