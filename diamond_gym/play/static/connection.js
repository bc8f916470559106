// The WebSocket: messages out, messages and pictures in, and going on after a lost connection.
// docs/play-protocol.md says what they mean.

const HEADER = 20;
const PATIENCE = 30_000; // ms for which the server keeps a lost session

export const token = new URLSearchParams(location.search).get("token") ?? "";

/** An address of the server with the token. */
export function withToken(path) {
  const url = new URL(path, location.href);
  url.searchParams.set("token", token);
  return url.href;
}

/** Reads the header of a binary message; null if it is none of version 1. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength <= HEADER || view.getUint8(0) !== 1) return null;
  return {
    kind: view.getUint8(1),
    index: view.getUint16(2, true),
    step: view.getUint32(4, true),
    width: view.getUint16(8, true),
    height: view.getUint16(10, true),
    sequence: view.getUint32(12, true),
    picture: new Blob([buffer.slice(HEADER)]),
  };
}

export class Connection {
  /**
   * @param on.message called with each JSON message
   * @param on.frame called with each frame in the order they were sent, decoded: {kind, index, step, bitmap, ...}
   * @param on.lost called with the milliseconds left, while it tries again
   * @param on.ended called with the code and the reason once trying again makes no sense
   */
  constructor(on) {
    this.on = on;
    this.session = null;
    this.lostAt = null;
    this.drawn = Promise.resolve();
    // A tab that was duplicated has a copy of its store, but only a reloaded one may go on in its session.
    if (performance.getEntriesByType("navigation")[0]?.type === "reload") this.session = sessionStorage.getItem("session");
  }

  open() {
    const url = new URL(withToken("/ws"));
    url.protocol = url.protocol.replace("http", "ws");
    if (this.session) url.searchParams.set("resume", this.session);
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.take(JSON.parse(data)) : this.decode(data));
    socket.onclose = ({ code, reason }) => {
      // After what was sent before, which may still be being decoded and would write over what is said of the end.
      this.drawn = this.drawn.then(() => socket === this.socket && this.closed(code, reason)).catch(console.error);
    };
  }

  take(message) {
    if (message.type === "hello") {
      this.lostAt = null;
      this.session = message.session;
      sessionStorage.setItem("session", this.session);
    }
    // In the order in which it was sent, also beside frames that are still being decoded.
    this.drawn = this.drawn.then(() => this.on.message(message)).catch(console.error);
  }

  decode(buffer) {
    const frame = readFrame(buffer);
    if (!frame) return;
    const bitmap = createImageBitmap(frame.picture, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    this.drawn = this.drawn
      .then(async () => {
        this.on.frame({ ...frame, bitmap: await bitmap });
        if (frame.kind === 0) this.send("ack", { sequence: frame.sequence });
      })
      .catch(console.error);
  }

  closed(code, reason) {
    const final = { 1001: "ended", 1012: "ended", 1008: "refused", 1009: "refused", 1013: "busy", 4001: "elsewhere" }[code];
    this.lostAt ??= Date.now();
    const left = PATIENCE - (Date.now() - this.lostAt);
    if (final || left <= 0) return this.on.ended(final ?? "gone", reason);
    this.on.lost(left);
    this.retry = setTimeout(() => this.open(), this.lostAt > Date.now() - 1000 ? 300 : 1500);
  }

  /** Tries again at once, in a new session or in the old one. */
  reopen(session = this.session) {
    clearTimeout(this.retry);
    this.session = session;
    this.lostAt = null;
    this.open();
  }

  send(type, fields = {}) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }
}
