/** Promises of the browser client where a socket is replaced, slow, refused or gone; each at a server that follows a script. */

import assert from "node:assert/strict";
import {test as nodeTest} from "node:test";

import {Client, ClosedError, ConnectError, RequestError} from "../../app/static/client.js";
import {allReceived, opened, rotate, subscribed, test} from "./application.js";

const error = (request, code = "unavailable", more = {}) => ({
  type: "error",
  ackId: request.ackId,
  code,
  value: "not now",
  temporary: true,
  ...more,
});
const has = (code) => (caught) => caught instanceof RequestError && caught.code === code;

/** All that is ready to happen has happened. */
async function turns(count = 5) {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setTimeout(resolve));
}

// A slow link

test("no answer is late while something comes", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "news", "a", {position: "p0"});
  await subscribed(first, client, "news", "b", {position: "p0"});
  first.cut();
  const second = await server.accept();
  const [a, b] = [await second.heard(), await second.heard()];
  second.acknowledge(a, {recovered: true, position: "p0"});
  const announcing = client.announce("news", "mine");
  const said = await second.heard();
  for (let number = 1; number <= 5; number += 1) {
    second.announce(number);
    await app.until(() => app.messages.length === number);
    app.runOut();
  }
  second.acknowledge(b, {recovered: true, position: "p5"});
  second.say({type: "ack", ackId: said.ackId, id: said.id});
  await announcing;
  await app.has(1, 2, 3, 4, 5);
  assert.equal(server.peers.items.length, 0);
  assert.deepEqual(app.recoveries.slice(1), ["recovered news"]);
});

test("it is open, and its requests go through, while answers wait behind a replay", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "news", "a", {position: "p0"});
  first.cut();
  const second = await server.accept();
  await second.heard();
  second.announce(1);
  await app.until(() => client.state === "open");
  const asking = client.getInfo();
  const {ackId} = await second.heard();
  second.say({type: "getInfo", ackId});
  await asking;
});

// An application that awaits its own requests

test("a handler may await a request, however many messages wait", async (server, app) => {
  const [client, first] = await opened(server, app, {maxUntaken: 4});
  app.take = (payload) => client.announce("done", payload);
  await subscribed(first, client, "news", "1", {position: "p0"});
  for (const number of [1, 2, 3, 4, 5, 6]) first.announce(number);
  const said = [];
  for (let index = 0; index < 4; index += 1) said.push(await first.heard());
  await app.has(1, 2, 3, 4);
  for (const {ackId, id} of said) first.say({type: "ack", ackId, id});
  const second = await server.accept(); // what was left out is asked for again
  const request = await second.heard();
  assert.equal(request.position, "p4");
  first.announce(7); // is no answer, and comes again
  second.acknowledge(request, {recovered: true, position: "p4"});
  for (const number of [5, 6, 7]) second.announce(number);
  assert.equal(await first.ended, 1000);
  for (let index = 0; index < 3; index += 1) {
    const {ackId, id} = await second.heard();
    second.say({type: "ack", ackId, id});
  }
  await app.has(1, 2, 3, 4, 5, 6, 7);
  await turns();
  assert.deepEqual({...client.positions}, {news: "p7"});
});

test("a position does not move over what was left out, whatever is answered behind it", async (server, app) => {
  const [client, first] = await opened(server, app, {maxUntaken: 2});
  let take;
  const taking = new Promise((resolve) => (take = resolve));
  app.take = () => taking;
  await subscribed(first, client, "news", "a", {position: "p0"});
  const asking = client.getInfo(); // keeps the socket
  const {ackId} = await first.heard();
  for (const number of [1, 2, 3]) first.announce(number, {subId: "a"});
  await subscribed(first, client, "news", "b", {position: "p3"});
  take();
  const second = await server.accept();
  assert.deepEqual(app.messages, [1, 2]);
  assert.deepEqual([(await second.heard()).position, (await second.heard()).position], ["p2", "p3"]);
  first.say({type: "getInfo", ackId});
  await asking;
});

