/**
 * The transcript: segments in order; press a word to play it.
 *
 * One word is in the tab order, the arrow keys move on from it. Transcribed text is inserted as text, never as
 * markup.
 */

import { formatDuration, formatPosition } from "../data/format.js";

const LOW_PROBABILITY = 0.4; // words below this probability are marked

export class Transcript {
  /** `play(seconds)` is called when a word is pressed. */
  constructor({ play }) {
    this._list = document.getElementById("segments");
    this._empty = document.getElementById("empty");
    this._partial = document.getElementById("partial");
    this._current = null;
    this._buttons = new Map(); // by word
    this._list.addEventListener("click", ({ target }) => {
      const word = target.closest(".word");
      if (word === null) return;
      this._setTabStop(word);
      play(Number(word.dataset.start));
    });
    this._list.addEventListener("keydown", (event) => this._onKeyDown(event));
  }

  onEvent(event) {
    switch (event.kind) {
      case "transcribing":
      case "listening":
        this._clear();
        return;
      case "segment":
        this._addSegment(event.segment);
        return;
      case "partial":
        this._showPartial(event);
        return;
      case "done":
      case "cancelled":
      case "failed":
        this._showPartial({ text: "", stable: "" });
        return;
      default:
    }
  }

  /** Highlight the word being played; null: none. */
  highlight(word) {
    const button = this._buttons.get(word) ?? null;
    if (button === this._current) return;
    this._current?.classList.remove("now");
    button?.classList.add("now");
    if (button !== null) this._scrollIntoView(button);
    this._current = button;
  }

  /** Scroll the list, but not the page, to the word. */
  _scrollIntoView(button) {
    const [seen, word] = [this._list.getBoundingClientRect(), button.getBoundingClientRect()];
    if (word.top < seen.top) this._list.scrollTop -= seen.top - word.top;
    else if (word.bottom > seen.bottom) this._list.scrollTop += word.bottom - seen.bottom;
  }

  _clear() {
    this._list.replaceChildren();
    this._buttons.clear();
    this._current = null;
    this._empty.hidden = true;
    this._showPartial({ text: "", stable: "" });
  }

  _addSegment(segment) {
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = formatDuration(segment.start);
    const body = document.createElement("p");
    const words = segment.words ?? [];
    if (words.length === 0) body.textContent = segment.text.trim();
    else body.append(...words.flatMap((word) => [/^\s/u.test(word.word) ? " " : "", this._wordButton(word)]));
    line.append(time, body);
    const follows = this._list.scrollHeight - this._list.clientHeight - this._list.scrollTop < 80;
    this._list.append(line);
    if (follows) this._list.scrollTop = this._list.scrollHeight;
  }

  _wordButton(word) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "word";
    button.textContent = word.word.trim();
    button.dataset.start = word.start;
    button.classList.toggle("doubtful", word.probability < LOW_PROBABILITY);
    button.classList.toggle("interpolated", word.interpolated === true);
    const confidence = `${Math.round(100 * word.probability)} % confidence`;
    const estimated = word.interpolated ? ", estimated time" : "";
    button.title = `${formatPosition(word.start)}–${formatPosition(word.end)}, ${confidence}${estimated}`;
    button.tabIndex = this._buttons.size === 0 ? 0 : -1;
    this._buttons.set(word, button);
    return button;
  }

  _showPartial({ text, stable }) {
    const [stablePart, rest] = this._partial.children;
    stablePart.textContent = stable;
    rest.textContent = text.slice(stable.length);
    this._partial.hidden = text === "";
  }

  _onKeyDown(event) {
    const words = [...this._buttons.values()];
    const here = words.indexOf(event.target);
    if (here < 0) return;
    const there = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: words.length - 1 }[event.key];
    if (there === undefined || words[there] === undefined) return;
    event.preventDefault();
    this._setTabStop(words[there]);
    words[there].focus();
  }

  /** Put this word, and no other, into the tab order. */
  _setTabStop(word) {
    for (const button of this._list.querySelectorAll('.word[tabindex="0"]')) button.tabIndex = -1;
    word.tabIndex = 0;
  }
}
