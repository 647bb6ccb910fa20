/** The storage dialog: list and delete stored models, and request persistent storage. */

import { MODELS } from "../../asr/model/model-list.js";
import { deleteModel, listModels, measure } from "../data/storage.js";
import { formatBytes } from "../data/format.js";
import { modelTitle } from "../data/model-title.js";

export class StorageDialog {
  /** `onDelete()` is called after a model was deleted. */
  constructor({ onDelete }) {
    this._onDelete = onDelete;
    this._dialog = document.getElementById("storage");
    this._list = document.getElementById("storage-models");
    this._persisted = document.getElementById("storage-persisted");
    this._persist = document.getElementById("storage-persist");
    document.getElementById("open-storage").addEventListener("click", () => this._open());
    document.getElementById("close-storage").addEventListener("click", () => this._dialog.close());
    this._dialog.addEventListener("click", ({ target }) => {
      if (target === this._dialog) this._dialog.close(); // a click on the backdrop
    });
    this._persist.addEventListener("click", () => this._persistStorage());
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
      usage === null ? "" : `${formatBytes(usage)} used of ${formatBytes(quota)} available.`;
    const isEmpty = models.length === 0; // nothing to keep
    this._persist.hidden = persisted !== false || isEmpty;
    const kept = persisted ? "Models are kept until you delete them." : "The browser may delete models when space runs low.";
    this._persisted.textContent = isEmpty ? "" : kept;
  }

  _line(model) {
    const line = document.createElement("li");
    const title = document.createElement("div");
    const detail = document.createElement("small");
    const name = nameOf(model);
    title.textContent = name;
    const revision = model.revision.slice(0, 12);
    detail.textContent = `${formatBytes(model.bytes)} in ${model.files.length} files of ${model.model}, revision ${revision}`;
    title.append(detail);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pill";
    button.textContent = "Delete";
    button.setAttribute("aria-label", `Delete ${name}`);
    button.addEventListener("click", () => this._delete(model, button));
    line.append(title, button);
    return line;
  }

  async _delete(model, button) {
    button.disabled = true;
    await deleteModel(caches, model);
    await this._show();
    document.getElementById("close-storage").focus();
    this._onDelete();
  }

  async _persistStorage() {
    const isGranted = await navigator.storage.persist();
    await this._show();
    if (!isGranted) this._persisted.textContent = "The browser declined. Try again later.";
  }
}

/** As in the list of models, if it is one of them. */
function nameOf({ model }) {
  const known = MODELS.find(({ repository }) => repository === model);
  return known === undefined ? model : modelTitle(known);
}
