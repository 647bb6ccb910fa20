/** Ask before the page is closed or reloaded while part of a conversation would be lost. */

/** `isUnsaved()`: whether it would. */
export function guardUnsaved(isUnsaved) {
  addEventListener("beforeunload", (event) => {
    if (isUnsaved()) event.preventDefault(); // the browser asks, in its own words
  });
}
