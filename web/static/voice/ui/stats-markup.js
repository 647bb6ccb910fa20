/**
 * The elements of the statistics panel below its headline.
 *
 * `data-ms`, `data-pair` and `data-count` name one of the metrics and say how it is written; `data-value` names the one
 * that a chart draws, in `data-unit`. `data-limits` are the values of its dashed lines. All of it is
 * one literal, which the browser need not keep.
 */

export const STATS = `
<div class="charts">
  <figure class="wide"><figcaption>Mic to speaker <b id="stat-latency" data-pair="latency">–</b><small>p50 / p95</small></figcaption>
    <canvas id="chart-latency" data-value="latency.p50" data-limits="200" data-unit="ms" role="img" data-name="Mic to speaker" aria-label="Mic to speaker"></canvas></figure>
  <figure class="wide"><figcaption>Step rate <b id="stat-rate">–</b></figcaption>
    <canvas id="chart-rate" data-value="stepHz" data-limits="" data-unit="steps per second" role="img" data-name="Step rate" aria-label="Step rate"></canvas></figure>
  <figure><figcaption>Encode <b id="stat-encode" data-ms="stats.encodeMs">–</b></figcaption>
    <canvas id="chart-encode" data-value="stats.encodeMs" data-limits="30 80" data-unit="ms" role="img" data-name="Encode" aria-label="Encode"></canvas></figure>
  <figure><figcaption>Step <b id="stat-step" data-ms="stats.stepMs">–</b></figcaption>
    <canvas id="chart-step" data-value="stats.stepMs" data-limits="30 80" data-unit="ms" role="img" data-name="Step" aria-label="Step"></canvas></figure>
  <figure><figcaption>Decode <b id="stat-decode" data-ms="stats.decodeMs">–</b></figcaption>
    <canvas id="chart-decode" data-value="stats.decodeMs" data-limits="30 80" data-unit="ms" role="img" data-name="Decode" aria-label="Decode"></canvas></figure>
  <figure><figcaption>Jitter buffer <b id="stat-buffer" data-ms="played.bufferMs">–</b></figcaption>
    <canvas id="chart-buffer" data-value="played.bufferMs" data-limits="240" data-unit="ms" role="img" data-name="Jitter buffer" aria-label="Jitter buffer"></canvas></figure>
</div>
<p class="faint legend">Dashed lines: the 30 ms budget and the 80 ms duration of a frame; 200 ms for mic to speaker.</p>
<div class="facts">
  <div><h3>Latency</h3><dl>
    <dt>Round trip</dt><dd id="stat-round-trip" data-pair="connection.roundTrip">–</dd>
    <dt>Frames in flight</dt><dd id="stat-in-flight" data-count="connection.unanswered">–</dd>
    <dt>Server overhead</dt><dd id="stat-overhead" data-ms="stats.addedMs">–</dd>
    <dt>Model delay</dt><dd id="stat-model-delay" data-ms="model.modelDelayMs">–</dd>
    <dt>Device latency (not included)</dt><dd id="stat-device">–</dd>
  </dl></div>
  <div><h3>Playback</h3><dl>
    <dt>Underruns</dt><dd id="stat-underruns">–</dd>
    <dt>Trimmed</dt><dd id="stat-trimmed" data-ms="played.trimmedMs">–</dd>
    <dt>Target buffer</dt><dd id="stat-target-delay" data-ms="played.targetDelayMs">–</dd>
    <dt>Sample rate</dt><dd id="stat-sample-rate">–</dd>
    <dt>Microphone processing</dt><dd id="stat-processing">–</dd>
  </dl></div>
  <div><h3>Dropped and late</h3><dl>
    <dt>Server underruns</dt><dd id="stat-server-underruns" data-count="stats.underruns">–</dd>
    <dt>Your frames dropped</dt><dd id="stat-dropped-up" data-count="unsentFrames">–</dd>
    <dt>Agent frames dropped</dt><dd id="stat-dropped-down" data-count="lostFrames">–</dd>
    <dt>Send queue</dt><dd id="stat-send-queue">–</dd>
    <dt>Captions sent</dt><dd id="stat-captions">–</dd>
  </dl></div>
  <div><h3>Server</h3><dl>
    <dt>Sessions</dt><dd id="stat-sessions">–</dd>
    <dt>Status</dt><dd id="stat-server-status">–</dd>
    <dt>Queues</dt><dd id="stat-server-queues">–</dd>
  </dl></div>
</div>
`;
