/**
 * Whisper has a thread of its own, which may be ended at any moment: all it knows came with the last order.
 *
 * Orders: {kind: "load", id, settings}, {kind: "decode", id, samples, options}, {kind: "cancel"}. Answers:
 * progress, alive, done and failed. While wasm computes, nothing else runs here, so after each token the
 * worker takes a breath, in which it says that it lives and hears of a cancellation.
 */

import { hearClip } from "./clip.js";
import { Repository } from "../model/files.js";
import { WhisperModel } from "../model/model.js";
import { planLoad } from "../model/plan.js";
import { Trouble } from "../errors.js";

let model = null;
let isCancelled = false;

const breath = new MessageChannel();
const breathe = () =>
  new Promise((resolve) => {
    breath.port1.onmessage = resolve;
    breath.port2.postMessage(null);
  });

async function load(settings) {
  const began = performance.now();
  const plan = await planLoad(settings);
  const repository = new Repository({ base: settings.base, ...plan });
  const files = [];
  for (const file of plan.files) {
    const heed = (loaded, total) => postMessage({ kind: "progress", file, loaded, total });
    files.push(await repository.keep(file, heed));
  }
  const fetched = performance.now();
  model = await open(settings, plan, repository);
  const ended = performance.now();
  return {
    device: plan.device,
    reason: plan.reason,
    dtype: plan.dtype,
    multilingual: model.tokens.tasks !== null,
    languages: [...model.tokens.languages.keys()],
    files,
    fetchMs: fetched - began,
    loadMs: ended - began,
  };
}

async function open(settings, plan, files) {
  const where = { vendor: settings.vendor, base: settings.base, threads: threads() };
  try {
    return await WhisperModel.open({ ...where, ...plan, files });
  } catch (error) {
    if (plan.device === "wasm" || settings.device === "webgpu") throw error;
    const instead = await planLoad({ ...settings, device: "wasm" });
    Object.assign(plan, instead, { reason: `WebGPU failed: ${error.message}` });
    for (const file of plan.files) await files.keep(file, () => {});
    return WhisperModel.open({ ...where, ...plan, files });
  }
}

/** Half of the cores: the other half is the page's, the sound's and, on one machine, the server's. */
function threads() {
  return crossOriginIsolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1)) : 1;
}

async function decode(samples, options) {
  if (model === null) throw new Trouble("closed", "No model is loaded.");
  isCancelled = false;
  const began = performance.now();
  const result = await hearClip(model, samples, options, async (tokens) => {
    postMessage({ kind: "alive", tokens });
    await breathe();
    if (isCancelled) throw new Trouble("cancelled", "The transcription was cancelled.");
  });
  return { ...result, decodeMs: performance.now() - began };
}

const ORDERS = {
  load: ({ settings }) => load(settings),
  decode: ({ samples, options }) => decode(samples, options),
};

onmessage = async ({ data }) => {
  if (data.kind === "cancel") {
    isCancelled = true;
    return;
  }
  try {
    postMessage({ kind: "done", id: data.id, result: await ORDERS[data.kind](data) });
  } catch (error) {
    postMessage({ kind: "failed", id: data.id, error: Trouble.pack(error) });
  }
};
