/** Keyboard focus: what has it may disappear, and then it must not be lost. */

/** Before `element` disappears: if it has the focus, move that to the first of `others` that can have it. */
export function moveFocusFrom(element, ...others) {
  if (element.hidden || !element.contains(document.activeElement)) return;
  others.find((other) => other?.disabled === false && (other.checkVisibility?.() ?? true))?.focus();
}
