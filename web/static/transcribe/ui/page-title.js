/** The title and the icon: the state of the page for whoever looks at another tab. */

const TITLES = Object.freeze({
  loading: "Loading the model…",
  decoding: "Transcribing…",
  transcribing: "Transcribing…",
  opening: "Opening the microphone…",
  listening: "● Listening",
  finishing: "Transcribing…",
});

export class PageTitle {
  constructor() {
    this._icon = document.querySelector('link[rel="icon"]');
    this._base = this._icon.href.replace(/[^/]*$/, "");
  }

  onEvent(_event, phase) {
    const title = `${TITLES[phase] ?? "Transcribe"} · packet-voice`;
    if (document.title !== title) document.title = title;
    const kind = phase === "listening" ? "-live" : phase in TITLES ? "-waiting" : "";
    const href = `${this._base}icon${kind}.svg`;
    if (this._icon.href !== href) this._icon.href = href;
  }
}
