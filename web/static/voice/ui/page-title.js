/** The title, the icon and the header: the state of the page for whoever looks at another tab. */

import { Listener } from "../listener.js";

export class PageTitle extends Listener {
  constructor() {
    super();
    this._icon = document.querySelector('link[rel="icon"]');
    this._base = this._icon.href.replace(/[^/]*$/, "");
    this._server = document.getElementById("server");
    this._label = document.getElementById("server-label");
  }

  /** Offline, the model is still the last one known. */
  on_health({ health }) {
    if (!health?.model) return;
    const { name } = health.model;
    const chip = document.getElementById("model");
    chip.textContent = name;
    chip.title = `Model: ${name}`;
    chip.hidden = false;
  }

  onState({ title, icon, server }) {
    if (document.title !== title) document.title = title;
    const href = `${this._base}icon${icon === "idle" ? "" : `-${icon}`}.svg`;
    if (this._icon.href !== href) this._icon.href = href;
    this._server.dataset.state = server.state;
    if (this._label.textContent !== server.label) this._label.textContent = server.label;
  }
}
