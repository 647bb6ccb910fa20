/**
 * What the user can say to the model: shown until the first text of a call, and again after it.
 *
 * The suggestions come from the server, which reads them from the model's config.json; they are inserted as text,
 * never as markup. Without suggestions nothing is shown.
 */

export class Suggestions {
  constructor() {
    this._section = document.getElementById("suggestions");
    this._key = "";
    this._hasText = false;
  }

  onEvent(event, phase) {
    switch (event.kind) {
      case "health":
        if (event.health?.model) this._show(event.health.model); // absent while the model is loading
        break;
      case "connection_established":
        this._show(event.model);
        break;
      case "opening":
        this._hasText = false;
        break;
      case "text":
      case "user_text":
        this._hasText ||= event.text !== "";
        break;
      case "ended":
      case "failed":
        break;
      default:
        return;
    }
    const isEmpty = this._section.childElementCount === 0;
    this._section.hidden = isEmpty || (this._hasText && phase !== "idle");
  }

  _show({ about, suggestions }) {
    const key = JSON.stringify([about, suggestions]);
    if (key === this._key) return; // /health is polled: unchanged content keeps the reader's place
    this._key = key;
    this._section.replaceChildren(
      ...(about ? [element("p", about)] : []),
      ...(suggestions?.length > 0 ? suggestionList(suggestions) : []),
    );
  }
}

function suggestionList(suggestions) {
  const title = element("h2", "Try asking:");
  title.id = "suggestions-title";
  const list = document.createElement("ul");
  list.setAttribute("role", "list"); // Safari drops the role of a list without bullets
  list.setAttribute("aria-labelledby", title.id);
  list.append(...suggestions.map((suggestion) => element("li", `“${suggestion}”`)));
  return [title, list];
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