test("a request of an application that is behind opens a socket", async (server, app) => {
  const [client, first] = await opened(server, app, {maxUntaken: 2});
  let work;
  const working = new Promise((resolve) => (work = resolve));
  app.take = async (payload) => {
    await working;
    await client.announce("done", payload);
  };
  await subscribed(first, client, "news", "1", {position: "p0"});
  for (const number of [1, 2, 3]) first.announce(number);
  assert.equal(await first.ended, 1000); // nothing is asked yet
  work();
  const peer = await server.accept();
  const heard = [];
  for (;;) {
    const message = await peer.heard();
    if (message.type === "subscribe") peer.acknowledge(message, {recovered: true, position: message.position});
    else peer.say({type: "ack", ackId: message.ackId, id: message.id});
    heard.push(message.payload ?? message.position);
    if (heard.length === 3) break;
  }
  assert.deepEqual(heard, ["p0", 1, 2]);
  await allReceived(peer, client);
  await turns();
  peer.announce(3);
  const last = await peer.heard();
  assert.equal(last.payload, 3);
  peer.say({type: "ack", ackId: last.ackId, id: last.id});
  await app.has(1, 2, 3);
});

// Wishes

test("what is entered and left while a socket is replaced is so on the new one", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client, "stays");
  await subscribed(old, client, "goes");
  rotate(old);
  const next = await server.accept();
  const asked = [await next.heard(), await next.heard()];
  assert.deepEqual(
    asked.map(({channel}) => channel),
    ["stays", "goes"],
  );
  const entering = client.subscribe("new", "1");
  const leaving = client.unsubscribe("goes", "1");
  for (let index = 0; index < 2; index += 1) old.acknowledge(await old.heard(), {position: "n1"});
  await Promise.all([entering, leaving]);
  const left = await next.heard();
  assert.deepEqual([left.type, left.channel, left.subId], ["unsubscribe", "goes", "1"]);
  const entered = await next.heard();
  assert.deepEqual([entered.type, entered.channel, entered.position], ["subscribe", "new", "n1"]);
  next.announce(1, {channel: "goes"});
  next.announce(2, {channel: "new"});
  for (const request of [...asked, left, entered]) next.acknowledge(request, {recovered: true});
  assert.equal(await old.ended, 1000);
  next.announce(3, {channel: "stays"});
  await app.has(2, 3);
  next.cut();
  const third = await server.accept();
  const again = [await third.subscribed(), await third.subscribed()];
  assert.deepEqual(again.map(({channel}) => channel).sort(), ["new", "stays"]);
  await allReceived(third, client);
});

test("a subscription that the old socket never answers is asked for on the new one", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client, "stays");
  rotate(old);
  const next = await server.accept();
  const request = await next.heard();
  const entering = client.subscribe("new", "1");
  await old.heard();
  old.cut();
  next.acknowledge(request);
  const entered = await next.heard();
  assert.deepEqual([entered.channel, entered.position], ["new", undefined]);
  next.acknowledge(entered, {numConnections: 7});
  assert.equal((await entering).numConnections, 7);
});

test("subscribe, then unsubscribe in one turn: it is left, and stays left", async (server, app) => {
  const [client, first] = await opened(server, app);
  const both = Promise.all([client.subscribe("news", "1"), client.unsubscribe("news", "1")]);
  assert.deepEqual([(await first.heard()).type, (await first.heard()).type], ["subscribe", "unsubscribe"]);
  first.acknowledge({ackId: 1});
  first.acknowledge({ackId: 2});
  await both;
  first.cut();
  const second = await server.accept();
  await app.until(() => client.state === "open");
  await allReceived(second, client);
});

test("unsubscribe, then subscribe in one turn: it is there", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client);
  const both = Promise.all([client.unsubscribe("news", "1"), client.subscribe("news", "1")]);
  const [left, entered] = [await first.heard(), await first.heard()];
  assert.deepEqual([left.type, entered.type], ["unsubscribe", "subscribe"]);
  first.acknowledge(left);
  first.acknowledge(entered);
  await both;
  first.cut();
  assert.equal((await (await server.accept()).heard()).channel, "news");
});

