/** Transcripts of past conversations, kept in this browser's storage only, newest first; see ui/history.js. */

const KEY = "packet-voice-history";
const MAX_CONVERSATIONS = 50;

export class HistoryStore {
  constructor(storage) {
    this._storage = storage;
  }

  /** [{id, startedAt, model, lines}]; unreadable content is none. */
  list() {
    try {
      const stored = JSON.parse(this._storage.getItem(KEY));
      return Array.isArray(stored) ? stored.filter((one) => Array.isArray(one?.lines)) : [];
    } catch {
      return [];
    }
  }

  /** Keep `conversation`, in place of an earlier version with the same id. Old ones make room for it. → whether it is kept. */
  save(id, conversation) {
    const others = this.list().filter((one) => one.id !== id);
    const all = [{ id, ...conversation }, ...others].slice(0, MAX_CONVERSATIONS);
    for (let count = all.length; count > 0; count -= 1) {
      if (this._write(all.slice(0, count))) return true;
    }
    return false;
  }

  delete(id) {
    this._write(this.list().filter((one) => one.id !== id));
  }

  clear() {
    try {
      this._storage.removeItem(KEY);
    } catch {
      // Storage is disabled: nothing was kept.
    }
  }

  _write(conversations) {
    try {
      this._storage.setItem(KEY, JSON.stringify(conversations));
      return true;
    } catch {
      return false; // full or disabled
    }
  }
}
