/**
 * Open a microphone with settings for speech, and report what the browser granted or why it failed.
 *
 * Echo cancellation, noise suppression and gain control are requests; the browser decides. Failures are AudioErrors
 * whose `why` is a key of the messages in ui/messages.js.
 */

import { RATE_HZ } from "../units.js";
import { AudioError } from "./audio-error.js";

// By DOMException name (Media Capture and Streams, getUserMedia).
const WHY_BY_ERROR = Object.freeze({
  NotAllowedError: "microphone_denied",
  SecurityError: "microphone_denied",
  NotFoundError: "microphone_missing",
  OverconstrainedError: "microphone_missing",
  NotReadableError: "microphone_busy",
  AbortError: "microphone_busy",
});

/** The MediaStream of a microphone. Throws AudioError. */
export async function openMicrophone({ deviceId, echoCancellation, noiseSuppression, autoGainControl }) {
  if (!globalThis.isSecureContext) throw new AudioError("insecure_context");
  if (navigator.mediaDevices?.getUserMedia === undefined) throw new AudioError("no_media_devices");
  const audio = {
    channelCount: { ideal: 1 },
    sampleRate: { ideal: RATE_HZ },
    latency: { ideal: 0.01 },
    echoCancellation,
    noiseSuppression,
    autoGainControl,
  };
  const ask = (constraints) => navigator.mediaDevices.getUserMedia({ audio: constraints });
  try {
    if (!deviceId) return await ask(audio);
    return await ask({ ...audio, deviceId: { exact: deviceId } }).catch((error) => {
      if (WHY_BY_ERROR[error.name] !== "microphone_missing") throw error;
      return ask(audio); // the selected one is not connected: the default
    });
  } catch (error) {
    if (!(error.name in WHY_BY_ERROR)) throw error;
    throw new AudioError(WHY_BY_ERROR[error.name], error);
  }
}

/** Release the device. */
export function stopStream(stream) {
  for (const track of stream?.getTracks() ?? []) {
    track.onended = null;
    track.stop();
  }
}

/** Whether the user or the system has taken the permission back; false where the browser does not tell. */
export async function isMicrophoneDenied() {
  try {
    return (await navigator.permissions.query({ name: "microphone" })).state === "denied";
  } catch {
    return false;
  }
}

/** The settings that the browser applied; undefined where it does not report them. */
export function grantedBy(stream) {
  const [track] = stream.getAudioTracks();
  const { echoCancellation, noiseSuppression, autoGainControl, sampleRate, latency } = track.getSettings();
  return { label: track.label, echoCancellation, noiseSuppression, autoGainControl, sampleRate, latency };
}

/** Whether this output device is connected; null where the browser does not tell. */
export async function hasOutput(outputId) {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  const ids = devices.filter(({ kind, deviceId }) => kind === "audiooutput" && deviceId !== "").map(({ deviceId }) => deviceId);
  return ids.length === 0 ? null : ids.includes(outputId);
}

/** The available devices, by kind; without permission they have no labels and are omitted. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  const named = (kind) => devices.filter((device) => device.kind === kind && device.label !== "");
  return { inputs: named("audioinput"), outputs: named("audiooutput") };
}
