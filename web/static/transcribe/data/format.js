/** Format times and sizes; times are rounded to whole milliseconds or tenths of a second once. */

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

const padded = (value, digits) => String(value).padStart(digits, "0");

/** hh:mm:ss, `point`, milliseconds; hours may have more than two digits. */
export function cueTime(ms, point) {
  const hours = Math.floor(ms / HOUR_MS);
  const minutes = Math.floor((ms % HOUR_MS) / MINUTE_MS);
  const seconds = Math.floor((ms % MINUTE_MS) / 1000);
  return `${padded(hours, 2)}:${padded(minutes, 2)}:${padded(seconds, 2)}${point}${padded(ms % 1000, 3)}`;
}

/** m:ss, or h:mm:ss from one hour. */
export function formatDuration(seconds) {
  const whole = Math.floor(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = padded(whole % 60, 2);
  return hours > 0 ? `${hours}:${padded(minutes, 2)}:${rest}` : `${minutes}:${rest}`;
}

/** m:ss.t, the time of a word. */
export function formatPosition(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${formatDuration(tenths / 10)}.${tenths % 10}`;
}

/** Bytes with a decimal unit. */
export function formatBytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
