/**
 * Keyboard shortcuts, not while typing, and only if enabled: Space starts and stops, or with push-to-talk speaks
 * while it is held; M mutes; Escape ends a push-to-talk call; ? shows the keyboard reference.
 */

const INTERACTIVE = "input, select, textarea, button, summary, a, dialog, [contenteditable]";
const TYPING = "input, select, textarea, [contenteditable]";

/** `isHolding()`: whether Space is the talk key at the moment. */
export function addShortcuts(preferences, { toggle, mute, hold, help, isHolding }) {
  // The call button keeps the focus after it was pressed to start; Space must not end the call then.
  const isTalkKey = ({ target }) => isHolding() && target.id === "talk";
  document.addEventListener("keydown", (event) => {
    if (!preferences.shortcuts || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("dialog")) return;
    const isSpace = event.key === " " && (!event.target.closest(INTERACTIVE) || isTalkKey(event));
    if (isSpace) event.preventDefault();
    if (event.repeat) return;
    if (isSpace) {
      if (isHolding()) hold(true);
      else toggle();
    } else if (event.target.closest(TYPING)) return;
    else if (event.key.toLowerCase() === "m") mute();
    else if (event.key === "?") help();
    else if (event.key === "Escape" && isHolding()) toggle();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    if (isTalkKey(event)) event.preventDefault(); // it would press the button
    hold(false);
  });
  window.addEventListener("blur", () => hold(false)); // the keyup goes to another window
}
