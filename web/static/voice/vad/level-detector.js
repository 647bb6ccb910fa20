/**
 * Voice activity by level: speech is what is clearly louder than the background. No model and no download.
 *
 * The background is tracked as the level that is almost always exceeded: it falls at once and rises slowly. Less
 * exact than a model (a slammed door counts), but enough to lower the agent when the user speaks over it.
 */

const WINDOW_MS = 32;
const ABOVE_BACKGROUND_DB = 12;
const QUIETEST_SPEECH_DB = -48;
const RISE_DB_PER_WINDOW = 0.1; // about 3 dB per second
const MAX_BACKGROUND_DB = -30;

export class LevelDetector {
  /** `rateHz`: the sample rate of what is pushed. */
  constructor(rateHz) {
    this._windowSamples = Math.round((rateHz * WINDOW_MS) / 1000);
    this._energy = 0;
    this._count = 0;
    this._backgroundDb = -60;
  }

  /** Add `samples`. → for each window they complete, 1 for speech and 0 for none. */
  process(samples) {
    const results = [];
    for (const sample of samples) {
      this._energy += sample * sample;
      this._count += 1;
      if (this._count < this._windowSamples) continue;
      results.push(this._judge(10 * Math.log10(this._energy / this._count + 1e-12)));
      this._energy = 0;
      this._count = 0;
    }
    return results;
  }

  _judge(db) {
    const isSpeech = db > QUIETEST_SPEECH_DB && db > this._backgroundDb + ABOVE_BACKGROUND_DB;
    this._backgroundDb = Math.min(db, this._backgroundDb + RISE_DB_PER_WINDOW, MAX_BACKGROUND_DB);
    if (this._backgroundDb < -90) this._backgroundDb = -90; // digital silence is no background
    return isSpeech ? 1 : 0;
  }
}
