/** The elements of the settings dialog, which most visits never open. */

export const SETTINGS = `<dialog id="settings" aria-labelledby="settings-title">
  <form id="settings-form" novalidate>
    <header><h2 id="settings-title">Settings</h2>
      <button type="button" class="quiet" id="close-settings" aria-label="Close settings">✕</button></header>

    <fieldset><legend>Audio</legend>
      <label>Microphone <select name="deviceId"></select></label>
      <label>Speaker <select name="outputId"></select></label>
      <label>Volume of the agent <span id="volume-value" class="faint"></span>
        <input type="range" name="volume" min="0" max="200" step="5"></label>
      <label class="check"><input type="checkbox" name="echoCancellation"> Echo cancellation <small>Turn off with headphones.</small></label>
      <label class="check"><input type="checkbox" name="noiseSuppression"> Noise suppression</label>
      <label class="check"><input type="checkbox" name="autoGainControl"> Automatic gain control</label>
    </fieldset>

    <fieldset><legend>Microphone mode</legend>
      <label>Talk <select name="talkMode">
        <option value="open">Open microphone: just talk</option>
        <option value="push">Push to talk: hold a button or the space bar</option>
      </select></label>
    </fieldset>

    <fieldset><legend>When you speak over the agent</legend>
      <div class="grid">
        <label>Notice my speech <select name="vad">
          <option value="level">By its level</option>
          <option value="silero">By a model (Silero)</option>
          <option value="off">Off</option>
        </select></label>
        <label>Then the agent should <select name="bargeIn">
          <option value="duck">Lower its volume</option>
          <option value="flush">Stop immediately</option>
          <option value="off">Keep talking</option>
        </select></label>
      </div>
      <p class="faint" id="vad-state" role="status"></p>
    </fieldset>

    <fieldset><legend>Captions for my speech</legend>
      <div class="grid">
        <label>Captions <select name="captions">
          <option value="auto">Whisper, if stored here</option>
          <option value="off">Off</option>
          <option value="whisper">Whisper, in this browser</option>
          <option value="browser" id="browser-captions" disabled>Browser speech recognition, on this device</option>
        </select></label>
        <label>Whisper model <select name="captionsModel"></select></label>
      </div>
      <p class="faint" id="captions-state" role="status">Captions appear in the transcript, and go to the server and no further.</p>
    </fieldset>

    <fieldset><legend>Sampling</legend>
      <p class="faint">Leave empty for server defaults. Changes apply immediately; cleared fields apply to the next conversation.</p>
      <div class="grid">
        <label>Voice temperature <input type="number" name="temperature" min="0" max="10" step="0.05" inputmode="decimal"></label>
        <label>Voice top-k <input type="number" name="topK" min="0" max="65536" step="1" inputmode="numeric"></label>
        <label>Text temperature <input type="number" name="textTemperature" min="0" max="10" step="0.05" inputmode="decimal"></label>
        <label>Text top-k <input type="number" name="textTopK" min="0" max="65536" step="1" inputmode="numeric"></label>
        <label>Seed <input type="number" name="seed" min="0" max="9007199254740991" step="1" inputmode="numeric"></label>
        <button type="button" class="pill" id="reset-sampling">Clear all</button>
      </div>
    </fieldset>

    <fieldset><legend>Keyboard shortcuts</legend>
      <label class="check"><input type="checkbox" name="shortcuts"> Space to start, stop or talk, M to mute, ? for help</label>
    </fieldset>
  </form>
</dialog>`;
