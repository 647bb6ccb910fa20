/**
 * Which Whisper is offered, and which commit of it: what was loaded once is the same for ever.
 *
 * The repositories are exports of OpenAI's models (MIT) for onnxruntime with the cross-attentions that
 * word times need. `revision` is a commit of the public hub; where no full commit is known it is a
 * branch, and what a browser has kept of it is never asked for again.
 */

const COMMUNITY = "onnx-community/whisper-";

export const MODELS = Object.freeze(
  [
    { name: "tiny", multilingual: true, revision: "41bc5e7b3682b7cbace8be6a2da5b9e5abde050e" },
    { name: "tiny.en", multilingual: false, revision: "d4469fcf29fc2898f0d57632d811fa0ed21de5cc" },
    { name: "base", multilingual: true, revision: "85322b45a808c5f17e4a70a21ea1c431b5348e62" },
    { name: "base.en", multilingual: false, revision: "main" },
    { name: "small", multilingual: true, revision: "64da6eb47cafee84d7b8d9c7a5ab2c5a42737598" },
    { name: "small.en", multilingual: false, revision: "390528d8674b71ea7651a389932719d1de78d186" },
  ].map((model) => Object.freeze({ ...model, repository: `${COMMUNITY}${model.name}_timestamped` })),
);

/** The repository and revision that `model` means: a name of the table, or a repository itself. */
export function findModel(model, revision) {
  const known = MODELS.find(({ name, repository }) => name === model || repository === model);
  if (known !== undefined) return { repository: known.repository, revision: revision ?? known.revision };
  if (!/^[\w.-]+\/[\w.-]+$/.test(model)) throw new TypeError(`${model} is no model: a size, or org/repository`);
  return { repository: model, revision: revision ?? "main" };
}
