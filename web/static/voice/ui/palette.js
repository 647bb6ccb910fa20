/** Canvases wear the page's colours, and change them with it. */

const dark = matchMedia("(prefers-color-scheme: dark)");
let colours = {};

function read() {
  const style = getComputedStyle(document.documentElement);
  const names = ["user", "agent", "ink", "faint", "line", "warn", "bad"];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}-ink`).trim()]));
}

read();
dark.addEventListener("change", read);

export const colour = (name) => colours[name];

/** A canvas of as many device pixels as it covers; its context, in CSS pixels, cleared. */
export function fresh(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = globalThis.devicePixelRatio;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}
