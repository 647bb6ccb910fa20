/** What happened on this page and when, for the diagnostics report: no audio, no words, no device names. */

const MAX_EVENTS = 200;
// What comes so often that nothing else would be left.
const IGNORED = new Set(["captured", "played", "connection_stats", "text", "user_text", "speaking", "stats", "answering", "condition"]);
const FIELDS = ["why", "code", "state", "position", "inMs", "what", "count", "stalled", "resuming", "muted", "on"];

export class EventLog {
  constructor() {
    this.events = []; // {ms, kind, …}: the latest
    this.health = null; // the last one with figures
  }

  onEvent(event) {
    if (event.kind === "health") this._onHealth(event.health);
    else if (!IGNORED.has(event.kind)) this._add(event);
  }

  _onHealth(health) {
    const status = health === null ? "unreachable" : health.status;
    if (status !== this._status) this._add({ kind: `health: ${status}` });
    this._status = status;
    if (health?.metrics !== undefined) this.health = health;
  }

  _add(event) {
    const entry = { ms: Math.round(performance.now()), kind: event.kind };
    FIELDS.forEach((name) => {
      if (event[name] !== undefined) entry[name] = event[name];
    });
    this.events.push(entry);
    if (this.events.length > MAX_EVENTS) this.events.shift();
  }
}
