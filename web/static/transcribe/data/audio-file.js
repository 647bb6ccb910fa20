/**
 * Decode an audio or video file to mono samples at 16 kHz, with the browser's decoders.
 *
 * An offline audio context resamples while it decodes; channels are averaged. What would spoil a transcript without any
 * failure is reported, and mended where it can be, as in pipeline/audio/sound_file.py.
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

const OVER_FULL_SCALE = 4; // 12 dB: no recording, but samples of another unit
const CANCELLED = 0.1; // 20 dB: channels that have nothing in common lose 3
const QUIET_PEAK = 10 ** (-30 / 20);

/** {samples, problem} of a File or Blob: a Float32Array, and what is wrong with it, or null. Throws AudioFileError. */
export async function decodeAudioFile(file) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE_HZ);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch (error) {
    throw new AudioFileError(reason(error), error);
  }
  if (buffer.length === 0) throw new AudioFileError("empty");
  return repairedMono(Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i)));
}

/**
 * {samples, problem} of a recording's channels. `problem`: `only_zeros`; `cancelled` (the loudest channel is used);
 * `over_scale` (scaled down); `quiet`; or null.
 */
export function repairedMono(channels) {
  const samples = mixToMono(channels);
  const peak = Math.max(...channels.map(peakOf));
  if (peak === 0) return { samples, problem: "only_zeros" };
  const levels = channels.map(rms);
  const loudest = Math.max(...levels);
  if (rms(samples) < CANCELLED * loudest) return { samples: channels[levels.indexOf(loudest)], problem: "cancelled" };
  if (peak > OVER_FULL_SCALE) return { samples: samples.map((sample) => sample / peak), problem: "over_scale" };
  return { samples, problem: peak < QUIET_PEAK ? "quiet" : null };
}

const peakOf = (samples) => samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);

function rms(samples) {
  let energy = 0;
  for (let i = 0; i < samples.length; i += 1) energy += samples[i] * samples[i];
  return Math.sqrt(energy / samples.length);
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
