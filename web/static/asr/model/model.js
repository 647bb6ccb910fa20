/**
 * The model computes: sound in, states out; states and tokens in, logits and attention out.
 *
 * The one place that knows transformers.js. Of it we use the loading of models, the mel spectrogram and the
 * tokenizer; decoding, its rules and its times are ours. It is given no way to fetch: what it needs lies in
 * the cache already, and for all else it hears 404.
 */

import { CACHE_NAME } from "./files.js";
import { Trouble } from "../errors.js";

const ENCODER_STRIDE_SAMPLES = 320; // one frame of the encoder: 20 ms at 16 kHz

export class WhisperModel {
  /** `files`: the repository; `vendor` {transformers, runtime}: where the packages lie; `dtype` by session. */
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
    wasm.wasmPaths = { mjs: at(".mjs"), wasm: at(".wasm") }; // unset, it would ask a public server
    wasm.numThreads = threads;
    const read = (...names) => Promise.all(names.map((name) => files.read(`${name}.json`)));
    const [spelling, spellingConfig, sound] = await read("tokenizer", "tokenizer_config", "preprocessor_config");
    try {
      // Tokenizer and spectrogram are made by hand: what finds them by itself does not heed the revision.
      const tokenizer = new library.WhisperTokenizer(spelling, spellingConfig);
      const features = new library.WhisperFeatureExtractor(sound);
      const model = await library.WhisperForConditionalGeneration.from_pretrained(files.name, {
        revision,
        device,
        dtype,
      });
      return new WhisperModel(library, model, tokenizer, features);
    } catch (error) {
      throw new Trouble("load", `${files.name} does not run on ${device}: ${error.message ?? error}`);
    }
  }

  constructor(library, model, tokenizer, features) {
    this._library = library;
    this._model = model;
    this._tokenizer = tokenizer;
    this._features = features;
    this.positions = model.config.max_target_positions; // prompt and transcript together
    this.tokens = readTokens(model.generation_config, tokenizer);
    this.alignmentHeads = (model.generation_config.alignment_heads ?? []).filter(([layer]) =>
      model.sessions.decoder_model_merged.outputNames.includes(`cross_attentions.${layer}`),
    );
  }

  /** `samples` (16 kHz, ≤ 30 s) as the encoder sees them: {states, frames}, of which `frames` are sound. */
  async listen(samples) {
    const { input_features } = await this._features(samples);
    const { last_hidden_state } = await this._model.sessions.model.run({
      input_features: input_features.ort_tensor,
    });
    return {
      states: new this._library.Tensor(last_hidden_state),
      frames: Math.max(1, Math.ceil(samples.length / ENCODER_STRIDE_SAMPLES)),
    };
  }

  /** A new transcript over what was heard. */
  speak(heard) {
    return new Speech(this, heard);
  }

  /** The text of `tokens`, without timestamps and other marks. */
  text(tokens) {
    const plain = tokens.filter((token) => token < this.tokens.end);
    return plain.length === 0
      ? ""
      : this._tokenizer.decode(plain, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }

  /** The tokens of a prompt. */
  spell(text) {
    return Array.from(this._tokenizer.encode(text, { add_special_tokens: false }), Number);
  }
}

/** One transcript as it grows: the decoder's caches. */
class Speech {
  constructor({ _library, _model, alignmentHeads }, { states }) {
    this._library = _library;
    this._model = _model;
    this._heads = alignmentHeads;
    this._states = states;
    this._past = null;
  }

  /** {logits, attention} after the last of `tokens`; `rowAt(i)` are the logits after another of them. */
  async step(tokens) {
    const ids = BigInt64Array.from(tokens, BigInt);
    const output = await this._model.forward({
      encoder_outputs: this._states,
      decoder_input_ids: new this._library.Tensor("int64", ids, [1, ids.length]),
      past_key_values: this._past,
    });
    this._keep(output);
    const { logits } = output;
    const size = logits.dims[2];
    return {
      logits: logits.data.subarray((ids.length - 1) * size),
      rowAt: (index) => logits.data.subarray(index * size, (index + 1) * size),
      attention: this._heads.map(([layer, head]) => lastRow(output[`cross_attentions.${layer}`], head)),
    };
  }

  /** Give back what lies on a GPU. */
  close() {
    for (const tensor of Object.values(this._past ?? {})) tensor.dispose();
    this._past = null;
  }

  /** The caches for the next step; those of the encoder stay as the first step made them. */
  _keep(output) {
    const past = {};
    for (const [name, tensor] of Object.entries(output)) {
      if (!name.startsWith("present.")) continue;
      const key = name.replace("present", "past_key_values");
      const held = this._past?.[key];
      if (held !== undefined && name.includes(".encoder.")) {
        past[key] = held;
        tensor.dispose();
      } else {
        past[key] = tensor;
        held?.dispose();
      }
    }
    this._past = past;
  }
}

/** The weights of one head for the last token: a copy, so that the whole can go. */
function lastRow(attention, head) {
  const [, , length, frames] = attention.dims;
  const at = (head * length + length - 1) * frames;
  return attention.data.slice(at, at + frames);
}

/** The ids that rules and prompts are made of. */
function readTokens(generation, tokenizer) {
  const idOf = (token) => tokenizer.convert_tokens_to_ids(token);
  const noTimestamps = generation.no_timestamps_token_id;
  const languages = Object.entries(generation.lang_to_id ?? {}).map(([token, id]) => [token.slice(2, -2), id]);
  return {
    start: generation.decoder_start_token_id,
    end: [generation.eos_token_id].flat()[0],
    noTimestamps,
    timestampBegin: noTimestamps + 1,
    noSpeech: noTimestamps - 1, // Whisper's vocabularies, old and new, have it there
    previous: idOf("<|startofprev|>"),
    languages: new Map(languages),
    tasks: generation.is_multilingual ? generation.task_to_id : null,
    suppress: generation.suppress_tokens ?? [],
    suppressFirst: generation.begin_suppress_tokens ?? [],
  };
}
