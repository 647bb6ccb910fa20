/** The title and the approximate size of a model. Source of the sizes: the Whisper paper, table 1. */

const PARAMETERS = Object.freeze({ tiny: 39, base: 74, small: 244 }); // millions

export function modelTitle({ name, multilingual }) {
  const [size] = name.split(".");
  return `${size}, ${multilingual ? "multilingual" : "English only"} (${PARAMETERS[size]} million parameters)`;
}

/** Mark in the list of a `<select>` which models are stored in this browser: `names` of them. */
export function markStored(select, models, names) {
  models.forEach((model, i) => {
    const title = `${modelTitle(model)}${names.has(model.name) ? " · stored" : ""}`;
    if (select.options[i].text !== title) select.options[i].text = title;
  });
}

// Bytes per parameter: 8-bit weights on the CPU; a mixture of 4 to 32 bits on a GPU.
const BYTES = Object.freeze({ wasm: 1.1, webgpu: 3 });

export function estimateBytes({ name }, device) {
  return PARAMETERS[name.split(".")[0]] * 1e6 * BYTES[device];
}