test("subscribe, then unsubscribe without a socket: it is never asked for", async (server, app) => {
  const [client, first] = await opened(server, app);
  first.cut();
  await app.until(() => client.state === "waiting");
  const entering = client.subscribe("news", "1");
  const leaving = client.unsubscribe("news", "1");
  await assert.rejects(entering, has("unsubscribed"));
  const second = await server.accept();
  const request = await second.heard();
  assert.equal(request.type, "unsubscribe");
  second.acknowledge(request, {removedConnectionCount: 0});
  assert.equal((await leaving).removedConnectionCount, 0);
  await allReceived(second, client);
});

test("unsubscribe, then subscribe without a socket: it is there", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "news", "1", {position: "p0"});
  first.cut();
  await app.until(() => client.state === "waiting");
  const leaving = client.unsubscribe("news", "1");
  const entering = client.subscribe("news", "1");
  const second = await server.accept();
  await second.subscribed();
  await Promise.all([leaving, entering]);
  await allReceived(second, client);
});

test("after a timeout it goes on trying to subscribe", async (server, app) => {
  const [client, first] = await opened(server, app);
  const asking = client.subscribe("news", "1");
  await first.heard();
  app.runOut();
  await assert.rejects(asking, (caught) => has("timeout")(caught) && caught.temporary);
  const second = await server.accept();
  assert.equal((await second.subscribed()).channel, "news");
  second.announce(1);
  await app.has(1);
});

test("after a temporary refusal it goes on trying to subscribe, on the same socket", async (server, app) => {
  const [client, first] = await opened(server, app);
  const asking = client.subscribe("news", "1");
  first.say(error(await first.heard(), "rate_limited", {retryAfterMs: 1234}));
  await assert.rejects(asking, has("rate_limited"));
  await first.subscribed();
  assert(app.waits.includes(1234), String(app.waits));
  first.cut();
  assert.equal((await (await server.accept()).heard()).channel, "news");
});

test("a room that could not be left for the moment is left later", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client);
  const leaving = client.unsubscribe("news");
  first.say(error(await first.heard(), "rate_limited"));
  await assert.rejects(leaving, has("rate_limited"));
  assert.equal((await first.heard()).type, "unsubscribe");
});

// The order of what is sent again

test("what is sent again stays in the order of the calls, and later calls behind it", async (server, app) => {
  const [client, first] = await opened(server, app);
  const calls = [0, 1, 2, 3, 4].map((number) => client.announce("news", number, {attempts: 5}));
  let heard = [];
  for (let index = 0; index < 5; index += 1) heard.push(await first.heard());
  assert.deepEqual(
    heard.map(({payload}) => payload),
    [0, 1, 2, 3, 4],
  );
  for (const request of heard)
    first.say([0, 2, 3].includes(request.payload) ? error(request) : {type: "ack", ackId: request.ackId, id: request.id});
  await Promise.all([calls[1], calls[4]]);
  calls.push(client.announce("news", 5));
  const again = [];
  for (let index = 0; index < 2; index += 1) {
    const request = await first.heard();
    again.push(request.payload);
    first.say(index === 0 ? error(request) : {type: "ack", ackId: request.ackId, id: request.id});
  }
  await calls[0];
  const lost = [await first.heard(), await first.heard()];
  first.cut();
  const second = await server.accept();
  for (let index = 0; index < 3; index += 1) {
    const request = await second.heard();
    again.push(request.payload);
    second.say({type: "ack", ackId: request.ackId, id: request.id});
  }
  assert.deepEqual(
    lost.map(({payload}) => payload),
    [2, 3],
  );
  assert.deepEqual(again, [0, 0, 2, 3, 5]);
  await Promise.all(calls);
});

