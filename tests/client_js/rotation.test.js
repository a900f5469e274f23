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

test("rooms that are entered and left all the time are so on every socket", {timeout: 60_000}, async (t) => {
  const sockets = new Set();
  const ann = new Client(url, {firstWait: 50});
  const bob = new Client(url, {firstWait: 50});
  t.after(() => [ann, bob].forEach((client) => client.close()));
  const got = new Map(); // how often each message came
  const waiting = new Map();
  ann.addEventListener("message", ({message}) => {
    got.set(message.payload, (got.get(message.payload) ?? 0) + 1);
    waiting.get(message.payload)?.();
  });
  await Promise.all([ann.connect(), bob.connect()]);
  const wanted = [];
  const unwanted = [];
  const wander = async (name) => {
    for (let step = 0; sockets.size <= ROTATIONS; step += 1) {
      sockets.add(ann.welcome.connectionId);
      const room = `${name} ${step}`;
      await ann.subscribe(room, "1");
      const came = new Promise((resolve) => waiting.set(`in ${room}`, resolve));
      await bob.announce(room, `in ${room}`, {attempts: 5});
      wanted.push(`in ${room}`);
      await came;
      waiting.delete(`in ${room}`);
      await ann.unsubscribe(room, "1");
      await bob.announce(room, `out ${room}`, {attempts: 5});
      unwanted.push(`out ${room}`);
    }
  };
  await Promise.all(Array.from({length: 20}, (_, index) => wander(`room ${index}`)));
  await ann.subscribe("last", "1");
  const came = new Promise((resolve) => waiting.set("last", resolve));
  await bob.announce("last", "last", {attempts: 5});
  await came;
  assert.deepEqual(
    wanted.filter((payload) => got.get(payload) !== 1),
    [],
  );
  assert.deepEqual(
    unwanted.filter((payload) => got.has(payload)),
    [],
  );
  const {channelInfo} = await ann.getInfo({detail: true});
  assert.deepEqual(Object.keys(channelInfo.channels), ["last"]);
});
