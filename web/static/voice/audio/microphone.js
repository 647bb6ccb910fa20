/**
 * A microphone is asked for with what speech needs, what was granted is read back, and a refusal says why.
 *
 * Echo cancellation, noise suppression and gain control are requests: the browser decides. Failures are
 * SoundError with a `why` that sentences.js turns into a sentence.
 */

import { RATE_HZ } from "../units.js";

/** The sound path could not be opened; `why` is for programs. */
export class SoundError extends Error {
  constructor(why, cause) {
    super(why, { cause });
    this.name = "SoundError";
    this.why = why;
  }
}

// By DOMException name (Media Capture and Streams, getUserMedia).
const REFUSALS = Object.freeze({
  NotAllowedError: "microphone_denied",
  SecurityError: "microphone_denied",
  NotFoundError: "microphone_missing",
  OverconstrainedError: "microphone_missing",
  NotReadableError: "microphone_busy",
  AbortError: "microphone_busy",
});

/** A MediaStream of one microphone. Throws SoundError. */
export async function openMicrophone({ deviceId, echoCancellation, noiseSuppression, autoGainControl }) {
  if (!globalThis.isSecureContext) throw new SoundError("insecure_context");
  if (navigator.mediaDevices?.getUserMedia === undefined) throw new SoundError("no_media_devices");
  const audio = {
    channelCount: { ideal: 1 },
    sampleRate: { ideal: RATE_HZ },
    latency: { ideal: 0.01 },
    echoCancellation,
    noiseSuppression,
    autoGainControl,
  };
  if (deviceId) audio.deviceId = { exact: deviceId };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    if (!(error.name in REFUSALS)) throw error;
    throw new SoundError(REFUSALS[error.name], error);
  }
}

/** What the browser gave of what was asked for; undefined where it does not say. */
export function grantedBy(stream) {
  const [track] = stream.getAudioTracks();
  const { echoCancellation, noiseSuppression, autoGainControl, sampleRate, latency } = track.getSettings();
  return { label: track.label, echoCancellation, noiseSuppression, autoGainControl, sampleRate, latency };
}

/** The devices to choose from, by kind; without permission they have no names and are left out. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  const named = (kind) => devices.filter((device) => device.kind === kind && device.label !== "");
  return { inputs: named("audioinput"), outputs: named("audiooutput") };
}
