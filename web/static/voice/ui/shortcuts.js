/** Keys do what the buttons do, unless the user is typing, or has switched them off. */

const OWN_KEYS = "input, select, textarea, button, summary, a, dialog, [contenteditable]";

export function listenForShortcuts(preferences, { toggle, mute }) {
  document.addEventListener("keydown", (event) => {
    if (!preferences.shortcuts || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("dialog")) return;
    if (event.key === " " && !event.target.closest(OWN_KEYS)) {
      event.preventDefault();
      toggle();
    } else if (event.key.toLowerCase() === "m" && !event.target.closest("input, select, textarea")) {
      mute();
    }
  });
}
