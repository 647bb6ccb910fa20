/**
 * The panels, dialogs and notices, each loaded when it is opened or when something else needs it: most visits need none.
 *
 * A view that is loaded late gets the latest event of each kind, so that it knows the state of the page.
 */

import { Listener } from "../listener.js";
import { OnDemand } from "../on-demand.js";
import { isNoteworthy } from "./noteworthy.js";

export class Panels extends Listener {
  /**
   * `page`: what the views get, see main.js. `add(view)`: it gets all events from now on; `onFailure()`: a panel could
   * not be loaded; `onLoaded()`: one could.
   */
  constructor(page, { add, onFailure, onLoaded }) {
    super();
    this._page = page;
    const load = async (file, name) => {
      const view = new (await import(file))[name](page);
      add(view);
      return view;
    };
    const part = (file, name) =>
      new OnDemand(async () => {
        const view = await load(file, name);
        onLoaded();
        return view;
      }, onFailure);
    // Nothing else could say that they are not loaded; the next event that is worth a notice tries again.
    this._notices = new OnDemand(() => load("./notices.js", "Notices"), console.warn);
    this._diagnostics = part("./diagnostics-panel.js", "DiagnosticsPanel");
    this._report = part("./report.js", "Report");
    this._history = part("./history.js", "History");
    this._persona = part("./persona.js", "PersonaPanel");
    this._recording = part("./recording.js", "Recording");
    this._settings = part("./settings-dialog.js", "SettingsDialog");
    this._browserCaptions = part("../captions/browser-captions.js", "BrowserCaptions");
    if (globalThis.AudioWorkletNode === undefined) this._notices.get(); // says why the page cannot be used
    this._listen();
  }

  /** Whether a recording would be lost. */
  get isRecordingUnsaved() {
    return Boolean(this._recording.loaded?.isUnsaved);
  }

  /** Whether this browser keeps the conversation. */
  get isKept() {
    return Boolean(this._history.loaded?.isKept);
  }

  /** Keep the conversation in this browser. */
  async keep() {
    (await this._history.get())?.keep();
  }

  /** Load what an event or a preference asks for. */
  onEvent(event, _phase, { condition }) {
    super.onEvent(event);
    if (isNoteworthy(event, { condition, droppedFrames: this._page.metrics.droppedFrames })) this._notices.get();
  }

  on_health({ health }) {
    this._onModel(health?.model);
    if (this._page.preferences.history) this._history.get();
  }

  on_connection_established({ model }) {
    this._onModel(model);
  }

  on_opening() {
    if (this._page.preferences.captions === "browser") this._browserCaptions.get();
  }

  on_preferences() {
    this.on_opening();
  }

  _onModel(model) {
    if (Array.isArray(model?.voices)) this._persona.get();
  }

  _listen() {
    const onOpen = (id, ...parts) => {
      const panel = document.getElementById(id);
      const load = async () => {
        const views = await Promise.all(parts.map((part) => part.get()));
        if (views.includes(null)) panel.addEventListener("toggle", load, { once: true }); // again when it is opened next
        else for (const inner of panel.querySelectorAll("[inert]")) inner.inert = false;
      };
      panel.addEventListener("toggle", load, { once: true });
    };
    onOpen("diagnostics", this._diagnostics, this._report);
    onOpen("history", this._history);
    const onClick = (id, part, run) => {
      const button = document.getElementById(id);
      button.addEventListener("click", async () => run(await part.get(), button));
    };
    onClick("open-settings", this._settings, (settings, button) => {
      button.focus(); // where the focus returns to, even if it went on while the dialog was loaded
      settings?.open();
    });
    onClick("open-captions", this._settings, (settings) => settings?.open("captions"));
    onClick("record", this._recording, (recording) => recording?.toggle());
  }
}
