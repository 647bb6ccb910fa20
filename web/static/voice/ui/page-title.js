/** The title, the icon and the header: the state of the page for whoever looks at another tab. */

import { describeState } from "../state.js";

export class PageTitle {
  constructor() {
    this._icon = document.querySelector('link[rel="icon"]');
    this._base = this._icon.href.replace(/[^/]*$/, "");
    this._server = document.getElementById("server");
    this._label = document.getElementById("server-label");
  }

  onEvent(event, phase, facts) {
    if (event.kind === "health" && event.health?.model) this._showModel(event.health.model);
    const { title, icon, server } = describeState(facts);
    if (document.title !== title) document.title = title;
    const href = `${this._base}icon${icon === "idle" ? "" : `-${icon}`}.svg`;
    if (this._icon.href !== href) this._icon.href = href;
    this._server.dataset.state = server.state;
    if (this._label.textContent !== server.label) this._label.textContent = server.label;
  }

  /** Offline, it is still the last one known. */
  _showModel({ name }) {
    const chip = document.getElementById("model");
    chip.textContent = name;
    chip.title = `Model: ${name}`;
    chip.hidden = false;
  }
}
