/** The title of a model in selection lists. Source of the sizes: the Whisper paper, table 1. */

const PARAMETERS = Object.freeze({ tiny: 39, base: 74, small: 244 }); // millions

export function modelTitle({ name, multilingual }) {
  const [size] = name.split(".");
  return `${size}, ${multilingual ? "multilingual" : "English only"} (${PARAMETERS[size]}M)`;
}
