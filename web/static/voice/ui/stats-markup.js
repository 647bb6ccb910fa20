/** The elements of the statistics panel below its headline. */

export const STATS = `
<div class="charts">
  <figure class="wide"><figcaption>Mic to speaker <b id="stat-latency">–</b><small>p50 / p95</small></figcaption>
    <canvas id="chart-latency" role="img" data-name="Mic to speaker" aria-label="Mic to speaker"></canvas></figure>
  <figure class="wide"><figcaption>Step rate <b id="stat-rate">–</b></figcaption>
    <canvas id="chart-rate" role="img" data-name="Step rate" aria-label="Step rate"></canvas></figure>
  <figure><figcaption>Encode <b id="stat-encode">–</b></figcaption>
    <canvas id="chart-encode" role="img" data-name="Encode" aria-label="Encode"></canvas></figure>
  <figure><figcaption>Step <b id="stat-step">–</b></figcaption>
    <canvas id="chart-step" role="img" data-name="Step" aria-label="Step"></canvas></figure>
  <figure><figcaption>Decode <b id="stat-decode">–</b></figcaption>
    <canvas id="chart-decode" role="img" data-name="Decode" aria-label="Decode"></canvas></figure>
  <figure><figcaption>Jitter buffer <b id="stat-buffer">–</b></figcaption>
    <canvas id="chart-buffer" role="img" data-name="Jitter buffer" aria-label="Jitter buffer"></canvas></figure>
</div>
<p class="faint legend">Dashed lines: the 30 ms budget and the 80 ms duration of a frame; 200 ms for mic to speaker.</p>
<div class="facts">
  <div><h3>Latency</h3><dl>
    <dt>Round trip</dt><dd id="stat-round-trip">–</dd>
    <dt>Frames in flight</dt><dd id="stat-in-flight">–</dd>
    <dt>Server overhead</dt><dd id="stat-overhead">–</dd>
    <dt>Model delay</dt><dd id="stat-model-delay">–</dd>
    <dt>Device latency (not included)</dt><dd id="stat-device">–</dd>
  </dl></div>
  <div><h3>Playback</h3><dl>
    <dt>Underruns</dt><dd id="stat-underruns">–</dd>
    <dt>Trimmed</dt><dd id="stat-trimmed">–</dd>
    <dt>Target buffer</dt><dd id="stat-target-delay">–</dd>
    <dt>Sample rate</dt><dd id="stat-sample-rate">–</dd>
    <dt>Microphone processing</dt><dd id="stat-processing">–</dd>
  </dl></div>
  <div><h3>Dropped and late</h3><dl>
    <dt>Server underruns</dt><dd id="stat-server-underruns">–</dd>
    <dt>Your frames dropped</dt><dd id="stat-dropped-up">–</dd>
    <dt>Agent frames dropped</dt><dd id="stat-dropped-down">–</dd>
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
