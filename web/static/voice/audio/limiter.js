/** The volume of the loudspeaker; above full scale it is compressed smoothly, so that nothing clips. */

const KNEE = 0.8; // below it the signal is not changed

/** Scale `samples` in place, from `from` at the start to `to` at the end. */
export function applyVolume(samples, from, to) {
  if (from === 1 && to === 1) return;
  const step = (to - from) / samples.length;
  for (let i = 0; i < samples.length; i += 1) samples[i] = limit(samples[i] * (from + step * (i + 1)));
}

function limit(value) {
  const size = Math.abs(value);
  if (size <= KNEE) return value;
  return Math.sign(value) * (KNEE + (1 - KNEE) * Math.tanh((size - KNEE) / (1 - KNEE)));
}
