/**
 * The Whisper models on offer, each pinned to a commit, so that a cached model never goes stale.
 *
 * The repositories are exports of OpenAI's models (MIT) for onnxruntime that include the cross-attentions needed
 * for word timestamps. `revision` is a commit on the public hub, or a branch where no full commit is known; a
 * cached branch is never checked for updates.
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

/** {repository, revision} of `model`: a name from the list, or a repository. */
export function resolveModel(model, revision) {
  const known = MODELS.find(({ name, repository }) => name === model || repository === model);
  if (known !== undefined) return { repository: known.repository, revision: revision ?? known.revision };
  if (!/^[\w.-]+\/[\w.-]+$/.test(model)) throw new TypeError(`${model} is neither a size nor org/repository`);
  return { repository: model, revision: revision ?? "main" };
}
