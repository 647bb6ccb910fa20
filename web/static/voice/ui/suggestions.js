/**
 * What a model may be asked is said until words were exchanged, and again when the conversation is over.
 *
 * The sentences come from the server, which has them from the model's config.json; they are shown as text,
 * never as markup. Of a model that has none, nothing is shown.
 */

export class Suggestions {
  constructor() {
    this._section = document.getElementById("suggestions");
    this._shown = "";
    this._exchanged = false;
  }

  heed(event, phase) {
    switch (event.kind) {
      case "health":
        if (event.health?.model) this._adopt(event.health.model); // without one it says nothing of the model
        break;
      case "connection_established":
        this._adopt(event.model);
        break;
      case "opening":
        this._exchanged = false;
        break;
      case "text":
      case "user_text":
        this._exchanged ||= event.text !== "";
        break;
      case "ended":
      case "failed":
        break;
      default:
        return;
    }
    const isEmpty = this._section.childElementCount === 0;
    this._section.hidden = isEmpty || (this._exchanged && phase !== "idle");
  }

  _adopt({ about, suggestions }) {
    const told = JSON.stringify([about, suggestions]);
    if (told === this._shown) return; // /health is asked every few seconds: a reader keeps the place
    this._shown = told;
    this._section.replaceChildren(
      ...(about ? [element("p", about)] : []),
      ...(suggestions?.length > 0 ? listed(suggestions) : []),
    );
  }
}

function listed(suggestions) {
  const title = element("h2", "You can ask:");
  title.id = "suggestions-title";
  const list = document.createElement("ul");
  list.setAttribute("role", "list"); // Safari takes one without bullets for none
  list.setAttribute("aria-labelledby", title.id);
  list.append(...suggestions.map((suggestion) => element("li", `“${suggestion}”`)));
  return [title, list];
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
