/** Devices for tests, with the rules of browsers that differ. */

/**
 * A browser like Firefox, which refuses a microphone whose rate is not the context's. `run(world)` inside it; `outputs`
 * are the ids of the connected loudspeakers.
 */
export async function inFirefox({ rates, devices = {} }, run) {
  const world = { contexts: [], streams: [], events: [], nodes: [], outputs: [], denied: false };
  const node = () => ({ connect() {}, disconnect() {}, port: { postMessage() {} } });
  class Context {
    constructor({ sampleRate = 48_000 } = {}) {
      Object.assign(this, { sampleRate, state: "running", currentTime: 0, destination: {} });
      this.audioWorklet = { addModule: async () => {} };
      world.contexts.push(this);
    }
    createMediaStreamSource(stream) {
      if (stream.rate !== this.sampleRate) throw new DOMException("another rate", "NotSupportedError");
      return node();
    }
    async setSinkId(id) {
      if (id !== "" && !world.outputs.includes(id)) throw new DOMException("", "NotFoundError");
      this.sinkId = id;
    }
    async decodeAudioData() {
      throw new DOMException("", "EncodingError");
    }
    async resume() {}
    async close() {
      this.state = "closed";
    }
  }
  const getUserMedia = async ({ audio }) => {
    const id = audio.deviceId?.exact ?? "builtin";
    if (devices.missing?.includes(id)) throw new DOMException("", "OverconstrainedError");
    const track = { label: id, muted: false, live: true, getSettings: () => ({ sampleRate: rates[id], deviceId: id }) };
    track.stop = () => (track.live = false);
    const stream = { rate: rates[id], getAudioTracks: () => [track], getTracks: () => [track], track };
    world.streams.push(stream);
    return stream;
  };
  const kept = [globalThis.AudioContext, globalThis.AudioWorkletNode];
  const { getUserMedia: media, enumerateDevices: enumerate } = navigator.mediaDevices;
  const query = navigator.permissions.query;
  globalThis.AudioContext = Context;
  globalThis.AudioWorkletNode = class {
    constructor() {
      this.port = { postMessage() {}, onmessage: null };
      world.nodes.push(this);
    }
    connect() {}
  };
  navigator.mediaDevices.getUserMedia = getUserMedia;
  navigator.mediaDevices.enumerateDevices = async () => {
    if (world.outputs.length === 0) return [{ kind: "audiooutput", deviceId: "" }]; // as without a permission
    return ["default", ...world.outputs].map((deviceId) => ({ kind: "audiooutput", deviceId }));
  };
  navigator.permissions.query = async () => ({ state: world.denied ? "denied" : "granted" });
  try {
    await run(world);
  } finally {
    [globalThis.AudioContext, globalThis.AudioWorkletNode] = kept;
    navigator.mediaDevices.getUserMedia = media;
    navigator.mediaDevices.enumerateDevices = enumerate;
    navigator.permissions.query = query;
  }
}
