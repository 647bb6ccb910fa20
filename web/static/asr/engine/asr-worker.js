/**
 * The Whisper worker; stateless between requests, so that it can be terminated at any moment.
 *
 * Requests: {kind: "load", id, settings}, {kind: "decode", id, samples, options}, {kind: "cancel"}. Responses:
 * progress, alive, done and failed. While wasm computes no message is handled, so after each token the worker
 * yields to its event loop: it reports that it is alive and can receive a cancellation.
 */

import { transcribeClip } from "./clip.js";
import { ModelRepository } from "../model/files.js";
import { WhisperModel } from "../model/whisper-model.js";
import { planLoad } from "../model/load-plan.js";
import { AsrError } from "../errors.js";

let model = null;
let isCancelled = false;

const yieldChannel = new MessageChannel();
const yieldToMessages = () =>
  new Promise((resolve) => {
    yieldChannel.port1.onmessage = resolve;
    yieldChannel.port2.postMessage(null);
  });

async function load(settings) {
  const startedMs = performance.now();
  const plan = await planLoad(settings);
  const repository = new ModelRepository({ base: settings.base, ...plan });
  const files = [];
  for (const file of plan.files) {
    const onProgress = (loaded, total) => postMessage({ kind: "progress", file, loaded, total });
    files.push(await repository.fetchToCache(file, onProgress));
  }
  const fetchedMs = performance.now();
  model = await open(settings, plan, repository);
  const endedMs = performance.now();
  return {
    device: plan.device,
    reason: plan.reason,
    dtype: plan.dtype,
    multilingual: model.tokens.tasks !== null,
    languages: [...model.tokens.languages.keys()],
    files,
    fetchMs: fetchedMs - startedMs,
    loadMs: endedMs - startedMs,
  };
}

async function open(settings, plan, files) {
  const environment = { vendor: settings.vendor, base: settings.base, threads: threads() };
  try {
    return await WhisperModel.open({ ...environment, ...plan, files });
  } catch (error) {
    if (plan.device === "wasm" || settings.device === "webgpu") throw error;
    const fallback = await planLoad({ ...settings, device: "wasm" });
    Object.assign(plan, fallback, { reason: `WebGPU failed: ${error.message}` });
    for (const file of plan.files) await files.fetchToCache(file, () => {});
    return WhisperModel.open({ ...environment, ...plan, files });
  }
}

/** Half of the cores; the page, the audio thread and possibly a local server need the others. */
function threads() {
  return crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1)) : 1;
}

async function decode(samples, options) {
  if (model === null) throw new AsrError("closed", "No model is loaded.");
  isCancelled = false;
  const startedMs = performance.now();
  const result = await transcribeClip(model, samples, options, async (tokens) => {
    postMessage({ kind: "alive", tokens });
    await yieldToMessages();
    if (isCancelled) throw new AsrError("cancelled", "The transcription was cancelled.");
  });
  return { ...result, decodeMs: performance.now() - startedMs };
}

const HANDLERS = {
  load: ({ settings }) => load(settings),
  decode: ({ samples, options }) => decode(samples, options),
};

onmessage = async ({ data }) => {
  if (data.kind === "cancel") {
    isCancelled = true;
    return;
  }
  try {
    postMessage({ kind: "done", id: data.id, result: await HANDLERS[data.kind](data) });
  } catch (error) {
    postMessage({ kind: "failed", id: data.id, error: AsrError.pack(error) });
  }
};
