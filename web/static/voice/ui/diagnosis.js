/** "Why is it silent?" is answered on the spot, link by link, and the sound path can be tried without a server. */

import { diagnose } from "./silence.js";

const REFRESH_MS = 500;
const ICONS = Object.freeze({ ok: "✓", warn: "!", bad: "✕", idle: "·" });
const SAID = Object.freeze({ ok: "fine", warn: "look here", bad: "wrong", idle: "not measured" });

const gaps = (count) => (count === 1 ? "1 gap" : `${count === 0 ? "no" : count} gaps`);

export class Diagnosis {
  constructor(figures, preferences, { echo }) {
    this._figures = figures;
    this._preferences = preferences;
    this._phase = "idle";
    this._panel = document.getElementById("silent");
    this._list = document.getElementById("verdicts");
    this._echo = document.getElementById("echo-test");
    this._echo.addEventListener("click", echo);
    this._panel.addEventListener("toggle", () => this._show());
    setInterval(() => this._show(), REFRESH_MS);
  }

  heed(event, phase) {
    this._phase = phase;
    if (event.kind === "opening") {
      this._echoing = event.echo;
      this._echoed = 0;
      this._gaps = 0;
      this._louder = 0;
      if (event.echo) this._say("Speak: what you say comes back from this page, without the server.");
    } else if (event.kind === "played" && this._echoing) {
      this._echoed = event.frames;
      this._gaps = event.underruns;
      this._louder = Math.max(this._louder, event.rms);
    } else if (event.kind === "failed" && this._echoing) {
      this._say("The sound path could not be opened; the message above says why.");
    } else if (event.kind === "ended" && this._echoing) {
      this._echoing = false;
      this._judge();
    }
    this._echo.disabled = phase !== "idle";
  }

  _judge() {
    const { p50 } = this._figures.micToSpeaker.summary();
    if (this._echoed === 0) this._say("Nothing came from the microphone: the browser did not start it.");
    else if (this._louder === 0) this._say("The path works, but the microphone delivered pure silence.");
    else {
      this._say(
        `The path works: ${this._echoed} frames came back after ${p50.toFixed(0)} ms, with ${gaps(this._gaps)}. ` +
          "If you heard nothing, check the volume and the chosen loudspeaker.",
      );
    }
  }

  _say(sentence) {
    document.getElementById("echo-result").textContent = sentence;
  }

  _show() {
    if (!this._panel.open) return;
    const verdicts = diagnose(this._figures.facts(this._phase, this._preferences));
    const rows = verdicts.map(({ name, state, sentence }) => {
      const row = document.createElement("li");
      row.dataset.state = state;
      const icon = document.createElement("span");
      icon.className = "icon";
      icon.setAttribute("role", "img");
      icon.setAttribute("aria-label", SAID[state]);
      icon.textContent = ICONS[state];
      const words = document.createElement("span");
      const strong = document.createElement("strong");
      strong.textContent = name;
      words.append(strong, ` ${sentence}`);
      row.append(icon, words);
      return row;
    });
    this._list.replaceChildren(...rows);
  }
}
