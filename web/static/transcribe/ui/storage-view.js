/** What is kept is shown with its size, and each model can be deleted; keeping it for good is the browser's to grant. */

import { deleteModel, listModels, measure } from "../data/storage.js";
import { size } from "../data/times.js";

export class StorageView {
  /** `changed()` is called after something was deleted. */
  constructor({ changed }) {
    this._changed = changed;
    this._dialog = document.getElementById("storage");
    this._list = document.getElementById("storage-models");
    this._persisted = document.getElementById("storage-persisted");
    this._persist = document.getElementById("storage-persist");
    document.getElementById("open-storage").addEventListener("click", () => this._open());
    document.getElementById("close-storage").addEventListener("click", () => this._dialog.close());
    this._dialog.addEventListener("click", ({ target }) => {
      if (target === this._dialog) this._dialog.close(); // outside of it
    });
    this._persist.addEventListener("click", () => this._keep());
  }

  async _open() {
    this._dialog.showModal();
    await this._show();
  }

  async _show() {
    const models = globalThis.caches === undefined ? [] : await listModels(caches);
    this._list.replaceChildren(...models.map((model) => this._line(model)));
    document.getElementById("storage-empty").hidden = models.length > 0;
    const { usage, quota, persisted } = await measure(navigator.storage);
    document.getElementById("storage-total").textContent =
      usage === null ? "" : `In all ${size(usage)} of the ${size(quota)} that this browser allows.`;
    this._persist.hidden = persisted !== false;
    this._persisted.textContent =
      persisted === true ? "Kept until you delete it." : "The browser may delete it when space runs short.";
  }

  _line(kept) {
    const line = document.createElement("li");
    const what = document.createElement("div");
    const detail = document.createElement("small");
    what.textContent = kept.model;
    detail.textContent = `${size(kept.bytes)} in ${kept.files.length} files, revision ${kept.revision.slice(0, 12)}`;
    what.append(detail);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pill";
    button.textContent = "Delete";
    button.setAttribute("aria-label", `Delete ${kept.model}`);
    button.addEventListener("click", () => this._delete(kept, button));
    line.append(what, button);
    return line;
  }

  async _delete(kept, button) {
    button.disabled = true;
    await deleteModel(caches, kept);
    await this._show();
    document.getElementById("close-storage").focus();
    this._changed();
  }

  async _keep() {
    const granted = await navigator.storage.persist();
    await this._show();
    if (!granted) this._persisted.textContent = "This browser does not grant it now; it may later.";
  }
}
