/** A model is chosen by what it costs and what it knows. Source of the sizes: the Whisper paper, table 1. */

const PARAMETERS = Object.freeze({ tiny: 39, base: 74, small: 244 }); // millions

/** As the lists of models show it. */
export function titleOf({ name, multilingual }) {
  const [size] = name.split(".");
  return `${size}, ${multilingual ? "many languages" : "English only"} (${PARAMETERS[size]} M parameters)`;
}