test("what is said while a socket is replaced does not overtake what was said on the old one", async (server, app) => {
  const [client, old] = await opened(server, app, {timers: {set: setTimeout, clear: clearTimeout}});
  server.welcomes = [{connectionId: "next"}];
  rotate(old);
  const first = client.announce("news", 1, {attempts: 2});
  const request = await old.heard();
  const next = await server.accept();
  while (client.welcome.connectionId !== "next") await turns(1);
  const second = client.announce("news", 2);
  old.say({type: "ack", ackId: request.ackId, id: request.id});
  await first;
  const later = await next.heard();
  assert.equal(later.payload, 2);
  next.say({type: "ack", ackId: later.ackId, id: later.id});
  await second;
});

// Options

for (const name of ["requestTimeout", "silence", "openTimeout", "maxUntaken"])
  for (const value of [0, -1, NaN, "1000", null])
    nodeTest(`${name}: ${JSON.stringify(value) ?? value} is no time`, () => {
      assert.throws(
        () => new Client("ws://localhost/ws", {WebSocket: class {}, [name]: value}),
        (caught) => caught instanceof TypeError && caught.message.includes(name),
      );
    });

nodeTest("an option that there is not is told at once, with the nearest", async () => {
  assert.throws(() => new Client("ws://localhost/ws", {WebSocket: class {}, acktypes: []}), /acktypes.*ackTypes/);
  assert.throws(() => new Client("ws://localhost/ws", {WebSocket: class {}, colour: 1}), /colour.*requestTimeout/);
  const client = new Client("ws://localhost/ws", {WebSocket: class {}});
  await assert.rejects(client.announce("a", 1, {attempt: 3}), /attempt.*attempts/);
  await assert.rejects(client.subscribe("a", "1", {postion: "p"}), /postion.*position/);
});

test("Infinity is never", async (server, app) => {
  const delays = [];
  const timers = {set: (call, delay) => (delays.push(delay), setTimeout(call, delay)), clear: clearTimeout};
  const [client, peer] = await opened(server, app, {requestTimeout: Infinity, silence: Infinity, timers});
  await subscribed(peer, client);
  client.getInfo(); // is never answered, which may take as long as it likes
  assert.deepEqual(
    delays.filter((delay) => !(delay < 2 ** 31)),
    [],
  );
  assert.equal(server.peers.items.length, 0);
  assert.equal((await peer.heard()).type, "getInfo");
  assert.equal(peer.messages.items.length, 0); // and the server is not asked for a sign of life again and again
});

// What is not taken

for (const [how, fail] of [
  [
    "a listener that throws",
    () => {
      throw new Error("not now");
    },
  ],
  [
    "an async listener that fails",
    async () => {
      await turns(1);
      throw new Error("not now");
    },
  ],
])
  test(`${how} has not taken the message`, async (server, app) => {
    const [client, peer] = await opened(server, app, {ackTypes: ["announce"]});
    const seen = [];
    let fails = true;
    const listener = ({message}) => {
      seen.push(message.payload);
      return fails ? fail() : undefined;
    };
    const {error: report} = console;
    const reported = [];
    console.error = (caught) => reported.push(caught.message);
    try {
      client.addEventListener("message", listener);
      await subscribed(peer, client, "news", "1", {position: "p0"});
      peer.announce(1);
      await allReceived(peer, client); // and nothing is acknowledged
      await turns();
      assert.deepEqual({...client.positions}, {news: "p0"});
      fails = false;
      peer.announce(1, {isRetry: true});
      assert.deepEqual(await peer.heard(), {type: "ack", id: "m1"});
      assert.deepEqual([seen, reported], [[1, 1], ["not now"]]);
      client.removeEventListener("message", listener);
      peer.announce(2);
      assert.deepEqual(await peer.heard(), {type: "ack", id: "m2"});
      assert.deepEqual(seen, [1, 1]);
    } finally {
      console.error = report;
    }
  });

test("a waitUntil that comes too late says so", async (server, app) => {
  const [client, peer] = await opened(server, app);
  let event;
  client.addEventListener("message", (found) => (event = found));
  await subscribed(peer, client);
  peer.announce(1);
  await app.has(1);
  assert.throws(() => event.waitUntil(Promise.resolve()), /too late/);
});

