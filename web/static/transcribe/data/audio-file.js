/**
 * Decode an audio or video file to mono samples at 16 kHz, with the browser's decoders.
 *
 * An offline audio context resamples while it decodes; channels are averaged.
 */

export const SAMPLE_RATE_HZ = 16_000;

/** `why`: unreadable, not_sound, too_long or empty. */
export class AudioFileError extends Error {
  constructor(why, cause) {
    super(why, { cause });
    this.name = "AudioFileError";
    this.why = why;
  }
}

/** The samples of a File or Blob, as a Float32Array. Throws AudioFileError. */
export async function decodeAudioFile(file) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE_HZ);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch (error) {
    throw new AudioFileError(reason(error), error);
  }
  if (buffer.length === 0) throw new AudioFileError("empty");
  return mixToMono(Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i)));
}

/** The average of the channels; a single channel is returned as it is. */
export function mixToMono(channels) {
  if (channels.length === 1) return channels[0];
  const mixed = new Float32Array(channels[0].length);
  for (const channel of channels) {
    for (let i = 0; i < mixed.length; i += 1) mixed[i] += channel[i] / channels.length;
  }
  return mixed;
}

function reason(error) {
  switch (error.name) {
    case "EncodingError":
      return "not_sound";
    case "NotFoundError":
    case "NotReadableError":
      return "unreadable"; // moved, changed or locked after it was chosen
    case "RangeError":
    case "QuotaExceededError":
      return "too_long"; // not enough memory for the samples
    default:
      throw error;
  }
}
