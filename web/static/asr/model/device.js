/**
 * Choose WebGPU if a hardware GPU is available, wasm otherwise, and say why; software GPUs do not count.
 */

/** `wanted` is "auto", "webgpu" or "wasm" → {device, reason, hasHalf}; `hasHalf`: supports 16-bit floats. */
export async function chooseDevice(wanted, { acceptSoftware = false } = {}) {
  const wasm = (reason) => ({ device: "wasm", reason, hasHalf: false });
  if (wanted === "wasm") return wasm("selected by you");
  if (navigator.gpu === undefined) return wasm("no WebGPU in this browser");
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (adapter === null) return wasm("no GPU available in this browser");
  const { info } = adapter;
  const isSoftware =
    Boolean(adapter.isFallbackAdapter ?? info?.isFallbackAdapter) || info?.architecture === "swiftshader";
  if (isSoftware && !acceptSoftware) return wasm("only a software GPU is available");
  const name = [info?.vendor, info?.architecture].filter(Boolean).join(" ") || "unnamed adapter";
  return { device: "webgpu", reason: name, hasHalf: adapter.features.has("shader-f16") };
}

const SUFFIXES = {
  fp32: "",
  fp16: "_fp16",
  q8: "_quantized",
  q4: "_q4",
  q4f16: "_q4f16",
  int8: "_int8",
  uint8: "_uint8",
};

/** Precisions to try, best first: 8-bit weights are fast and small on wasm, and slow on a GPU. */
const PREFERRED_DTYPES = {
  wasm: { encoder_model: ["q8", "fp32", "q4"], decoder_model_merged: ["q8", "fp32", "q4"] },
  webgpu: { encoder_model: ["fp32", "q4"], decoder_model_merged: ["q4", "fp32"] },
  half: { encoder_model: ["fp16", "fp32", "q4"], decoder_model_merged: ["q4", "q4f16", "fp32"] },
};

/** {encoder_model, decoder_model_merged}: for each, the files {dtype, file} to try, in order. */
export function candidates({ device, hasHalf }, dtype) {
  const preferred = PREFERRED_DTYPES[device === "webgpu" && hasHalf ? "half" : device];
  return Object.fromEntries(
    Object.entries(preferred).map(([session, dtypes]) => {
      const wanted = typeof dtype === "object" && dtype !== null ? dtype[session] : dtype;
      const names = wanted ? [wanted] : dtypes;
      return [session, names.map((name) => ({ dtype: name, file: `onnx/${session}${SUFFIXES[name]}.onnx` }))];
    }),
  );
}
