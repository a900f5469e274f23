/** The browser client behind a slow link, SLOW, to the real service at URL: it gets done, and its requests go through meanwhile. */

import assert from "node:assert/strict";
import {randomBytes} from "node:crypto";
import {test} from "node:test";

import {Client} from "../../app/static/client.js";

const {URL: url, SLOW: slow} = process.env;
const MISSED = 450;
const SIZE = 6_000;
const REQUEST_TIMEOUT = 1_000; // ms: the replay takes several times as long
const GONE = 4_321; // ms, and a sign: this wait ends when the test says so

test("two subscriptions of a channel that missed a lot both get it, on one socket", {timeout: 60_000}, async (t) => {
  const sockets = [];
  class Kept extends WebSocket {
    constructor(...how) {
      super(...how);
      sockets.push(this);
    }
  }
  let comeBack;
  const timers = {
    set: (call, delay) => {
      if (delay !== GONE) return setTimeout(call, delay);
      comeBack = call;
      return null;
    },
    clear: clearTimeout,
  };
  const ann = new Client(slow, {
    requestTimeout: REQUEST_TIMEOUT,
    firstWait: GONE,
    longestWait: GONE,
    random: () => 1,
    timers,
    WebSocket: Kept,
  });
  const bob = new Client(url, {firstWait: 50});
  t.after(() => [ann, bob].forEach((client) => client.close()));
  const got = [];
  let enough = () => {};
  const all = new Promise((resolve) => (enough = resolve));
  ann.addEventListener("message", ({message}) => {
    got.push(message.payload.n);
    if (got.length === MISSED) enough();
  });
  const gaps = [];
  ann.addEventListener("gap", ({channel}) => gaps.push(channel));
  await Promise.all([ann.connect(), bob.connect()]);
  await ann.subscribe("news", "a");
  await ann.subscribe("news", "b");
  const gone = new Promise((resolve) => ann.addEventListener("state", ({state}) => state === "waiting" && resolve()));
  sockets[0].close();
  await gone;
  const text = randomBytes(SIZE).toString("base64"); // it does not get smaller
  for (let n = 1; n <= MISSED; n += 1) await bob.announce("news", {n, text}, {attempts: 5});
  const back = new Promise((resolve) => ann.addEventListener("message", resolve, {once: true}));
  comeBack();
  await back;
  await ann.announce("news", "mine"); // in the middle of the replay
  assert(got.length < MISSED);
  await all;
  assert.deepEqual(
    got,
    Array.from({length: MISSED}, (_, index) => index + 1),
  );
  assert.equal(sockets.length, 2);
  assert.deepEqual(gaps, []);
});
