/**
 * The views that the first screen can do without: panels, dialogs, waveforms, recording. Loaded after it, by main.js.
 */

import { BrowserCaptions } from "./captions/browser-captions.js";
import { DiagnosticsPanel } from "./ui/diagnostics-panel.js";
import { History } from "./ui/history.js";
import { PersonaPanel } from "./ui/persona.js";
import { Recording } from "./ui/recording.js";
import { Report } from "./ui/report.js";
import { SettingsDialog } from "./ui/settings-dialog.js";
import { StatsPanel } from "./ui/stats-panel.js";
import { Waveforms } from "./ui/waveforms.js";

/** {views, recording, history}: all of them, and two that know what is not saved. */
export function createPanels({ log, metrics, preferences }, { onChange, onEvent, listen, record, testAudio }) {
  const recording = new Recording({ record });
  const history = new History(log, preferences, { onChange });
  const views = [
    new PersonaPanel(preferences, { onChange, listen }),
    new Waveforms(),
    new StatsPanel(metrics),
    new DiagnosticsPanel(metrics, preferences, { testAudio }),
    recording,
    history,
    new Report(metrics, preferences),
    new SettingsDialog(preferences, { onChange }),
    new BrowserCaptions(preferences, { onEvent }),
  ];
  return { views, recording, history };
}