// The end

test("close() before it is open leaves nothing unhandled", async (server, app) => {
  const client = app.client(server.url);
  const unhandled = [];
  const note = (reason) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  client.connect();
  client.subscribe("news", "1");
  client.announce("news", 1, {attempts: 3});
  client.getInfo();
  client.unsubscribe("news");
  const connecting = client.connect();
  client.close();
  await assert.rejects(connecting, ClosedError);
  await turns();
  process.off("unhandledRejection", note);
  assert.deepEqual(unhandled, []);
});

nodeTest("without connect() it says so at once", async () => {
  const client = new Client("ws://localhost/ws", {WebSocket: class {}});
  for (const asking of [client.subscribe("a", "1"), client.announce("a", 1), client.getInfo()]) {
    await assert.rejects(asking, (caught) => caught.code === "not_connected" && /connect\(\)/.test(caught.message));
  }
});

test("connect() after close() opens it again, with its subscriptions", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "news", "1", {position: "p0"});
  client.close();
  assert.equal(client.state, "closed");
  await assert.rejects(client.announce("news", 1), ClosedError);
  const connecting = client.connect();
  const second = await server.accept();
  assert.equal((await second.subscribed({recovered: true, position: "p0"})).position, "p0");
  await connecting;
  second.announce(1);
  await app.has(1);
});

