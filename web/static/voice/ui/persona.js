/**
 * The voice and the role of the agent: chosen before a call, shown during one, remembered in this browser.
 *
 * Shown only if the server's model takes them. An empty choice is the server's default. A voice can be listened to:
 * the agent answers a recorded question with it (see voice-sample.js).
 */

import { moveFocusFrom } from "../focus.js";

const MAX_ROLE = 4000; // characters, as in the protocol
const ROLES = Object.freeze([
  ["Teacher", "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."],
  ["Companion", "You enjoy having a good conversation. Have a casual discussion about what makes a good weekend."],
  ["Restaurant", "You work for a small Italian restaurant and your name is Sara. Take a reservation: ask for the date, the time and the number of guests."],
]);
const MARKUP = `
<details id="persona-form">
  <summary><h2>Voice and role</h2> <span class="headline" id="persona-headline"></span></summary>
  <div class="fields">
    <div><label for="persona-voice">Voice</label>
      <div class="row"><select id="persona-voice"></select>
        <button type="button" class="pill" id="persona-listen" disabled>Listen</button></div>
      <p id="persona-hint" class="faint"></p></div>
    <div><label for="persona-role">Role</label>
      <textarea id="persona-role" placeholder="Who the agent is and what it does"></textarea></div>
    <div id="persona-roles" role="group" aria-label="Example roles"><span class="faint">Examples:</span></div>
  </div>
</details>
<p id="persona-current" class="faint" role="status"></p>
`;
const ROOMY = matchMedia("(min-width: 60rem) and (min-height: 45rem)"); // the open form leaves room for the transcript
const HINT = "Listen: the agent answers a recorded question in this voice.";
const SILENT_HINT = "The agent did not answer this time. Listen again, or ask it something in a conversation.";

export class PersonaPanel {
  /** `listen()`: let the agent speak with the chosen voice, or stop that. */
  constructor({ preferences, onChange, listen }) {
    const get = (name) => document.getElementById(name);
    this._preferences = preferences;
    this._onChange = onChange;
    this._section = get("persona");
    this._section.insertAdjacentHTML("beforeend", MARKUP);
    this._form = get("persona-form");
    this._headline = get("persona-headline");
    this._voice = get("persona-voice");
    this._role = get("persona-role");
    this._listen = get("persona-listen");
    this._hint = get("persona-hint");
    this._current = get("persona-current");
    this._key = "";
    this._refusal = "";
    this._form.open = ROOMY.matches;
    this._role.maxLength = MAX_ROLE;
    this._role.value = preferences.role;
    this._voice.addEventListener("change", () => this._save());
    this._role.addEventListener("change", () => this._save());
    this._listen.addEventListener("click", listen);
    get("persona-roles").append(...ROLES.map(([name, role]) => this._example(name, role)));
    this._showHeadline();
  }

  onEvent(event, phase, facts) {
    switch (event.kind) {
      case "health":
        if (event.health?.model) this._show(event.health.model);
        break;
      case "connection_established":
        this._show(event.model);
        break;
      case "opening":
        this._refusal = "";
        break;
      case "error":
        if (event.code === "prompt_refused") this._refusal = `Continuing with the default: ${event.message}.`;
        break;
      case "preparing":
        this._current.textContent = "Preparing the voice and the role…";
        break;
      case "ready":
        this._current.textContent = this._refusal || summary(event);
        break;
      case "sample_over":
        this._hint.textContent = event.wasHeard ? HINT : SILENT_HINT;
        break;
      case "ended":
      case "failed":
        this._current.textContent = "";
        break;
      default:
    }
    this._render(phase, facts);
  }

  _render(phase, { isSample, health }) {
    const isIdle = phase === "idle";
    if (!isIdle && !isSample) moveFocusFrom(this._form, document.getElementById("talk"));
    this._form.hidden = !isIdle && !isSample;
    this._listen.disabled = isIdle && health?.status !== "ready"; // it keeps the focus from sample to sample
    const label = isSample ? "Stop" : "Listen";
    if (this._listen.textContent !== label) this._listen.textContent = label;
  }

  _show({ voices }) {
    const key = JSON.stringify(voices ?? null);
    if (key === this._key) return; // /health is polled
    this._key = key;
    this._section.hidden = !Array.isArray(voices);
    if (this._section.hidden) return;
    const chosen = this._preferences.voice;
    this._voice.replaceChildren(new Option("Default", ""), ...voices.map((voice) => new Option(voiceTitle(voice), voice)));
    this._voice.value = voices.includes(chosen) ? chosen : "";
    if (this._voice.value !== chosen) this._save(); // the server has no such voice any more
    this._hint.textContent = HINT;
    this._showHeadline();
  }

  _example(name, role) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pill";
    button.textContent = name;
    button.addEventListener("click", () => {
      this._role.value = role;
      this._save();
    });
    return button;
  }

  _save() {
    this._preferences.voice = this._voice.value;
    this._preferences.role = this._role.value.trim();
    this._showHeadline();
    this._onChange("persona");
  }

  /** What is chosen, for the closed panel. */
  _showHeadline() {
    this._headline.textContent = summary(this._preferences) || "Default";
  }
}

/** The published voices have short names: natural or varied, female or male, and a number. */
function voiceTitle(name) {
  const parts = /^(NAT|VAR)([FM])(\d)$/.exec(name);
  if (parts === null) return name;
  const [, kind, sex, number] = parts;
  return `${kind === "NAT" ? "Natural" : "Varied"}, ${sex === "F" ? "female" : "male"} ${Number(number) + 1} (${name})`;
}

function summary({ voice, role }) {
  return [voice ? `Voice: ${voiceTitle(voice)}` : "", role ? `Role: ${role}` : ""].filter(Boolean).join(" · ");
}
