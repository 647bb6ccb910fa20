/**
 * Recordings of questions, so that a person without a microphone can ask them: synthesized speech, made by
 * tests/support/browser/questions.py.
 */

const FOLDER = new URL("./questions/", import.meta.url);
const RECORDED = Object.freeze([
  "what is three plus four",
  "how much is nine minus twelve",
  "who are you",
  "can you hear me",
  "what can you do",
  "how are you",
]);

/** The question as one writes it: with a question mark, if it ends with nothing else. */
export const asQuestion = (text) => (/[.!?]$/.test(text) ? text : `${text}?`);

/** The URL of the recording of `question`; null if there is none. */
export function recordingOf(question) {
  const plain = question.toLowerCase().replace(/[^a-z ]/g, "").trim();
  return RECORDED.includes(plain) ? new URL(`${plain.replaceAll(" ", "-")}.wav`, FOLDER).href : null;
}
