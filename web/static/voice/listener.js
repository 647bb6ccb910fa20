/** What gets the events of the page, and has a method for each kind that concerns it: `text` is for `on_text`. */

export class Listener {
  /** `context`: what more there is to know, usually the phase of the call and the facts. */
  onEvent(event, ...context) {
    this[`on_${event.kind}`]?.(event, ...context);
  }
}
