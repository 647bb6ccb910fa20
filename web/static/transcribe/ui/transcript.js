/**
 * Every segment stands there once, in order, and every word with a time can be heard by pressing it.
 *
 * One word is in the tab order; the arrows go on from it. What was written is shown as text, never as markup.
 */

import { clock, place } from "../data/times.js";

const DOUBTFUL = 0.4; // of a word's probability

export class Transcript {
  /** `play(seconds)` is called when a word is pressed. */
  constructor({ play }) {
    this._list = document.getElementById("segments");
    this._empty = document.getElementById("empty");
    this._partial = document.getElementById("partial");
    this._now = null;
    this._buttons = new Map(); // by word
    this._list.addEventListener("click", ({ target }) => {
      const word = target.closest(".word");
      if (word === null) return;
      this._stop(word);
      play(Number(word.dataset.start));
    });
    this._list.addEventListener("keydown", (event) => this._walk(event));
  }

  heed(event) {
    switch (event.kind) {
      case "transcribing":
      case "listening":
        this._clear();
        return;
      case "segment":
        this._show(event.segment);
        return;
      case "partial":
        this._foresee(event);
        return;
      case "done":
      case "cancelled":
      case "failed":
        this._foresee({ text: "", stable: "" });
        return;
      default:
    }
  }

  /** The word that is being heard; null is none. */
  mark(word) {
    const button = this._buttons.get(word) ?? null;
    if (button === this._now) return;
    this._now?.classList.remove("now");
    button?.classList.add("now");
    if (button !== null) this._reveal(button);
    this._now = button;
  }

  /** Scroll the list, and not the page, until the word is in sight. */
  _reveal(button) {
    const [seen, word] = [this._list.getBoundingClientRect(), button.getBoundingClientRect()];
    if (word.top < seen.top) this._list.scrollTop -= seen.top - word.top;
    else if (word.bottom > seen.bottom) this._list.scrollTop += word.bottom - seen.bottom;
  }

  _clear() {
    this._list.replaceChildren();
    this._buttons.clear();
    this._now = null;
    this._empty.hidden = true;
    this._foresee({ text: "", stable: "" });
  }

  _show(segment) {
    const line = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = clock(segment.start);
    const body = document.createElement("p");
    const words = segment.words ?? [];
    if (words.length === 0) body.textContent = segment.text.trim();
    else body.append(...words.flatMap((word) => [/^\s/u.test(word.word) ? " " : "", this._word(word)]));
    line.append(time, body);
    const follows = this._list.scrollHeight - this._list.clientHeight - this._list.scrollTop < 80;
    this._list.append(line);
    if (follows) this._list.scrollTop = this._list.scrollHeight;
  }

  _word(word) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "word";
    button.textContent = word.word.trim();
    button.dataset.start = word.start;
    button.classList.toggle("doubtful", word.probability < DOUBTFUL);
    button.classList.toggle("interpolated", word.interpolated === true);
    const sure = `${Math.round(100 * word.probability)} % sure`;
    const guessed = word.interpolated ? ", time estimated" : "";
    button.title = `${place(word.start)} to ${place(word.end)}, ${sure}${guessed}`;
    button.tabIndex = this._buttons.size === 0 ? 0 : -1;
    this._buttons.set(word, button);
    return button;
  }

  _foresee({ text, stable }) {
    const [sure, unsure] = this._partial.children;
    sure.textContent = stable;
    unsure.textContent = text.slice(stable.length);
    this._partial.hidden = text === "";
  }

  _walk(event) {
    const words = [...this._buttons.values()];
    const here = words.indexOf(event.target);
    if (here < 0) return;
    const there = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: words.length - 1 }[event.key];
    if (there === undefined || words[there] === undefined) return;
    event.preventDefault();
    this._stop(words[there]);
    words[there].focus();
  }

  /** Where the tab key stops. */
  _stop(word) {
    for (const button of this._list.querySelectorAll('.word[tabindex="0"]')) button.tabIndex = -1;
    word.tabIndex = 0;
  }
}
