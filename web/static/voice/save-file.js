/** Give the user a file or a text: saved as a download, or copied to the clipboard. */

const DOWNLOAD_STARTS_MS = 60_000;

export function saveFile(blob, name) {
  const link = document.createElement("a");
  const url = URL.createObjectURL(blob);
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), DOWNLOAD_STARTS_MS); // the download starts after this task
}

/** → whether the browser allowed it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, or an insecure page
  }
}

/** For file names, in local time: 2026-11-30T12-00-00; `when`: a date, as epoch milliseconds or as in JSON. */
export function timestamp(when = Date.now()) {
  const date = new Date(when);
  const local = new Date(date.getTime() - 60_000 * date.getTimezoneOffset());
  return local.toISOString().slice(0, 19).replaceAll(":", "-");
}
