/** The help dialog of both pages: common problems by topic, and the keyboard reference. Its text is in index.html. */

export class HelpDialog {
  constructor() {
    this._dialog = document.getElementById("help");
    document.getElementById("open-help").addEventListener("click", () => this.open());
    document.getElementById("close-help").addEventListener("click", () => this._dialog.close());
    this._dialog.addEventListener("click", ({ target }) => {
      if (target === this._dialog) this._dialog.close(); // a click on the backdrop
    });
  }

  /** `topic`: the id of a section in the page's dialog, without “help-”. */
  open(topic) {
    if (!this._dialog.open) this._dialog.showModal();
    const section = topic === undefined ? null : document.getElementById(`help-${topic}`);
    section?.scrollIntoView({ block: "start" });
    section?.focus();
  }
}
