/**
 * Loads the rest of the page into the browser's cache: workers and worklets for the first call, panels for a server
 * that goes. One file after another, so that nothing else has to wait, and none while a call is being started.
 */

const STARTING = new Set(["opening", "connecting"]);

export class Prefetch {
  constructor() {
    this._list = document.querySelector("meta[name=later]");
    this._names = this._list.content.split(" ");
    this._isStarted = false;
    this._isLoading = false;
    this._isHeld = false;
  }

  start() {
    this._isStarted = true;
    this._next();
  }

  onEvent(_event, phase) {
    this._isHeld = STARTING.has(phase);
    this._next();
  }

  _next() {
    if (!this._isStarted || this._isHeld || this._isLoading) return;
    if (this._names.length === 0) {
      this._list.remove();
      return;
    }
    this._isLoading = true;
    const href = new URL(`../${this._names.shift()}`, import.meta.url).href;
    const link = Object.assign(document.createElement("link"), { rel: "prefetch", href });
    link.onload = link.onerror = () => {
      link.remove();
      this._isLoading = false;
      this._next(); // whether or not the browser could get it
    };
    document.head.append(link);
  }
}
