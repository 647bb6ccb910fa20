/**
 * Model files: downloaded once, cached whole or not at all, then read without a network.
 *
 * They are kept in the browser's Cache Storage under the URL they came from, which includes the revision; that
 * is where transformers.js looks first. Files are streamed into the cache; a truncated one is not kept.
 */

import { CACHE_NAME } from "./cache-name.js";
import { AsrError } from "../errors.js";

// Codes of the server's hub proxy (docs/reference/hub-proxy.md); with any other it refuses this page, whatever the file.
const HUB_CODES = new Set([
  "bad_path",
  "repo_refused",
  "gated",
  "not_found",
  "too_large",
  "busy",
  "cache_full",
  "hub_error",
  "hub_unreachable",
  "hub_timeout",
  "draining",
]);

/** One revision of one repository at `base`, the URL of the hub proxy (`…/api/hf/`). */
export class ModelRepository {
  constructor({ base, repository, revision }) {
    this.name = repository;
    this._root = new URL(`${repository}/resolve/${encodeURIComponent(revision)}/`, base).href;
  }

  urlOf(file) {
    return this._root + file;
  }

  /** {file, bytes, cached} from the cache or the hub; null if the repository has no such file. */
  async describe(file) {
    const cached = await (await this._openCache()).match(this.urlOf(file));
    if (cached !== undefined) return { file, bytes: Number(cached.headers.get("content-length")), cached: true };
    const response = await this._fetch(file, { method: "HEAD" });
    if (response.status === 404) return null;
    // The reason is in the body, which a HEAD response does not have.
    if (!response.ok) throw await this._httpError(file, await this._fetch(file, {}));
    return { file, bytes: contentLength(response), cached: false };
  }

  /** The first of `files` that is cached, as {file, bytes, cached}; else the first of them. Sends no request. */
  async firstStored(files) {
    const cache = await this._openCache();
    for (const file of files) {
      const stored = await cache.match(this.urlOf(file));
      if (stored !== undefined) return { file, bytes: Number(stored.headers.get("content-length")), cached: true };
    }
    return { file: files[0], bytes: null, cached: false };
  }

  /** The first of `files` that is cached, or else the first that the repository has. */
  async firstOf(files) {
    const cache = await this._openCache();
    for (const file of files) if ((await cache.match(this.urlOf(file))) !== undefined) return file;
    for (const file of files) if ((await this.describe(file)) !== null) return file;
    throw new AsrError("gone", `${this.name} does not contain any of ${files.join(", ")}.`, { file: files[0] });
  }

  /** Cache `file`, reporting `onProgress(loaded, total)`. → {file, bytes, cached}; `cached` if it already was. */
  async fetchToCache(file, onProgress) {
    const cache = await this._openCache();
    const cached = await cache.match(this.urlOf(file));
    if (cached !== undefined) return { file, bytes: Number(cached.headers.get("content-length")), cached: true };
    const response = await this._fetch(file, {});
    if (!response.ok) throw await this._httpError(file, response);
    const total = contentLength(response);
    let loaded = 0;
    const counted = new TransformStream({
      transform(chunk, controller) {
        loaded += chunk.byteLength;
        onProgress(loaded, total);
        controller.enqueue(chunk);
      },
      flush(controller) {
        if (total !== null && loaded !== total) controller.error(new TypeError("the response is truncated"));
      },
    });
    const headers = total === null ? {} : { "content-length": String(total) };
    try {
      await cache.put(this.urlOf(file), new Response(response.body.pipeThrough(counted), { headers }));
    } catch (error) {
      if (error.name === "QuotaExceededError") {
        throw new AsrError("storage", `Not enough browser storage for ${file} (${megabytes(total)}).`, { file });
      }
      const part = total === null ? "" : ` after ${megabytes(loaded)} of ${megabytes(total)}`;
      throw new AsrError("cut", `The download of ${file} from ${this.name} was interrupted${part}.`, { file });
    }
    return { file, bytes: loaded, cached: false };
  }

  /** The content of a cached JSON file. */
  async readJson(file) {
    const cached = await (await this._openCache()).match(this.urlOf(file));
    if (cached === undefined) throw new AsrError("storage", `${file} is no longer in the browser's cache.`, { file });
    return cached.json();
  }

  async _openCache() {
    if (globalThis.caches === undefined) {
      throw new AsrError("storage", "This page cannot store files: open it over HTTPS or on localhost.");
    }
    return caches.open(CACHE_NAME);
  }

  async _fetch(file, options) {
    try {
      return await fetch(this.urlOf(file), { cache: "no-store", credentials: "same-origin", ...options });
    } catch {
      const message = `${this.name}, ${file}: no connection to the server.`;
      throw new AsrError("offline", message, { file });
    }
  }

  async _httpError(file, response) {
    const { code, message } = await response
      .json()
      .then(({ error }) => error)
      .catch(() => ({}));
    const detail = message ? ` (${message})` : "";
    const facts = { file, status: response.status };
    if (code !== undefined && !HUB_CODES.has(code)) {
      return new AsrError(code, `The server refuses this page${detail}.`, facts);
    }
    if (code === "too_large" || code === "cache_full") {
      return new AsrError("server_storage", `${this.name}, ${file}${detail}.`, facts);
    }
    if (code === "gated" || response.status === 401) {
      return new AsrError(
        "gated",
        `${this.name} is gated: the server needs an HF_TOKEN with access to it${detail}.`,
        facts,
      );
    }
    if (response.status === 403) {
      return new AsrError("refused", `The server does not serve ${this.name}${detail}.`, facts);
    }
    if (response.status === 404) return new AsrError("gone", `${this.name} has no ${file}${detail}.`, facts);
    return new AsrError(
      "unreachable",
      `${this.name}, ${file}: HTTP ${response.status}${detail}.`,
      facts,
    );
  }
}

function contentLength(response) {
  const length = response.headers.get("content-length");
  return length === null ? null : Number(length);
}

function megabytes(bytes) {
  return bytes === null ? "size unknown" : `${(bytes / 1e6).toFixed(1)} MB`;
}
