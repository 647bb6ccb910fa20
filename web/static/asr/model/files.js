/**
 * A model's files are asked for once, arrive whole or not at all, and are then read without a network.
 *
 * They lie in the browser's Cache Storage under the address they came from, which names the revision; that
 * is where transformers.js looks first. A file is put there as it streams in: one that is cut is not kept.
 */

import { Trouble } from "../errors.js";

export const CACHE_NAME = "packet-voice-whisper-1";

/** One revision of one repository behind `base`, the address of the hub (`…/api/hf/`). */
export class Repository {
  constructor({ base, repository, revision }) {
    this.name = repository;
    this._root = new URL(`${repository}/resolve/${encodeURIComponent(revision)}/`, base).href;
  }

  address(file) {
    return this._root + file;
  }

  /** {file, bytes, cached}: what is kept, or what would come; null where the repository has no such file. */
  async look(file) {
    const kept = await (await this._cache()).match(this.address(file));
    if (kept !== undefined) return { file, bytes: Number(kept.headers.get("content-length")), cached: true };
    const answer = await this._ask(file, { method: "HEAD" });
    if (answer.status === 404) return null;
    // What is wrong is told in a body, which the answer to HEAD has not.
    if (!answer.ok) throw await this._refusal(file, await this._ask(file, {}));
    return { file, bytes: lengthOf(answer), cached: false };
  }

  /** The first of `files` that the repository has; what is kept goes before what would have to come. */
  async firstOf(files) {
    const cache = await this._cache();
    for (const file of files) if ((await cache.match(this.address(file))) !== undefined) return file;
    for (const file of files) if ((await this.look(file)) !== null) return file;
    throw new Trouble("gone", `${this.name} has none of ${files.join(", ")}.`, { file: files[0] });
  }

  /** Keep `file`; `heed(loaded, total)` while it comes. {file, bytes, cached}. */
  async keep(file, heed) {
    const cache = await this._cache();
    const kept = await cache.match(this.address(file));
    if (kept !== undefined) return { file, bytes: Number(kept.headers.get("content-length")), cached: true };
    const answer = await this._ask(file, {});
    if (!answer.ok) throw await this._refusal(file, answer);
    const total = lengthOf(answer);
    let loaded = 0;
    const counted = new TransformStream({
      transform(chunk, controller) {
        loaded += chunk.byteLength;
        heed(loaded, total);
        controller.enqueue(chunk);
      },
      flush(controller) {
        if (total !== null && loaded !== total) controller.error(new TypeError("it is too short"));
      },
    });
    const headers = total === null ? {} : { "content-length": String(total) };
    try {
      await cache.put(this.address(file), new Response(answer.body.pipeThrough(counted), { headers }));
    } catch (error) {
      if (error.name === "QuotaExceededError") {
        throw new Trouble("storage", `The browser has no room for ${file} (${megabytes(total)}).`, { file });
      }
      const part = total === null ? "" : ` after ${megabytes(loaded)} of ${megabytes(total)}`;
      throw new Trouble("cut", `${file} of ${this.name} broke off${part}.`, { file });
    }
    return { file, bytes: loaded, cached: false };
  }

  /** What a JSON file says that is kept. */
  async read(file) {
    const kept = await (await this._cache()).match(this.address(file));
    if (kept === undefined) throw new Trouble("storage", `The browser has thrown ${file} away.`, { file });
    return kept.json();
  }

  async _cache() {
    if (globalThis.caches === undefined) {
      throw new Trouble("storage", "This page may not keep files: it needs HTTPS or localhost.");
    }
    return caches.open(CACHE_NAME);
  }

  async _ask(file, options) {
    try {
      return await fetch(this.address(file), { cache: "no-store", credentials: "same-origin", ...options });
    } catch {
      throw new Trouble("unreachable", `${file} of ${this.name} could not be asked for: no connection.`, { file });
    }
  }

  async _refusal(file, answer) {
    const { code, message } = await answer
      .json()
      .then(({ error }) => error)
      .catch(() => ({}));
    const said = message ? ` (${message})` : "";
    const facts = { file, status: answer.status };
    if (code === "gated" || answer.status === 401) {
      return new Trouble(
        "gated",
        `${this.name} is gated: the server needs an HF_TOKEN that may read it${said}.`,
        facts,
      );
    }
    if (answer.status === 403)
      return new Trouble("refused", `The server does not offer ${this.name}${said}.`, facts);
    if (answer.status === 404) return new Trouble("gone", `${this.name} has no ${file}${said}.`, facts);
    return new Trouble(
      "unreachable",
      `${file} of ${this.name} did not come: HTTP ${answer.status}${said}.`,
      facts,
    );
  }
}

function lengthOf(answer) {
  const length = answer.headers.get("content-length");
  return length === null ? null : Number(length);
}

function megabytes(bytes) {
  return bytes === null ? "size unknown" : `${(bytes / 1e6).toFixed(1)} MB`;
}
