/**
 * Any sound that this browser can play becomes mono samples at 16 kHz, or a SoundFileError that says why not.
 *
 * An offline context of that rate resamples while it decodes. Channels are averaged.
 */

export const RATE_HZ = 16_000;

/** `why` is for programs: unreadable, not_sound, too_long or empty. */
export class SoundFileError extends Error {
  constructor(why, cause) {
    super(why, { cause });
    this.name = "SoundFileError";
    this.why = why;
  }
}

/** The samples of a File or Blob, as a Float32Array. Throws SoundFileError. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE_HZ);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch (error) {
    throw new SoundFileError(reason(error), error);
  }
  if (buffer.length === 0) throw new SoundFileError("empty");
  return mono(Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i)));
}

/** The average of the channels; of one, itself. */
export function mono(channels) {
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
      return "unreadable"; // moved, changed or locked since it was chosen
    case "RangeError":
    case "QuotaExceededError":
      return "too_long"; // no room for so many samples
    default:
      throw error;
  }
}
