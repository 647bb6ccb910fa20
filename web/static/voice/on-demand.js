/** A part of the page that is loaded when it is first wanted. */

export class OnDemand {
  /** `load()` → promise of the part; `onFailure(error)` if the server does not deliver it, and null takes its place. */
  constructor(load, onFailure) {
    this._load = load;
    this._onFailure = onFailure;
    this._promise = null;
    this.loaded = null; // the part, once it is there
  }

  /** The part, or null; a failure is not kept. */
  get() {
    this._promise ??= this._try();
    return this._promise;
  }

  async _try() {
    try {
      this.loaded = await this._load();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // not of an import
      this._promise = null;
      this._onFailure(error);
    }
    return this.loaded;
  }
}
