/** The name of the Cache Storage that keeps model files in this browser. */

export const CACHE_NAME = "packet-voice-whisper-1";