nodeTest("where there is no WebSocket it says what to give", () => {
  const {WebSocket} = globalThis;
  delete globalThis.WebSocket;
  try {
    assert.throws(
      () => new Client("ws://localhost/ws"),
      (caught) => caught instanceof TypeError && caught.message.includes('import("ws")'),
    );
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

// Refused

test("3500 is told as refused, then as closed", async (server, app) => {
  const order = [];
  const client = app.client(server.url);
  client.addEventListener("refused", (event) => order.push(event.error));
  client.addEventListener("state", ({state}) => order.push(state));
  server.welcomes = [null];
  const connecting = client.connect();
  (await server.accept()).close(3500);
  await assert.rejects(connecting, (caught) => caught instanceof ClosedError && caught.code === 3500);
  const [, refused, state] = order;
  assert(refused instanceof ConnectError);
  assert.deepEqual([refused.code, refused.temporary, state, order.length], [3500, false, "closed", 3]);
});

for (const status of [401, 403, 404])
  test(`${status} is told with the status, and ends the client`, async (server, app) => {
    server.refusals = [status];
    const client = app.client(server.url);
    await assert.rejects(client.connect(), (caught) => caught instanceof ClosedError && caught.code === status);
    assert.equal(app.refused.length, 1);
    assert.deepEqual([app.refused[0].status, app.refused[0].temporary], [status, false]);
    assert.match(app.refused[0].message, new RegExp(`${status}: `));
    assert.equal(app.waits.length, 0);
  });

test("what other requests to its address are answered does not count", async (server, app) => {
  const {server: http} = server;
  const [upgrade] = http.listeners("upgrade");
  const dials = [];
  let dialled = () => {};
  const dial = async () => {
    while (dials.length === 0) await new Promise((resolve) => (dialled = resolve));
    return dials.shift();
  };
  http.removeListener("upgrade", upgrade);
  http.on("upgrade", (...asked) => (dials.push(asked), dialled()));
  http.on("request", (_, response) => response.writeHead(426, {Connection: "close"}).end());
  const client = app.client(server.url);
  const connecting = client.connect();
  const [, lost] = await dial();
  const other = new Client(server.url);
  const refused = other.connect();
  const [, refusing] = await dial();
  assert.equal((await fetch(server.url.replace("ws:", "http:"))).status, 426);
  refusing.end("HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  await assert.rejects(refused, (caught) => caught instanceof ClosedError && caught.code === 403);
  lost.destroy();
  const next = await dial();
  assert.deepEqual(
    app.refused.map(({status, temporary}) => [status, temporary]),
    [[undefined, true]],
  );
  assert.equal((await fetch(server.url.replace("ws:", "http:"))).status, 426);
  upgrade(...next);
  const peer = await server.accept();
  await connecting;
  peer.cut();
  upgrade(...(await dial()));
  await server.accept();
  await app.until(() => app.states.at(-1) === "open");
  assert.equal(app.refused.length, 1);
});

test("503 is told once a try, and it goes on as the server asks", async (server, app) => {
  server.refusals = ["503", "503"];
  server.retryAfter = 3;
  await opened(server, app);
  assert.deepEqual(
    app.refused.map(({status, temporary}) => [status, temporary]),
    [
      [503, true],
      [503, true],
    ],
  );
  assert.deepEqual(app.waits, [4000, 5000]);
});

test("nobody there is told, and it goes on", async (server, app) => {
  server.stop();
  const client = app.client(server.url);
  client.connect();
  await app.until(() => app.refused.length === 2);
  assert.deepEqual(
    app.refused.map(({status, temporary}) => [status, temporary]),
    [
      [undefined, true],
      [undefined, true],
    ],
  );
  assert.match(app.refused[0].message, /nobody is there/);
});

test("what the browser blocks is told, and tried slowly", async (server, app) => {
  class Blocked {
    constructor() {
      throw new Error("The operation is insecure.");
    }
  }
  const client = app.client("ws://hub.example.com/ws", {WebSocket: Blocked});
  client.connect();
  await app.until(() => app.refused.length === 3);
  assert.notEqual(client.state, "closed");
  assert(app.refused.every((caught) => caught instanceof ConnectError && caught.temporary));
  assert.match(app.refused[0].message, /connect-src.*ws:\/\/hub\.example\.com/);
  assert.deepEqual(app.waits.slice(0, 2), [30_000, 30_000]);
});

/** Timers and sockets of a world where time passes only as the test says. */
class World {
  now = 0;
  timers = new Map();
  sockets = [];
  numbers = 0;

  set = (call, delay) => {
    this.numbers += 1;
    this.timers.set(this.numbers, {call, at: this.now + delay});
    return this.numbers;
  };

  clear = (number) => this.timers.delete(number);

  async pass(time) {
    const end = this.now + time;
    for (;;) {
      await turns();
      const due = [...this.timers].filter(([, {at}]) => at <= end).sort(([, one], [, other]) => one.at - other.at)[0];
      if (due === undefined) break;
      const [number, {call, at}] = due;
      this.timers.delete(number);
      this.now = at;
      call();
    }
    this.now = end;
  }
}

nodeTest("a page waits as long for a socket as a browser may hold it back", async () => {
  const world = new World();
  class HeldBack {
    constructor() {
      this.readyState = 0;
      world.sockets.push(this);
    }

    close() {
      this.readyState = 3;
    }
  }
  globalThis.document = new EventTarget();
  try {
    const client = new Client("ws://hub.example.com/ws", {WebSocket: HeldBack, now: () => world.now, timers: world, random: () => 1});
    client.connect();
    await world.pass(80_000); // 60 s held back, and 20 s to open
    assert.equal(world.sockets.length, 1);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 2);
    client.close();
  } finally {
    delete globalThis.document;
  }
});

// A page that wakes up

/** The page that the client is in. */
class Page extends EventTarget {
  visibilityState = "visible";
}

for (const kind of ["online", "pageshow", "visibilitychange", "resume"])
  test(`on ${kind} a dead socket is found and replaced at once`, async (server, app) => {
    const page = new Page();
    const listening = {addEventListener: globalThis.addEventListener, removeEventListener: globalThis.removeEventListener};
    globalThis.document = page;
    for (const name of Object.keys(listening)) globalThis[name] = page[name].bind(page);
    try {
      const timers = {set: setTimeout, clear: clearTimeout};
      const [client, first] = await opened(server, app, {timers, requestTimeout: 10_000, silence: 60_000});
      await subscribed(first, client, "news", "1", {position: "p0"});
      const began = performance.now();
      page.dispatchEvent(new Event(kind));
      assert.equal((await first.heard()).type, "getInfo"); // and nobody answers
      page.dispatchEvent(new Event(kind));
      const second = await server.accept();
      await second.subscribed({recovered: true, position: "p0"});
      second.announce(1);
      await app.has(1);
      assert(performance.now() - began < 3000);
      assert.equal(first.messages.items.length, 0); // it was asked once
    } finally {
      app.it?.close();
      delete globalThis.document;
      Object.assign(globalThis, listening);
    }
  });

test("offline is told at once, and taken back by a server that answers", async (server, app) => {
  const page = new Page();
  const listening = {addEventListener: globalThis.addEventListener, removeEventListener: globalThis.removeEventListener};
  for (const name of Object.keys(listening)) globalThis[name] = page[name].bind(page);
  try {
    const timers = {set: setTimeout, clear: clearTimeout};
    const [client, first] = await opened(server, app, {timers, requestTimeout: 10_000, silence: 60_000});
    page.dispatchEvent(new Event("offline"));
    assert.equal(client.state, "waiting");
    const {ackId} = await first.heard();
    first.say({type: "getInfo", ackId});
    await app.until(() => client.state === "open");
  } finally {
    app.it?.close();
    Object.assign(globalThis, listening);
  }
});

// Handles

test("two handles of one subscription: the last to leave leaves", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const [one, other] = [client.channel("news"), client.channel("news")];
  const seen = [];
  one.on("announce", ({message}) => seen.push(["one", message.payload]));
  const stop = other.on("announce", ({message}) => seen.push(["other", message.payload]));
  const asking = Promise.all([one.subscribe("today"), other.subscribe("today")]);
  await peer.subscribed();
  await peer.subscribed();
  await asking;
  assert.equal((await one.unsubscribe("today")).removedConnectionCount, 0);
  await one.unsubscribe("today"); // it had left
  peer.announce(1, {subId: "today"});
  await app.has(1);
  assert.deepEqual(seen, [["other", 1]]);
  stop();
  peer.announce(2, {subId: "today"});
  await app.has(1, 2);
  assert.equal(seen.length, 1);
  const leaving = other.close();
  const request = await peer.heard();
  assert.deepEqual([request.type, request.channel, request.subId], ["unsubscribe", "news", undefined]);
  peer.acknowledge(request, {removedConnectionCount: 1});
  assert.equal((await leaving).removedConnectionCount, 1);
});

test("a handle gets what it asked for, and no more", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const handle = client.channel("news");
  const seen = [];
  handle.on("announce", ({message}) => seen.push(message.payload));
  handle.on("note", ({message}) => seen.push(`note ${message.payload}`));
  const asking = handle.subscribe();
  assert.equal((await peer.subscribed()).subId, "default");
  await asking;
  peer.announce(1);
  peer.announce(2, {subId: "default"});
  peer.announce(3, {subId: "other"});
  peer.announce(4, {channel: "weather"});
  peer.announce(5, {channel: undefined});
  peer.announce(6, {type: "note"});
  await app.has(1, 2, 3, 4, 5, 6);
  assert.deepEqual(seen, [1, 2, "note 6"]);
});

test("plain and counted wishes together: left when nobody wants it", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const handle = client.channel("news");
  const asking = Promise.all([client.subscribe("news", "1"), client.subscribe("news", "1"), handle.subscribe("1")]);
  for (let index = 0; index < 3; index += 1) await peer.subscribed();
  await asking;
  await client.unsubscribe("news", "1"); // once: plain calls are not counted
  await allReceived(peer, client);
  const leaving = handle.unsubscribe();
  peer.acknowledge(await peer.heard());
  await leaving;
  peer.cut();
  const second = await server.accept();
  await app.until(() => client.state === "open");
  await allReceived(second, client);
});

