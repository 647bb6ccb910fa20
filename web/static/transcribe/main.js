/**
 * The page joins its parts here: every event to every view, every wish to the work.
 *
 * What does not belong here: how anything looks (views), what is done (work.js), how anything is understood
 * (whisper/).
 */

import { exchangeToken } from "../voice/token.js";
import { RATE_HZ } from "./data/decoding.js";
import { ModelCard } from "./ui/model-card.js";
import { Notices } from "./ui/notices.js";
import { Options } from "./ui/options.js";
import { Player } from "./ui/player.js";
import { Saving } from "./ui/saving.js";
import { SoundCard } from "./ui/sound-card.js";
import { StorageView } from "./ui/storage-view.js";
import { Summary } from "./ui/summary.js";
import { Timeline } from "./ui/timeline.js";
import { Transcript } from "./ui/transcript.js";
import { Work } from "./jobs.js";

class Page {
  constructor() {
    this._options = new Options();
    this._player = new Player({
      moved: (seconds) => this._follow(seconds),
      failed: () => this.heed({ kind: "not_played" }),
      full: () => this.heed({ kind: "not_kept" }),
    });
    const play = (seconds) => this._player.play(seconds);
    this._timeline = new Timeline({ rateHz: RATE_HZ, play, seek: (seconds) => this._player.seek(seconds) });
    this._transcript = new Transcript({ play });
    this._work = new Work({
      wish: () => this._model.wish,
      options: () => this._options.chosen,
      tape: this._tape(),
      heed: (event) => this.heed(event),
    });
    this._model = new ModelCard({
      plan: (wish) => this._work.plan(wish),
      load: () => this._work.ready(),
      stop: () => this._stopLoading(),
      changed: () => this._adopt(),
      heed: (event) => this.heed(event),
    });
    this._views = [
      this._model,
      this._options,
      new SoundCard({
        listen: () => this._work.listen(),
        stop: () => this._work.finish(),
        cancel: () => this._work.cancel(),
        file: (file) => this._work.transcribe(file),
      }),
      this._timeline,
      this._transcript,
      new Saving({ result: () => this._work.result }),
      new Summary(),
      new Notices(),
    ];
    new StorageView({ changed: () => this._forget() });
    exchangeToken().finally(() => this._adopt());
  }

  /** Everything that happens comes through here, in order. */
  heed(event) {
    for (const view of this._views) view.heed(event, this._work.phase);
  }

  /** Another model was chosen. */
  async _adopt() {
    this._options.adopt(this._model.chosen);
    if (this._work.renew()) await this._model.look();
  }

  async _stopLoading() {
    await this._work.cancel();
    await this._adopt();
  }

  /** Files were deleted: what is loaded goes on, what is not must be looked for. */
  async _forget() {
    if (this._work.phase === "idle") await this._model.look();
  }

  /** What keeps the sound: the player to hear it, the timeline to see it. */
  _tape() {
    const [player, timeline] = [this._player, this._timeline];
    return {
      clear: () => player.clear(),
      load(file, samples) {
        player.load(file);
        timeline.hear(samples);
        timeline.draw();
      },
      hear(samples) {
        player.hear(samples);
        timeline.hear(samples);
      },
      loadHeard: () => player.loadHeard(),
      get durationS() {
        return timeline.durationS;
      },
    };
  }

  _follow(seconds) {
    this._timeline.moveTo(seconds);
    this._transcript.mark(this._timeline.wordAt(seconds));
  }
}

new Page();
