/**
 * The panels, dialogs and notices, each loaded when it is opened or when something else needs it: most visits need none.
 *
 * A view that is loaded late gets the latest event of each kind, so that it knows the state of the page.
 */

import { OnDemand } from "../on-demand.js";
import { isNoteworthy } from "./noteworthy.js";

export class Panels {
  /**
   * `page`: what the views get, see main.js. `add(view)`: it gets all events from now on; `onFailure()`: a panel could
   * not be loaded; `onLoaded()`: one could.
   */
  constructor(page, { add, onFailure, onLoaded }) {
    this._page = page;
    const part = (create) =>
      new OnDemand(async () => {
        const view = await create();
        add(view);
        onLoaded();
        return view;
      }, onFailure);
    this._notices = new OnDemand(async () => {
      const view = await this._createNotices();
      add(view);
      return view;
    }, console.warn); // nothing else could say it; the next event that is worth a notice tries again
    this._diagnostics = part(() => this._createDiagnostics());
    this._report = part(() => this._createReport());
    this._history = part(() => this._createHistory());
    this._persona = part(() => this._createPersona());
    this._recording = part(() => this._createRecording());
    this._settings = part(() => this._createSettings());
    this._browserCaptions = part(() => this._createBrowserCaptions());
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

  /** Load what an event or a preference asks for; `condition`: of the call, see conditionOf(). */
  onEvent(event, condition) {
    const { metrics, preferences } = this._page;
    if (isNoteworthy(event, { condition, droppedFrames: metrics.droppedFrames })) this._notices.get();
    const model = event.kind === "health" ? event.health?.model : event.kind === "connection_established" ? event.model : null;
    if (Array.isArray(model?.voices)) this._persona.get();
    if (event.kind === "health" && preferences.history) this._history.get();
    const isCaptions = event.kind === "opening" || event.kind === "preferences";
    if (isCaptions && preferences.captions === "browser") this._browserCaptions.get();
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

  async _createNotices() {
    const { Notices } = await import("./notices.js");
    const { resume, help, facts } = this._page;
    return new Notices({ resume, help, facts });
  }

  async _createDiagnostics() {
    const { DiagnosticsPanel } = await import("./diagnostics-panel.js");
    const { metrics, preferences, testAudio } = this._page;
    return new DiagnosticsPanel(metrics, preferences, { testAudio });
  }

  async _createReport() {
    const { Report } = await import("./report.js");
    const { metrics, preferences, events } = this._page;
    return new Report(metrics, preferences, events);
  }

  async _createHistory() {
    const { History } = await import("./history.js");
    const { log, preferences, onChange, onEvent } = this._page;
    return new History(log, preferences, { onChange, onEvent });
  }

  async _createPersona() {
    const { PersonaPanel } = await import("./persona.js");
    const { preferences, onChange, listen } = this._page;
    return new PersonaPanel(preferences, { onChange, listen });
  }

  async _createRecording() {
    const { Recording } = await import("./recording.js");
    return new Recording({ record: this._page.record });
  }

  async _createSettings() {
    const { SettingsDialog } = await import("./settings-dialog.js");
    const { preferences, onChange } = this._page;
    return new SettingsDialog(preferences, { onChange });
  }

  async _createBrowserCaptions() {
    const { BrowserCaptions } = await import("../captions/browser-captions.js");
    const { preferences, onEvent } = this._page;
    return new BrowserCaptions(preferences, { onEvent });
  }
}