test("a handle is iterated, each message taken when the next is asked for", async (server, app) => {
  const [client, peer] = await opened(server, app, {ackTypes: ["announce"]});
  const handle = client.channel("news");
  const asking = handle.subscribe();
  await peer.subscribed({position: "p0"});
  peer.announce(1); // with the answer, before the iteration begins
  await asking;
  const seen = [];
  const reading = (async () => {
    for await (const {payload} of handle) {
      seen.push(payload);
      if (payload === 2) break;
    }
  })();
  assert.deepEqual(await peer.heard(), {type: "ack", id: "m1"});
  peer.announce(2);
  await reading;
  assert.deepEqual(seen, [1, 2]);
  await allReceived(peer, client); // and 2 is not acknowledged
  const iterator = handle[Symbol.asyncIterator]();
  const next = iterator.next();
  client.close();
  assert.deepEqual(await next, {value: undefined, done: true});
});

for (const [how, position] of [
  ["leaves", "p1"],
  ["is ended with its client", "p0"],
])
  test(`an iteration that ${how} leaves its channel at ${position}`, async (server, app) => {
    const [client, peer] = await opened(server, app);
    await subscribed(peer, client, "news", "other", {position: "p0"});
    const handle = client.channel("news");
    const asking = handle.subscribe();
    await peer.subscribed({position: "p0"});
    await asking;
    const iterator = handle[Symbol.asyncIterator]();
    peer.announce(1);
    assert.equal((await iterator.next()).value.payload, 1);
    if (how === "leaves") iterator.return();
    else client.close();
    await turns();
    assert.deepEqual({...client.positions}, {news: position});
  });

