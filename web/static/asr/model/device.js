/**
 * A GPU where there is one, else wasm, and in both cases the reason; a GPU made of software is none.
 */

/** `wanted` is "auto", "webgpu" or "wasm" → {device, reason, hasHalf}: whether it computes in 16 bits. */
export async function chooseDevice(wanted, { acceptSoftware = false } = {}) {
  const wasm = (reason) => ({ device: "wasm", reason, hasHalf: false });
  if (wanted === "wasm") return wasm("wasm was asked for");
  if (navigator.gpu === undefined) return wasm("this browser has no WebGPU");
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (adapter === null) return wasm("this browser offers no GPU");
  const { info } = adapter;
  const isSoftware =
    Boolean(adapter.isFallbackAdapter ?? info?.isFallbackAdapter) || info?.architecture === "swiftshader";
  if (isSoftware && !acceptSoftware) return wasm("the only GPU is made of software");
  const name = [info?.vendor, info?.architecture].filter(Boolean).join(" ") || "unnamed";
  return { device: "webgpu", reason: `WebGPU on ${name}`, hasHalf: adapter.features.has("shader-f16") };
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

/** The precisions to look for, the best first: 8-bit weights are fast and small on wasm, and slow on a GPU. */
const ORDERS = {
  wasm: { encoder_model: ["q8", "fp32", "q4"], decoder_model_merged: ["q8", "fp32", "q4"] },
  webgpu: { encoder_model: ["fp32", "q4"], decoder_model_merged: ["q4", "fp32"] },
  half: { encoder_model: ["fp16", "fp32", "q4"], decoder_model_merged: ["q4", "q4f16", "fp32"] },
};

/** {encoder_model, decoder_model_merged}: for each the files {dtype, file} to look for, in order. */
export function candidates({ device, hasHalf }, dtype) {
  const order = ORDERS[device === "webgpu" && hasHalf ? "half" : device];
  return Object.fromEntries(
    Object.entries(order).map(([session, dtypes]) => {
      const wanted = typeof dtype === "object" && dtype !== null ? dtype[session] : dtype;
      const tried = wanted ? [wanted] : dtypes;
      return [session, tried.map((name) => ({ dtype: name, file: `onnx/${session}${SUFFIXES[name]}.onnx` }))];
    }),
  );
}
