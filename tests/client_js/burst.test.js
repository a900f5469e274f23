/** The browser client at the real service at URL, when more comes at once than its application may have on its hands. */

import assert from "node:assert/strict";
import {test} from "node:test";

import {Client} from "../../app/static/client.js";

const {URL: url} = process.env;
const BURST = 2_500;

test("handlers that await their own requests get through a burst", {timeout: 60_000}, async (t) => {
  const ann = new Client(url, {firstWait: 50});
  const bob = new Client(url, {firstWait: 50});
  t.after(() => [ann, bob].forEach((client) => client.close()));
  const got = [];
  const failed = [];
  let enough = () => {};
  const all = new Promise((resolve) => (enough = resolve));
  let handled = 0;
  ann.addEventListener("message", (event) => {
    got.push(event.message.payload);
    const work = ann.announce("done", event.message.payload).catch((error) => failed.push(error.code));
    event.waitUntil(
      work.then(() => {
        handled += 1;
        if (handled === BURST) enough();
      }),
    );
  });
  await Promise.all([ann.connect(), bob.connect()]);
  await ann.subscribe("work", "1");
  await Promise.all(Array.from({length: BURST}, (_, index) => bob.announce("work", index, {attempts: 9})));
  await all;
  assert.deepEqual(failed, []);
  assert.deepEqual(
    got,
    Array.from({length: BURST}, (_, index) => index),
  );
});
