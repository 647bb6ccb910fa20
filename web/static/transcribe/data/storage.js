/**
 * What the browser keeps of each model is known file by file, and goes when the user says so.
 *
 * Model files lie in Cache Storage under the address they were fetched from; every cache of this origin is
 * looked through, because a library names its own.
 */

const ADDRESS = /^\/api\/hf\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/;

/** `{ model, revision, file }` of a model file's address; null for any other. */
export function partsOf(url) {
  const found = ADDRESS.exec(new URL(url).pathname);
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

/** Remove every file of one model in one revision. */
export async function deleteModel(store, { model, revision }) {
  for await (const { cache, request, parts } of modelFiles(store)) {
    if (parts.model === model && parts.revision === revision) await cache.delete(request);
  }
}

/** `{ usage, quota, persisted }` in bytes, null where the browser does not say. */
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

/** By its header, where the server told; counted otherwise. */
async function bytesOf(response) {
  const told = Number(response.headers.get("Content-Length"));
  return told > 0 ? told : (await response.blob()).size;
}
