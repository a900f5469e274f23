/** A WebSocket server that says only what the test says: each socket that a client opens is a `Peer`. */

import {createHash} from "node:crypto";
import {createServer} from "node:http";

/** A queue that is read with `await`. */
class Queue {
  items = [];
  readers = [];

  put(item) {
    const reader = this.readers.shift();
    if (reader) reader(item);
    else this.items.push(item);
  }

  get() {
    return this.items.length > 0 ? Promise.resolve(this.items.shift()) : new Promise((resolve) => this.readers.push(resolve));
  }
}

/** The server's end of one socket. */
export class Peer {
  constructor(socket, url) {
    this.socket = socket;
    this.query = new URL(url, "http://localhost").searchParams;
    this.messages = new Queue();
    this.ended = new Promise((resolve) => (this.end = resolve)); // with the code of the client's close frame
    this.buffer = Buffer.alloc(0);
    socket.on("data", (data) => this.read(data));
    socket.on("close", () => this.end(1006));
    socket.on("error", () => {});
  }

  read(data) {
    this.buffer = Buffer.concat([this.buffer, data]);
    for (;;) {
      if (this.buffer.length < 6) return;
      const opcode = this.buffer[0] & 15;
      let length = this.buffer[1] & 127;
      let at = 2;
      if (length === 126) {
        length = this.buffer.readUInt16BE(2);
        at = 4;
      }
      if (this.buffer.length < at + 4 + length) return;
      const mask = this.buffer.subarray(at, at + 4);
      const body = this.buffer.subarray(at + 4, at + 4 + length).map((byte, index) => byte ^ mask[index % 4]);
      this.buffer = this.buffer.subarray(at + 4 + length);
      if (opcode === 1) this.messages.put(JSON.parse(Buffer.from(body).toString()));
      if (opcode === 8) {
        this.end(body.length > 1 ? Buffer.from(body).readUInt16BE(0) : 1005);
        this.frame(8, Buffer.from(body));
        this.socket.end();
      }
    }
  }

  frame(opcode, body) {
    const head = body.length < 126 ? Buffer.from([128 | opcode, body.length]) : Buffer.from([128 | opcode, 126, body.length >> 8, body.length & 255]);
    this.socket.write(Buffer.concat([head, body]));
  }

  text(text) {
    this.frame(1, Buffer.from(text));
  }

  say(message) {
    this.text(JSON.stringify(message));
  }

  /** The client's next message. */
  heard() {
    return this.messages.get();
  }

  acknowledge({channel, subId, ackId}, answer = {}) {
    this.say({type: "ack", channel, subId, ackId, ...answer});
  }

  /** The next message, which has to be a subscribe; it is answered. */
  async subscribed(answer) {
    const request = await this.heard();
    if (request.type !== "subscribe") throw new Error(JSON.stringify(request));
    this.acknowledge(request, answer);
    return request;
  }

  /** The message of this number, as it came through Pub/Sub, with the position of this number. */
  announce(number, more = {}) {
    const ids = {id: `m${number}`, pubsubId: String(1000 + number), sentDateTime: "2026-01-31T12:00:00.000Z"};
    this.say({type: "announce", channel: "news", payload: number, position: `p${number}`, ...ids, ...more});
  }

  close(code) {
    const body = Buffer.alloc(2);
    body.writeUInt16BE(code);
    this.frame(8, body);
    this.socket.end();
  }

  cut() {
    this.socket.destroy();
  }
}

/** Of `welcomes` one is said to each socket, the last one to all further ones; null: nothing. */
export class ScriptedServer {
  welcomes = [{}];
  refusals = [];
  peers = new Queue();
  sockets = new Set();

  async start() {
    this.server = createServer();
    this.server.on("upgrade", (request, socket) => {
      this.sockets.add(socket);
      if (this.refusals.length > 0) {
        const later = this.retryAfter === undefined ? "" : `Retry-After: ${this.retryAfter}\r\n`;
        socket.end(`HTTP/1.1 ${this.refusals.shift()} No\r\n${later}Content-Length: 0\r\nConnection: close\r\n\r\n`);
        return;
      }
      const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
      const accept = createHash("sha1").update(key).digest("base64");
      const head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", `Sec-WebSocket-Accept: ${accept}`];
      socket.write(head.join("\r\n") + "\r\n\r\n");
      const peer = new Peer(socket, request.url);
      const welcome = this.welcomes.length > 1 ? this.welcomes.shift() : this.welcomes[0];
      if (welcome !== null) peer.say({type: "welcome", message: "Welcome", ...welcome});
      this.peers.put(peer);
    });
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `ws://127.0.0.1:${this.server.address().port}/ws`;
    return this;
  }

  /** The next socket that a client opens; it was welcomed. */
  accept() {
    return this.peers.get();
  }

  stop() {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}
