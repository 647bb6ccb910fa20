/** Keyboard shortcuts: Space starts and stops, M mutes; not while typing, and only if enabled. */

const INTERACTIVE = "input, select, textarea, button, summary, a, dialog, [contenteditable]";

export function addShortcuts(preferences, { toggle, mute }) {
  document.addEventListener("keydown", (event) => {
    if (!preferences.shortcuts || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("dialog")) return;
    if (event.key === " " && !event.target.closest(INTERACTIVE)) {
      event.preventDefault();
      toggle();
    } else if (event.key.toLowerCase() === "m" && !event.target.closest("input, select, textarea")) {
      mute();
    }
  });
}
