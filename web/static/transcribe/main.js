/**
 * Entry point of the transcription page: every event to every view, every user action to the job runner.
 *
 * Neighbours: views in ui/ decide how things look, jobs.js runs the jobs, asr/ is the transcription engine.
 */

import { exchangeToken } from "../voice/token.js";
import { HelpDialog } from "../voice/ui/help-dialog.js";
import { guardUnsaved } from "../voice/unsaved.js";
import { SAMPLE_RATE_HZ } from "./data/audio-file.js";
import { JobRunner } from "./jobs.js";
import { AudioCard } from "./ui/audio-card.js";
import { ExportButtons } from "./ui/export-buttons.js";
import { ModelCard } from "./ui/model-card.js";
import { Notices } from "./ui/notices.js";
import { Options } from "./ui/options.js";
import { PageTitle } from "./ui/page-title.js";
import { Player } from "./ui/player.js";
import { StorageDialog } from "./ui/storage-dialog.js";
import { Summary } from "./ui/summary.js";
import { Timeline } from "./ui/timeline.js";
import { Transcript } from "./ui/transcript.js";

class Page {
  constructor() {
    this._options = new Options();
    this._player = new Player({
      onTime: (seconds) => this._onPlayback(seconds),
      onError: () => this.onEvent({ kind: "not_played" }),
      onFull: () => this.onEvent({ kind: "not_kept" }),
    });
    const play = (seconds) => this._player.play(seconds);
    this._timeline = new Timeline({ rateHz: SAMPLE_RATE_HZ, play, seek: (seconds) => this._player.seek(seconds) });
    this._transcript = new Transcript({ play });
    this._jobs = new JobRunner({
      modelSettings: () => this._model.settings,
      options: () => this._options.options,
      audioSink: this._audioSink(),
      onEvent: (event) => this.onEvent(event),
    });
    this._model = new ModelCard({
      plan: (settings) => this._jobs.plan(settings),
      load: () => this._jobs.ensureLoaded(),
      cancel: () => this._cancelLoading(),
      onChange: () => this._onModelChange(),
      onEvent: (event) => this.onEvent(event),
    });
    const exports = new ExportButtons({ result: () => this._jobs.result });
    guardUnsaved(() => exports.isUnsaved);
    const help = new HelpDialog();
    this._views = [
      this._model,
      this._options,
      new AudioCard({
        startMicrophone: () => exports.mayReplace() && this._jobs.startMicrophone(),
        stopMicrophone: () => this._jobs.stopMicrophone(),
        cancel: () => this._jobs.cancel(),
        transcribe: (file) => exports.mayReplace() && this._jobs.transcribe(file),
      }),
      this._timeline,
      this._transcript,
      exports,
      new Summary(),
      new Notices({ help: (topic) => help.open(topic) }),
      new PageTitle(),
    ];
    new StorageDialog({ onDelete: () => this._onStorageChange() });
    this._signIn();
  }

  async _signIn() {
    const refusal = await exchangeToken();
    if (refusal !== null) this.onEvent({ kind: "token_refused", ...refusal });
    await this._model.showStored();
    await this._onModelChange();
  }

  /** Every event passes through here, in order. */
  onEvent(event) {
    for (const view of this._views) view.onEvent(event, this._jobs.phase);
  }

  /** Another model or device was selected. */
  async _onModelChange() {
    this._options.setModel(this._model.selectedModel);
    if (this._jobs.resetTranscriber()) await this._model.checkCache();
  }

  async _cancelLoading() {
    await this._jobs.cancel();
    await this._onModelChange();
  }

  /** Files were deleted: a loaded model keeps working; otherwise check again what is cached. */
  async _onStorageChange() {
    await this._model.showStored();
    if (this._jobs.phase === "idle") await this._onModelChange();
  }

  /** Where the audio goes: the player and the timeline. */
  _audioSink() {
    const [player, timeline] = [this._player, this._timeline];
    return {
      clear: () => player.clear(),
      load(file, samples) {
        player.load(file);
        timeline.append(samples);
        timeline.draw();
      },
      append(samples) {
        player.append(samples);
        timeline.append(samples);
      },
      loadRecording: () => player.loadRecording(),
      get durationS() {
        return timeline.durationS;
      },
    };
  }

  _onPlayback(seconds) {
    this._timeline.moveTo(seconds);
    this._transcript.highlight(this._timeline.wordAt(seconds));
  }
}

new Page();
