/** The browser client at the real service, which listens at URL as process SERVER_PID and is started again when it ends. */

import assert from "node:assert/strict";
import {test} from "node:test";

import {Client, RequestError} from "../../app/static/client.js";

const {URL: url, SERVER_PID: pid} = process.env;
const options = {timeout: 30_000};

/** The next event of this kind that satisfies. */
function event(client, kind, satisfies = () => true) {
  return new Promise((resolve) => {
    const listener = (found) => {
      if (!satisfies(found)) return;
      client.removeEventListener(kind, listener);
      resolve(found);
    };
    client.addEventListener(kind, listener);
  });
}

async function opened(more = {}) {
  const client = new Client(url, {firstWait: 50, ...more});
  await client.connect();
  return client;
}

test("messages reach subscribers, and every request is answered", options, async () => {
  const ann = await opened({ackTypes: ["announce"]});
  const bob = await opened();
  assert.equal(ann.welcome.type, "welcome");
  assert.equal((await ann.subscribe("news", "today")).numConnections, 1);
  const coming = event(ann, "message");
  const published = await bob.announce("news", {n: 1}, {subId: "today"});
  const {message} = await coming;
  assert.deepEqual([message.type, message.payload, message.id], ["announce", {n: 1}, published.id]);
  const {messageInfo} = await ann.getInfo(); // behind the acknowledgement
  assert.equal(messageInfo.totalAwaitingMsgs, 0);
  assert.deepEqual(Object.keys((await bob.getInfo({detail: true, channel: "news"})).channelInfo.channels), ["news"]);
  assert.equal((await ann.unsubscribe("news")).removedConnectionCount, 1);
  await assert.rejects(bob.publish({type: "nonsense"}), (error) => error instanceof RequestError && error.code === "unsupported_type");
  ann.close();
  bob.close();
});

test("what was missed while the socket was gone comes, once and in order", options, async () => {
  const sockets = [];
  class Kept extends WebSocket {
    constructor(...how) {
      super(...how);
      sockets.push(this);
    }
  }
  const ann = await opened({WebSocket: Kept, firstWait: 500, random: () => 1});
  const got = [];
  ann.addEventListener("message", ({message}) => got.push(message.payload));
  await ann.subscribe("missed", "1");
  const bob = await opened();
  const first = event(ann, "message");
  await bob.announce("missed", 1);
  await first;
  const gone = event(ann, "state", ({state}) => state === "waiting");
  const inbox = event(ann, "recovered", ({channel}) => channel === null);
  const channel = event(ann, "recovered", ({channel}) => channel === "missed");
  sockets.at(-1).close();
  await gone;
  for (const number of [2, 3]) await bob.announce("missed", number);
  await bob.publish({type: "broadcast", payload: "all"});
  await Promise.all([inbox, channel]);
  const last = event(ann, "message", ({message}) => message.payload === 4);
  await bob.announce("missed", 4);
  await last;
  assert.deepEqual(
    got.filter((payload) => payload !== "all"),
    [1, 2, 3, 4],
  );
  assert.equal(got.filter((payload) => payload === "all").length, 1);
  assert.equal(sockets.length, 2);
  ann.close();
  bob.close();
});

test("half an emoji travels", options, async (t) => {
  const ann = await opened();
  const bob = await opened();
  t.after(() => [ann, bob].forEach((client) => client.close()));
  await ann.subscribe("cut", "1");
  for (const text of ["\ud83d", "\ude00 and \ud83d", "\ud83d\ude00"]) {
    const coming = event(ann, "message");
    await bob.announce("cut", text);
    assert.equal((await coming).message.payload, text);
  }
});

test("a service that restarts has its clients back, and they know of the gap", options, async () => {
  const ann = await opened();
  await ann.subscribe("news", "1");
  const gap = event(ann, "gap", ({channel}) => channel === "news");
  process.kill(Number(pid), "SIGTERM");
  await gap;
  const bob = await opened();
  const coming = event(ann, "message");
  await bob.announce("news", "after");
  assert.equal((await coming).message.payload, "after");
  ann.close();
  bob.close();
});
