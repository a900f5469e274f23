/** The browser client in Node, with the class of sockets that CLASS exports; the real service is at URL. */

import assert from "node:assert/strict";
import {createServer} from "node:http";
import {test} from "node:test";

import {Client, ClosedError} from "../../app/static/client.js";

const {URL: url, CLASS: module} = process.env;
const {WebSocket} = await import(module);
const options = {timeout: 20_000};

/** A server that answers each upgrade with this status; answers its address. */
async function refusing(t, status) {
  const server = createServer();
  server.on("upgrade", (_, socket) => socket.end(`HTTP/1.1 ${status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return `ws://127.0.0.1:${server.address().port}/ws`;
}

test("it says what it hears", options, async (t) => {
  const client = new Client(url, {WebSocket});
  t.after(() => client.close());
  await client.connect();
  const coming = new Promise((resolve) => client.addEventListener("message", resolve));
  await client.subscribe("news", "1");
  const other = new Client(url, {WebSocket});
  t.after(() => other.close());
  await other.connect();
  await other.announce("news", {n: 1});
  assert.deepEqual((await coming).message.payload, {n: 1});
});

for (const status of [401, 403, 404])
  test(`${status} is told within a second, and ends the client`, options, async (t) => {
    const client = new Client(await refusing(t, status), {WebSocket});
    const refused = [];
    client.addEventListener("refused", ({error}) => refused.push(error));
    const began = performance.now();
    await assert.rejects(client.connect(), (error) => error instanceof ClosedError && error.code === status);
    assert.deepEqual(
      refused.map((error) => [error.status, error.temporary]),
      [[status, false]],
    );
    assert(performance.now() - began < 1000);
  });

test("503 is told, and tried again", options, async (t) => {
  const client = new Client(await refusing(t, 503), {WebSocket, firstWait: 20, longestWait: 20});
  t.after(() => client.close());
  const twice = new Promise((resolve) => {
    const refused = [];
    client.addEventListener("refused", ({error}) => refused.push(error) === 2 && resolve(refused));
  });
  client.connect();
  assert.deepEqual(
    (await twice).map(({status, temporary}) => [status, temporary]),
    [
      [503, true],
      [503, true],
    ],
  );
});

test("nobody there is told within a second", options, async (t) => {
  const client = new Client("ws://127.0.0.1:1/ws", {WebSocket});
  t.after(() => client.close());
  const began = performance.now();
  const refused = new Promise((resolve) => client.addEventListener("refused", resolve));
  client.connect();
  const {error} = await refused;
  assert.deepEqual([error.status, error.code, error.temporary], [undefined, undefined, true]);
  assert.match(error.message, /nobody is there/);
  assert(performance.now() - began < 1000);
});

test("close() before it is open leaves nothing behind", options, async () => {
  const client = new Client(url, {WebSocket});
  client.connect();
  client.announce("news", 1);
  client.close();
  await new Promise((resolve) => setTimeout(resolve, 100)); // an unhandled rejection or error would fail the test
  assert.equal(client.state, "closed");
});
