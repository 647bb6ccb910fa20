/**
 * The Whisper model: audio → encoder states; states and tokens → logits and cross-attentions.
 *
 * The only module that uses transformers.js, and only for loading the model, the mel spectrogram and the
 * tokenizer; decoding and timestamps are our own. Its network access is disabled: every file it needs is in the
 * cache already, and any other request is answered with 404.
 */

import { CACHE_NAME } from "./cache-name.js";
import { AsrError } from "../errors.js";

const ENCODER_STRIDE_SAMPLES = 320; // one frame of the encoder: 20 ms at 16 kHz

export class WhisperModel {
  /** `files`: the repository; `vendor` {transformers, runtime}: URLs of the packages; `dtype` by session. */
  static async open({ files, vendor, base, revision, device, dtype, threads }) {
    const library = await import(new URL("transformers.min.js", vendor.transformers));
    const { env } = library;
    env.allowLocalModels = false;
    env.remoteHost = base;
    env.remotePathTemplate = "{model}/resolve/{revision}/";
    env.useBrowserCache = true;
    env.cacheKey = CACHE_NAME;
    env.useWasmCache = false;
    env.fetch = async () => new Response(null, { status: 404 });
    env.logLevel = library.LogLevel.ERROR;
    const build = `ort-wasm-simd-threaded${device === "webgpu" ? ".asyncify" : ""}`;
    const at = (suffix) => new URL(build + suffix, vendor.runtime).href;
    const { wasm } = env.backends.onnx;
    wasm.wasmPaths = { mjs: at(".mjs"), wasm: at(".wasm") }; // the default is a public CDN
    wasm.numThreads = threads;
    const names = ["tokenizer", "tokenizer_config", "preprocessor_config"];
    const configs = await Promise.all(names.map((name) => files.readJson(`${name}.json`)));
    const [tokenizerJson, tokenizerConfig, featureConfig] = configs;
    try {
      // Tokenizer and feature extractor are built explicitly: their from_pretrained ignores the revision.
      const tokenizer = new library.WhisperTokenizer(tokenizerJson, tokenizerConfig);
      const features = new library.WhisperFeatureExtractor(featureConfig);
      const model = await library.WhisperForConditionalGeneration.from_pretrained(files.name, {
        revision,
        device,
        dtype,
      });
      return new WhisperModel(library, model, tokenizer, features);
    } catch (error) {
      throw new AsrError("load", `${files.name} does not run on ${device}: ${error.message ?? error}`);
    }
  }

  constructor(library, model, tokenizer, features) {
    this._library = library;
    this._model = model;
    this._tokenizer = tokenizer;
    this._features = features;
    this.maxPositions = model.config.max_target_positions; // prompt and transcript together
    this.tokens = specialTokens(model.generation_config, tokenizer);
    this.alignmentHeads = (model.generation_config.alignment_heads ?? []).filter(([layer]) =>
      model.sessions.decoder_model_merged.outputNames.includes(`cross_attentions.${layer}`),
    );
  }

  /** Encode `samples` (16 kHz, ≤ 30 s). → {states, frames}; only the first `frames` states contain audio. */
  async encode(samples) {
    const { input_features } = await this._features(samples);
    const { last_hidden_state } = await this._model.sessions.model.run({
      input_features: input_features.ort_tensor,
    });
    return {
      states: new this._library.Tensor(last_hidden_state),
      frames: Math.max(1, Math.ceil(samples.length / ENCODER_STRIDE_SAMPLES)),
    };
  }

  /** Start a new transcript of the encoded audio. */
  startDecoding(encoded) {
    return new DecoderState(this, encoded);
  }

  /** The text of `tokens`, without timestamps and other special tokens. */
  text(tokens) {
    const plain = tokens.filter((token) => token < this.tokens.end);
    return plain.length === 0
      ? ""
      : this._tokenizer.decode(plain, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }

  /** The tokens of `text`, without special tokens. */
  tokenize(text) {
    return Array.from(this._tokenizer.encode(text, { add_special_tokens: false }), Number);
  }
}

/** One transcript in progress: the decoder's key/value caches. */
class DecoderState {
  constructor({ _library, _model, alignmentHeads }, { states }) {
    this._library = _library;
    this._model = _model;
    this._heads = alignmentHeads;
    this._states = states;
    this._cache = null;
  }

  /** Run the decoder on `tokens`. → {logits, attention} for the last one; `rowAt(i)`: logits for token i. */
  async step(tokens) {
    const ids = BigInt64Array.from(tokens, BigInt);
    const output = await this._model.forward({
      encoder_outputs: this._states,
      decoder_input_ids: new this._library.Tensor("int64", ids, [1, ids.length]),
      past_key_values: this._cache,
    });
    this._updateCache(output);
    const { logits } = output;
    const size = logits.dims[2];
    return {
      logits: logits.data.subarray((ids.length - 1) * size),
      rowAt: (index) => logits.data.subarray(index * size, (index + 1) * size),
      attention: this._heads.map(([layer, head]) => lastRow(output[`cross_attentions.${layer}`], head)),
    };
  }

  /** Release the GPU memory. */
  close() {
    for (const tensor of Object.values(this._cache ?? {})) tensor.dispose();
    this._cache = null;
  }

  /** Keep the caches for the next step; those of the encoder come from the first step only. */
  _updateCache(output) {
    const cache = {};
    for (const [name, tensor] of Object.entries(output)) {
      if (!name.startsWith("present.")) continue;
      const key = name.replace("present", "past_key_values");
      const previous = this._cache?.[key];
      if (previous !== undefined && name.includes(".encoder.")) {
        cache[key] = previous;
        tensor.dispose();
      } else {
        cache[key] = tensor;
        previous?.dispose();
      }
    }
    this._cache = cache;
  }
}

/** The attention weights of one head for the last token, copied so that the tensor can be freed. */
function lastRow(attention, head) {
  const [, , length, frames] = attention.dims;
  const at = (head * length + length - 1) * frames;
  return attention.data.slice(at, at + frames);
}

/** The ids of the special tokens. */
function specialTokens(generation, tokenizer) {
  const idOf = (token) => tokenizer.convert_tokens_to_ids(token);
  const noTimestamps = generation.no_timestamps_token_id;
  const languages = Object.entries(generation.lang_to_id ?? {}).map(([token, id]) => [token.slice(2, -2), id]);
  return {
    start: generation.decoder_start_token_id,
    end: [generation.eos_token_id].flat()[0],
    noTimestamps,
    timestampBegin: noTimestamps + 1,
    noSpeech: noTimestamps - 1, // in every version of Whisper's vocabulary
    previous: idOf("<|startofprev|>"),
    languages: new Map(languages),
    tasks: generation.is_multilingual ? generation.task_to_id : null,
    suppress: generation.suppress_tokens ?? [],
    suppressFirst: generation.begin_suppress_tokens ?? [],
  };
}
