/** Ask before the page is closed, reloaded or left by a link while part of a conversation would be lost. */

const TALKING = "This ends the conversation.";
const UNSAVED = "This ends the conversation, which is not saved.";

/** `isUnsaved()`: whether it would; `isTalking()`: whether a conversation would end, which a link asks about, too. */
export function guardUnsaved(isUnsaved, { isTalking = () => false } = {}) {
  let isAnswered = false; // by the question about a link
  addEventListener("beforeunload", (event) => {
    if (isUnsaved() && !isAnswered) event.preventDefault(); // the browser asks, in its own words
    isAnswered = false;
  });
  document.addEventListener("click", (event) => {
    if (!isTalking() || !leadsElsewhere(event)) return;
    isAnswered = confirm(`${isUnsaved() ? UNSAVED : TALKING} Leave this page?`);
    if (!isAnswered) event.preventDefault();
  });
}

/** Whether a click takes another page into this tab. */
function leadsElsewhere({ target, defaultPrevented, ctrlKey, metaKey, shiftKey, altKey }) {
  const link = target.closest("a[href]");
  if (link === null || defaultPrevented || ctrlKey || metaKey || shiftKey || altKey) return false;
  return !link.target && !link.hasAttribute("download") && !link.getAttribute("href").startsWith("#");
}
