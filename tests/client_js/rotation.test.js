/** The browser client while the real service at URL has its sockets rotate every few seconds. */

import assert from "node:assert/strict";
import {test} from "node:test";

import {Client} from "../../app/static/client.js";

const {URL: url} = process.env;
const ROTATIONS = 2;

test("nothing is lost, doubled or late while sockets are replaced", {timeout: 60_000}, async () => {
  const got = [];
  const sockets = new Set();
  const ann = new Client(url, {firstWait: 50});
  const recoveries = [];
  ann.addEventListener("message", ({message}) => got.push(message.payload));
  for (const kind of ["recovered", "gap"]) ann.addEventListener(kind, ({channel}) => recoveries.push(`${kind} ${channel}`));
  await ann.connect();
  await ann.subscribe("news", "1");
  const bob = new Client(url, {firstWait: 50});
  await bob.connect();

  let count = 0;
  while (sockets.size <= ROTATIONS) {
    sockets.add(ann.welcome.connectionId);
    count += 1;
    await bob.announce("news", count, {attempts: 5});
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const last = new Promise((resolve) => ann.addEventListener("message", ({message}) => message.payload === "last" && resolve()));
  await bob.announce("news", "last", {attempts: 5});
  await last;
  assert.deepEqual(got, [...Array.from({length: count}, (_, number) => number + 1), "last"]);
  assert(recoveries.length >= 2 * ROTATIONS);
  assert.deepEqual(new Set(recoveries), new Set(["recovered null", "recovered news"]));
  ann.close();
  bob.close();
});
