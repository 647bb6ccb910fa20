/** The page's colours for canvases, in light and dark. */

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

/** Size the canvas to its device pixels. → {context, width, height}, cleared, in CSS pixels. */
export function clearedContext(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = globalThis.devicePixelRatio;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
