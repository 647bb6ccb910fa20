/**
 * Silero VAD v5 on onnxruntime-web: windows of 512 samples at 16 kHz with 64 samples of context; stateful.
 *
 * The model and its runtime are vendored files; nothing is fetched from anywhere else.
 * Source of shapes: the model file (input [1, 576], state [2, 1, 128], sr; output [1, 1], stateN).
 */

export const SAMPLE_RATE_HZ = 16_000;
export const WINDOW_SAMPLES = 512;
const CONTEXT_SAMPLES = 64;
const STATE_SHAPE = [2, 1, 128];

export class SileroVad {
  static async open({ runtime: runtimeUrl, model: modelUrl }) {
    const runtime = await import(new URL("ort.wasm.min.mjs", runtimeUrl));
    runtime.env.wasm.wasmPaths = runtimeUrl; // the default is a public CDN
    runtime.env.wasm.numThreads = 1;
    const session = await runtime.InferenceSession.create(new URL("silero_vad_v5.onnx", modelUrl).href, {
      executionProviders: ["wasm"],
    });
    return new SileroVad(runtime, session);
  }

  constructor(runtime, session) {
    this._runtime = runtime;
    this._session = session;
    this._rate = new runtime.Tensor("int64", BigInt64Array.of(BigInt(SAMPLE_RATE_HZ)), []);
    this._input = new Float32Array(CONTEXT_SAMPLES + WINDOW_SAMPLES);
    this.reset();
  }

  /** Start over with a new stream. */
  reset() {
    this._input.fill(0);
    this._filled = CONTEXT_SAMPLES;
    this._state = new this._runtime.Tensor("float32", new Float32Array(2 * 128), STATE_SHAPE);
  }

  /** Add `samples` (16 kHz). → the speech probabilities of the windows they complete. */
  async process(samples) {
    const probabilities = [];
    for (let taken = 0; taken < samples.length;) {
      const part = samples.subarray(taken, taken + this._input.length - this._filled);
      this._input.set(part, this._filled);
      this._filled += part.length;
      taken += part.length;
      if (this._filled === this._input.length) probabilities.push(await this._infer());
    }
    return probabilities;
  }

  async _infer() {
    const input = new this._runtime.Tensor("float32", this._input.slice(), [1, this._input.length]);
    const { output, stateN } = await this._session.run({ input, state: this._state, sr: this._rate });
    this._state = stateN;
    this._input.copyWithin(0, WINDOW_SAMPLES);
    this._filled = CONTEXT_SAMPLES;
    return output.data[0];
  }
}
