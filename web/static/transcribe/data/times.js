/** A time is spelled one way for each reader, from whole milliseconds, so that nothing is rounded twice. */

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

const padded = (value, digits) => String(value).padStart(digits, "0");

/** hh:mm:ss and milliseconds behind `point`; hours grow beyond two digits. */
export function cueTime(ms, point) {
  const hours = Math.floor(ms / HOUR_MS);
  const minutes = Math.floor((ms % HOUR_MS) / MINUTE_MS);
  const seconds = Math.floor((ms % MINUTE_MS) / 1000);
  return `${padded(hours, 2)}:${padded(minutes, 2)}:${padded(seconds, 2)}${point}${padded(ms % 1000, 3)}`;
}

/** m:ss, or h:mm:ss from an hour on. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  const rest = padded(whole % 60, 2);
  return hours > 0 ? `${hours}:${padded(minutes, 2)}:${rest}` : `${minutes}:${rest}`;
}

/** m:ss.t: a word's place. */
export function place(seconds) {
  const tenths = Math.round(10 * seconds);
  return `${clock(tenths / 10)}.${tenths % 10}`;
}

/** Bytes as people count them. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(0)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
