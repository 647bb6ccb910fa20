/**
 * The models in the browser's Cache Storage: list, delete, and measure storage.
 *
 * Model files are cached under the URL they were downloaded from. All caches of this origin are searched, because
 * libraries use names of their own.
 */

const MODEL_URL = /^\/api\/hf\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/;

/** `{ model, revision, file }` of a model file's URL; null for any other URL. */
export function partsOf(url) {
  const found = MODEL_URL.exec(new URL(url).pathname);
  return found === null ? null : { model: found[1], revision: found[2], file: found[3] };
}

/** `[{ model, revision, files: [{file, bytes}], bytes }]`, largest first. `store` is a CacheStorage. */
export async function listModels(store) {
  const models = new Map();
  for await (const { cache, request, parts } of modelFiles(store)) {
    const key = `${parts.model}@${parts.revision}`;
    if (!models.has(key)) models.set(key, { ...parts, file: undefined, files: [], bytes: 0 });
    const kept = models.get(key);
    const bytes = await bytesOf(await cache.match(request));
    kept.files.push({ file: parts.file, bytes });
    kept.bytes += bytes;
  }
  return [...models.values()].sort((a, b) => b.bytes - a.bytes);
}

/** Delete all files of one revision of a model. */
export async function deleteModel(store, { model, revision }) {
  for await (const { cache, request, parts } of modelFiles(store)) {
    if (parts.model === model && parts.revision === revision) await cache.delete(request);
  }
}

/** `{ usage, quota, persisted }`; sizes in bytes; null if the browser does not report it. */
export async function measure(manager) {
  const { usage = null, quota = null } = (await manager?.estimate?.()) ?? {};
  return { usage, quota, persisted: (await manager?.persisted?.()) ?? null };
}

async function* modelFiles(store) {
  for (const name of await store.keys()) {
    const cache = await store.open(name);
    for (const request of await cache.keys()) {
      const parts = partsOf(request.url);
      if (parts !== null) yield { cache, request, parts };
    }
  }
}

/** The size from the header, or else the actual size. */
async function bytesOf(response) {
  const length = Number(response.headers.get("Content-Length"));
  return length > 0 ? length : (await response.blob()).size;
}
