/** The help dialog of both pages: common problems by topic, and the keyboard reference. Its text is in index.html. */

export class HelpDialog {
  constructor() {
    this._dialog = null; // until it is opened
    document.getElementById("open-help").addEventListener("click", () => this.open());
  }

  /** `topic`: the id of a section in the page's dialog, without “help-”. */
  open(topic) {
    this._dialog ??= this._listen(document.getElementById("help"));
    if (!this._dialog.open) this._dialog.showModal();
    const section = topic === undefined ? null : document.getElementById(`help-${topic}`);
    section?.scrollIntoView({ block: "start" });
    section?.focus();
  }

  _listen(dialog) {
    document.getElementById("close-help").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog) dialog.close(); // a click on the backdrop
    });
    return dialog;
  }
}
