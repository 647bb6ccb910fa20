/** The audio path could not be opened; `why` is one of the keys of PROBLEMS in ui/messages.js. */
export class AudioError extends Error {
  constructor(why, cause) {
    super(why, { cause });
    this.name = "AudioError";
    this.why = why;
  }
}