test("a handle that nobody iterates holds nothing back", async (server, app) => {
  const [client, peer] = await opened(server, app, {ackTypes: ["announce"]});
  const handle = client.channel("news");
  const asking = handle.subscribe();
  await peer.subscribed({position: "p0"});
  peer.announce(1);
  await asking;
  assert.deepEqual(await peer.heard(), {type: "ack", id: "m1"});
  peer.announce(2);
  assert.deepEqual(await peer.heard(), {type: "ack", id: "m2"});
});

test("a handle's subscription survives its socket, and hears how it went on", async (server, app) => {
  const [client, first] = await opened(server, app);
  const handle = client.channel("news");
  const heard = [];
  handle.on("gap", ({channel}) => heard.push(`gap ${channel}`));
  handle.on("recovered", ({channel}) => heard.push(`recovered ${channel}`));
  const asking = handle.subscribe("1");
  await first.subscribed({position: "p0"});
  await asking;
  for (const recovered of [true, false]) {
    (recovered ? first : server.last).cut();
    server.last = await server.accept();
    await server.last.subscribed({recovered, position: "p0"});
    await app.until(() => app.recoveries.includes(`${recovered ? "recovered" : "gap"} news`));
  }
  assert.deepEqual(heard, ["recovered news", "gap news"]);
});

test("a handle announces to its channel", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const saying = client.channel("news").announce({n: 1}, {subId: "1", type: "note"});
  const {type, channel, subId, payload, ackId, id} = await peer.heard();
  assert.deepEqual([type, channel, subId, payload], ["note", "news", "1", {n: 1}]);
  peer.say({type: "ack", ackId, id});
  await saying;
});

// Addresses

nodeTest("an address is relative to the page", async () => {
  const opened = [];
  class Noted {
    constructor(url) {
      opened.push(url);
    }

    close() {}
  }
  for (const [baseURI, url, address] of [
    ["https://app.example.com/deep/page", "/ws", "wss://app.example.com/ws"],
    ["http://localhost:8080/", "ws", "ws://localhost:8080/ws"],
    ["https://app.example.com/", "//hub.example.com/ws?a=b", "wss://hub.example.com/ws?a=b"],
  ]) {
    globalThis.document = Object.assign(new EventTarget(), {baseURI});
    try {
      const client = new Client(url, {WebSocket: Noted});
      client.connect();
      client.close();
      assert.equal(opened.pop(), address);
    } finally {
      delete globalThis.document;
    }
  }
  assert.throws(() => new Client("/ws", {WebSocket: Noted}), /no page/);
});
