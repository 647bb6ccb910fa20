/**
 * An AudioContext in which a microphone can be used, whatever its sample rate, and what to do when it pauses.
 *
 * Every way to open or change a microphone goes through here, on both pages.
 */

import { AudioError } from "./audio-error.js";

/** A context at `sampleRate`, or at the device's own rate if the browser refuses that one. */
export function newContext(sampleRate) {
  const options = { latencyHint: "interactive" };
  try {
    return new AudioContext(sampleRate === undefined ? options : { ...options, sampleRate });
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return new AudioContext(options);
  }
}

/**
 * {context, source}: `connect(context)` makes the source. Firefox refuses a microphone whose rate is not the
 * context's, so after `first` come the device's own rate and `streamHz`; the worklets resample. Throws AudioError.
 */
export async function openContext(connect, first, streamHz) {
  const attempts = [() => first, () => newContext(), ...(streamHz ? [() => newContext(streamHz)] : [])];
  let refusal = null;
  for (const attempt of attempts) {
    const context = attempt();
    try {
      return { context, source: connect(context) };
    } catch (error) {
      await context.close();
      if (error.name !== "NotSupportedError") throw error;
      refusal = error;
    }
  }
  throw new AudioError("microphone_rate", refusal);
}

/**
 * Report the context's state, and resume it as soon as the browser allows: when the page is visible again (after a
 * phone call, say), or with the user's next action. → stop watching.
 */
export function watchContext(context, onState) {
  const resume = () => {
    if (context.state !== "running" && context.state !== "closed" && !document.hidden) context.resume().catch(() => {});
  };
  const actions = [[document, "visibilitychange"], [document, "pointerdown"], [document, "keydown"]];
  for (const [target, name] of actions) target.addEventListener(name, resume);
  context.onstatechange = () => onState(context.state);
  return () => {
    context.onstatechange = null;
    for (const [target, name] of actions) target.removeEventListener(name, resume);
  };
}
