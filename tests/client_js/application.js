/** An application that a test writes down, and the steps that most tests begin with. Nobody sleeps: waits are noted. */

import assert from "node:assert/strict";
import {test as nodeTest} from "node:test";

import {Client} from "../../app/static/client.js";
import {ScriptedServer} from "./scripted_server.js";

export const LIMIT = 7777; // ms: timers of this length run out when the test says so

/** An application: notes what its client tells it. */
export class App {
  messages = [];
  recoveries = [];
  states = [];
  refused = [];
  waits = [];
  time = 0;
  watchers = [];
  limits = new Set();
  take = () => undefined;

  client(url, options = {}) {
    const timers = {
      set: (call, delay) => {
        if (delay === LIMIT) {
          const limit = {call};
          this.limits.add(limit);
          return limit;
        }
        this.waits.push(delay);
        setImmediate(call);
        return null;
      },
      clear: (limit) => this.limits.delete(limit),
    };
    const calm = {requestTimeout: LIMIT, silence: LIMIT};
    this.it = new Client(url, {...calm, random: () => 1, now: () => this.time, timers, ...options});
    this.it.addEventListener("message", (event) => {
      this.messages.push(event.message.payload);
      const work = this.take(event.message.payload);
      if (work !== undefined) event.waitUntil(work);
      this.changed();
    });
    for (const kind of ["recovered", "gap"])
      this.it.addEventListener(kind, ({type, channel}) => {
        this.recoveries.push(`${type} ${channel}`);
        this.changed();
      });
    this.it.addEventListener("state", ({state}) => {
      this.states.push(state);
      this.changed();
    });
    this.it.addEventListener("refused", ({error}) => {
      this.refused.push(error);
      this.changed();
    });
    return this.it;
  }

  /** All limits are reached now. */
  runOut() {
    for (const {call} of [...this.limits]) call();
  }

  changed() {
    for (const watcher of this.watchers) watcher();
  }

  /** Wait until this holds. */
  until(holds) {
    return new Promise((resolve) => {
      const watcher = () => {
        if (!holds()) return;
        this.watchers.splice(this.watchers.indexOf(watcher), 1);
        resolve();
      };
      this.watchers.push(watcher);
      watcher();
    });
  }

  async has(...messages) {
    await this.until(() => this.messages.length >= messages.length);
    assert.deepEqual(this.messages, messages);
  }
}

/** A test with a server and an application, which end with it. */
export function test(name, run) {
  nodeTest(name, {timeout: 20_000}, async () => {
    const server = await new ScriptedServer().start();
    const app = new App();
    try {
      await run(server, app);
    } finally {
      app.it?.close();
      server.stop();
    }
  });
}

export async function subscribed(peer, client, channel = "news", subId = "1", answer = {}) {
  const asking = client.subscribe(channel, subId);
  await peer.subscribed(answer);
  return asking;
}

/** Wait until what the peer has sent so far was received. */
export async function allReceived(peer, client) {
  const asking = client.getInfo();
  const request = await peer.heard();
  assert.equal(request.type, "getInfo");
  peer.say({type: "getInfo", ackId: request.ackId});
  await asking;
}

export async function opened(server, app, options) {
  const client = app.client(server.url, options);
  const connecting = client.connect();
  const peer = await server.accept();
  await connecting;
  return [client, peer];
}

export const rotate = (peer) => peer.say({type: "disconnect", code: 3011, reason: "rotation", reconnect: true, retryAfterMs: 0});
