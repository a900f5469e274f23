/** The rules of the browser client, each against a server that follows a script. */

import assert from "node:assert/strict";
import {test as nodeTest} from "node:test";

import {Client, ClosedError, RequestError, comesBack} from "../../app/static/client.js";
import {LIMIT, allReceived, opened, rotate, subscribed, test} from "./application.js";

nodeTest("close codes ask a client back, or do not", () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 3000, 3001, 3005, 3008, 3011, 3012, 3499, 4000]) assert(comesBack(code), code);
  for (const code of [1002, 1003, 1007, 1008, 1009, 3500, 3501, 3503, 3507, 3999]) assert(!comesBack(code), code);
});

for (const code of [1001, 1011, 1012, 1013, 3001, 3005, 3008, 3012])
  test(`after ${code} it opens a new socket and subscribes from where it was`, async (server, app) => {
    const [client, first] = await opened(server, app);
    await subscribed(first, client, "news", "1", {position: "p0"});
    await subscribed(first, client, "quiet", "1", {position: "p7"});
    first.announce(1);
    await app.has(1);
    first.close(code);
    const second = await server.accept();
    const asked = [];
    for (let index = 0; index < 2; index += 1) asked.push(await second.subscribed({recovered: true}));
    assert.deepEqual(asked.map(({channel, position}) => [channel, position]).sort(), [
      ["news", "p1"],
      ["quiet", "p7"],
    ]);
    second.announce(1);
    second.announce(2);
    await app.has(1, 2);
    assert.deepEqual(app.recoveries, ["gap null", "recovered news", "recovered quiet"]);
  });

for (const code of [1003, 1008, 1009, 3500, 3501, 3503, 3507])
  test(`after ${code} it stays away and says why`, async (server, app) => {
    const [client, peer] = await opened(server, app);
    peer.close(code);
    await app.until(() => client.state === "closed");
    await assert.rejects(client.getInfo(), (error) => error instanceof ClosedError && error.code === code);
    assert.equal(server.peers.items.length, 0);
  });

test("what the disconnect message says counts more than the code", async (server, app) => {
  const [client, peer] = await opened(server, app);
  peer.say({type: "disconnect", code: 3503, reason: "logged out", reconnect: false});
  await allReceived(peer, client);
  peer.cut();
  await app.until(() => client.state === "closed");
});

test("waits double up to a bound, and begin anew after a socket that lasted", async (server, app) => {
  let [, peer] = await opened(server, app);
  for (let count = 0; count < 7; count += 1) {
    peer.cut();
    peer = await server.accept();
  }
  assert.deepEqual(app.waits, [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
  await app.until(() => app.states.at(-1) === "open");
  app.time += 10_000;
  peer.cut();
  await server.accept();
  assert.deepEqual(app.waits.slice(7), [1000]);
});

for (const shown of [3001, 1012, 1002, 1006])
  test(`it stays away as long as the disconnect message wants, behind which it is shown ${shown}`, async (server, app) => {
    const [client, peer] = await opened(server, app);
    peer.say({type: "disconnect", code: 3001, reason: "shutdown", reconnect: true, retryAfterMs: 700});
    if (shown === 1006) {
      await allReceived(peer, client);
      peer.cut();
    } else peer.close(shown);
    await server.accept();
    assert.deepEqual(app.waits, [1700]);
  });

test("a refused upgrade is tried again where a moment's wait may cure it", async (server, app) => {
  server.refusals = [503, 429];
  await opened(server, app);
  assert.deepEqual(app.waits, [1000, 2000]);
});

test("the inbox goes on from the welcome and from what came without a channel", async (server, app) => {
  server.welcomes = [{position: "w1"}, {position: "w9", recovered: true}];
  const [, first] = await opened(server, app, {position: "kept"});
  assert.equal(first.query.get("position"), "kept");
  first.cut();
  let peer = await server.accept();
  assert.equal(peer.query.get("position"), "w1");
  await app.until(() => app.recoveries.length === 2);
  peer.cut(); // before the replay that is behind its welcome
  peer = await server.accept();
  assert.equal(peer.query.get("position"), "w1");
  peer.announce(2, {channel: undefined});
  await app.has(2);
  peer.cut();
  peer = await server.accept();
  assert.equal(peer.query.get("position"), "p2");
  await app.until(() => app.recoveries.length === 4);
  app.time += 60_000;
  peer.cut();
  assert.equal((await server.accept()).query.get("position"), "w9");
  assert.deepEqual(app.recoveries.slice(0, 2), ["gap null", "recovered null"]);
});

test("several subscriptions of a channel each go on from what was taken", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "news", "a");
  await subscribed(first, client, "news", "b", {position: "p1"});
  first.cut();
  const second = await server.accept();
  const requests = [await second.heard(), await second.heard()];
  second.announce(9);
  second.acknowledge(requests[0], {position: "p9", recovered: true});
  await app.has(9);
  second.cut();
  const third = await server.accept();
  assert.deepEqual([(await third.heard()).position, (await third.heard()).position], ["p9", "p1"]);
});

test("a subscription that is new begins where it was answered, while its channel is behind that", async (server, app) => {
  const [client, first] = await opened(server, app);
  let take;
  app.take = (payload) => (payload === 1 ? new Promise((resolve) => (take = resolve)) : undefined);
  await subscribed(first, client, "news", "a", {position: "p0"});
  first.announce(1, {subId: "a"});
  await app.has(1);
  await subscribed(first, client, "news", "b", {position: "p2"}); // 2 was before it
  assert.deepEqual({...client.positions}, {news: "p0"});
  first.cut();
  const second = await server.accept();
  const [a, b] = [await second.heard(), await second.heard()];
  assert.deepEqual([a.position, b.position], ["p0", "p2"]);
  take(); // the channel has come to the first answer, but what b has missed has not come
  second.announce(9, {subId: "a"});
  second.acknowledge(a, {recovered: true, position: "p9"});
  await app.has(1, 9);
  assert.deepEqual({...client.positions}, {news: "p0"});
  second.cut();
  const third = await server.accept();
  const again = [await third.heard(), await third.heard()];
  assert.deepEqual(
    again.map(({position}) => position),
    ["p9", "p2"],
  );
  for (const request of again) third.acknowledge(request, {recovered: true, position: "p9"});
  await allReceived(third, client);
  assert.deepEqual({...client.positions}, {news: "p9"});
});

for (const answer of [{recovered: false}, {}])
  test(`${JSON.stringify(answer)} is told as a gap, in its place among the messages`, async (server, app) => {
    const order = [];
    const client = app.client(server.url);
    client.addEventListener("message", ({message}) => order.push(message.payload));
    client.addEventListener("gap", ({channel}) => order.push(channel));
    const connecting = client.connect();
    const first = await server.accept();
    await connecting;
    await subscribed(first, client, "news", "1", {position: "p0"});
    first.announce(1);
    await app.has(1);
    first.cut();
    const second = await server.accept();
    await second.subscribed({position: "p5", ...answer});
    second.announce(6);
    await app.has(1, 6);
    assert.deepEqual(order, [1, null, "news", 6]);
    assert.deepEqual({...client.positions}, {news: "p6"});
  });

test("a position goes on over what is replayed and known", async (server, app) => {
  const [client, first] = await opened(server, app);
  let taken;
  app.take = () => new Promise((resolve) => (taken = resolve));
  await subscribed(first, client, "news", "1", {position: "p0"});
  first.announce(1);
  await app.has(1);
  first.cut();
  const second = await server.accept();
  assert.equal((await second.subscribed({position: "p0", recovered: true})).position, "p0");
  second.announce(1); // it is with the application still
  await allReceived(second, client);
  assert.deepEqual({...client.positions}, {news: "p0"});
  taken();
  await app.until(() => client.positions.news === "p1" || setImmediate(() => app.changed()) === null);
  assert.deepEqual(app.messages, [1]);
});

test("repeats are dropped, and other senders' messages with the same id are not", async (server, app) => {
  const [client, peer] = await opened(server, app);
  await subscribed(peer, client);
  for (const number of [1, 2, 1, 2, 3]) peer.announce(number);
  peer.announce(4, {id: "m1"});
  for (const payload of [5, 5]) peer.say({type: "announce", channel: "news", id: "x", sentDateTime: "t", payload});
  peer.say({type: "announce", channel: "news", id: "x", sentDateTime: "u", payload: 6});
  peer.announce(7, {pubsubId: "1", sentDateTime: "later"}); // of an emulator that was started anew
  await app.has(1, 2, 3, 4, 5, 6, 7);
});

test("one id to two addresses is two messages", async (server, app) => {
  const [client, peer] = await opened(server, app);
  for (const channel of ["news", "other"]) await subscribed(peer, client, channel);
  const asking = client.publish({type: "announce", channel: "elsewhere", payload: "mine", id: "m1"});
  const {ackId} = await peer.heard();
  peer.say({type: "ack", ackId, id: "m1"});
  await asking;
  const same = {id: "m1", sentDateTime: "t"};
  peer.say({type: "announce", channel: "news", payload: 1, ...same});
  peer.say({type: "announce", channel: "other", payload: 2, ...same});
  peer.say({type: "announce", channel: "news", subId: "today", payload: 3, ...same});
  peer.say({type: "todo", channel: "news", payload: 4, ...same});
  peer.say({type: "announce", channel: "elsewhere", payload: "mine", ...same});
  peer.say({type: "announce", channel: "news", payload: 5});
  await app.has(1, 2, 3, 4, 5);
});

test("its own announce does not come back on a new socket", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client);
  const asking = client.announce("news", "mine");
  const {ackId, id} = await first.heard();
  first.say({type: "ack", ackId, id, pubsubId: "1001"});
  assert.equal((await asking).pubsubId, "1001");
  first.cut();
  const second = await server.accept();
  await second.subscribed();
  second.announce(1, {id});
  second.announce(2);
  await app.has(2);
});

test("what was taken is acknowledged, and again when its retry crossed that", async (server, app) => {
  const [client, peer] = await opened(server, app, {ackTypes: ["announce"]});
  let goOn;
  app.take = () => new Promise((resolve) => (goOn = resolve));
  await subscribed(peer, client);
  peer.announce(1);
  await allReceived(peer, client); // and nothing is acknowledged before
  goOn();
  assert.deepEqual(await peer.heard(), {type: "ack", id: "m1"});
  peer.announce(1, {isRetry: true});
  assert.deepEqual(await peer.heard(), {type: "ack", id: "m1"});
  await app.has(1);
});

test("what the application refused holds the position and is handed over again", async (server, app) => {
  const [client, first] = await opened(server, app, {ackTypes: ["announce"]});
  let failsOn = 2;
  app.take = async (payload) => {
    if (payload === failsOn) throw new Error("not now");
  };
  await subscribed(first, client, "news", "1", {position: "p0"});
  for (const number of [1, 2, 3]) first.announce(number);
  assert.deepEqual([(await first.heard()).id, (await first.heard()).id], ["m1", "m3"]);
  assert.deepEqual({...client.positions}, {news: "p1"});
  failsOn = 0;
  first.cut();
  const second = await server.accept();
  const request = await second.heard();
  assert.equal(request.position, "p1");
  second.announce(2);
  second.announce(3);
  second.acknowledge(request, {recovered: true, position: "p3"});
  assert.deepEqual(new Set([(await second.heard()).id, (await second.heard()).id]), new Set(["m2", "m3"]));
  await app.has(1, 2, 3, 2);
  assert.deepEqual({...client.positions}, {news: "p3"});
});

for (const answer of [{recovered: true}, {recovered: false}])
  test(`what the application failed on is not taken, whatever its type: ${JSON.stringify(answer)}`, async (server, app) => {
    const [client, first] = await opened(server, app);
    let fails = true;
    app.take = async (payload) => {
      if (fails && payload === 2) throw new Error("not now");
    };
    await subscribed(first, client, "news", "1", {position: "p0"});
    for (const number of [1, 2, 3]) first.announce(number);
    await allReceived(first, client);
    assert.deepEqual({...client.positions}, {news: "p1"});
    first.cut();
    const second = await server.accept();
    const request = await second.heard();
    assert.equal(request.position, "p1");
    if (answer.recovered) {
      second.announce(2); // and it fails again
      second.announce(3);
    }
    second.acknowledge(request, {position: "p3", ...answer});
    await allReceived(second, client);
    assert.deepEqual({...client.positions}, {news: answer.recovered ? "p1" : "p3"});
    if (!answer.recovered) return; // it does not come again
    fails = false;
    second.cut();
    const third = await server.accept();
    await third.subscribed({recovered: true, position: "p1"});
    third.announce(2);
    third.announce(3);
    await app.has(1, 2, 3, 2, 2);
    await allReceived(third, client);
    assert.deepEqual({...client.positions}, {news: "p3"});
  });

test("a rotation loses and doubles nothing and keeps the order", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client, "news", "1", {position: "p0"});
  old.announce(1);
  await app.has(1);
  rotate(old);
  const next = await server.accept();
  const request = await next.heard();
  assert.equal(request.position, "p1");
  for (const number of [2, 3, 4]) next.announce(number);
  old.announce(2);
  await app.has(1, 2);
  old.announce(3);
  await app.has(1, 2, 3);
  next.acknowledge(request, {recovered: true});
  assert.equal(await old.ended, 1000);
  next.announce(5);
  await app.has(1, 2, 3, 4, 5);
  assert(!app.states.includes("waiting"));
});

test("while a socket is replaced requests go through", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client);
  rotate(old);
  const next = await server.accept();
  const subscribe = await next.heard();
  const publishing = client.publish({type: "note", channel: "news"});
  const {ackId, id} = await old.heard();
  next.acknowledge(subscribe);
  old.say({type: "ack", ackId, id});
  assert.equal((await publishing).id, id);
  assert.equal(await old.ended, 1000);
});

test("a new socket that is cut before it is ready is tried again", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client, "news", "1", {position: "p0"});
  rotate(old);
  let next = await server.accept();
  next.announce(1);
  next.cut();
  next = await server.accept();
  const request = await next.heard();
  assert.equal(request.position, "p0");
  next.announce(1);
  next.acknowledge(request, {recovered: true});
  await app.has(1);
});

test("more than can be held lets the old socket go", async (server, app) => {
  const [client, old] = await opened(server, app);
  await subscribed(old, client, "news", "1", {position: "p0"});
  rotate(old);
  const next = await server.accept();
  const request = await next.heard();
  for (let number = 1; number <= 1500; number += 1) next.announce(number);
  next.acknowledge(request, {recovered: true});
  await app.has(...Array.from({length: 1500}, (_, index) => index + 1));
});

test("an application that is behind closes the socket and goes on from its position", async (server, app) => {
  const [client, first] = await opened(server, app, {maxUntaken: 4});
  const working = [];
  app.take = () => new Promise((resolve) => working.push(resolve));
  await subscribed(first, client, "news", "1", {position: "p0"});
  for (const number of [1, 2, 3, 4, 5, 6]) first.announce(number);
  assert.equal(await first.ended, 1000);
  await app.has(1, 2, 3, 4);
  assert.equal(server.peers.items.length, 0);
  for (const done of working) done();
  const second = await server.accept();
  const request = await second.heard();
  assert.equal(request.position, "p4");
});

test("an error is raised with what it says", async (server, app) => {
  const [client, first] = await opened(server, app);
  const asking = client.subscribe("news", "1");
  const {ackId} = await first.heard();
  first.say({type: "error", ackId, code: "permission_denied", value: "not for you", temporary: false});
  await assert.rejects(asking, (error) => error instanceof RequestError && error.code === "permission_denied" && !error.temporary);
  first.cut();
  const second = await server.accept();
  await app.until(() => client.state === "open");
  await allReceived(second, client); // it does not subscribe again
});

test("a temporary error is tried again with the same id", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const asking = client.publish({type: "notification", userTag: "ann", payload: [1]}, {attempts: 2});
  const first = await peer.heard();
  const error = {type: "error", code: "unavailable", value: "later", temporary: true};
  peer.say({...error, ackId: first.ackId});
  const second = await peer.heard();
  assert.equal(second.id, first.id);
  peer.say({...error, ackId: second.ackId});
  await assert.rejects(asking, /unavailable/);
});

test("a subscribe outlives the socket that it was sent on", async (server, app) => {
  const [client, first] = await opened(server, app);
  const asking = client.subscribe("news", "1");
  await first.heard();
  first.cut();
  const second = await server.accept();
  await second.subscribed({numConnections: 1}); // and no second time
  assert.equal((await asking).numConnections, 1);
});

test("a subscription that is refused after a reconnect is told of", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client);
  first.cut();
  const second = await server.accept();
  const {ackId} = await second.heard();
  second.say({type: "error", ackId, code: "permission_denied", value: "no", temporary: false});
  await app.until(() => app.refused.length === 1);
  assert.equal(app.refused[0].request.channel, "news");
});

test("unsubscribed is not subscribed again", async (server, app) => {
  const [client, first] = await opened(server, app);
  await subscribed(first, client, "a");
  await subscribed(first, client, "b");
  const asking = client.unsubscribe("a");
  first.acknowledge(await first.heard(), {removedConnectionCount: 1});
  assert.equal((await asking).removedConnectionCount, 1);
  first.cut();
  const second = await server.accept();
  assert.equal((await second.subscribed()).channel, "b");
});

test("a server that is silent is asked, and left when it does not answer", async (server, app) => {
  const [, first] = await opened(server, app);
  app.time += LIMIT;
  app.runOut();
  assert.equal((await first.heard()).type, "getInfo");
  app.runOut();
  await server.accept();
});

test("a frame that is no message is left out", async (server, app) => {
  const [, peer] = await opened(server, app);
  const {warn} = console;
  console.warn = () => {};
  for (const text of ["{", "[]", "1", "null"]) peer.text(text);
  peer.announce(1);
  await app.has(1);
  console.warn = warn;
});

nodeTest("what is no address is told at once", () => {
  assert.throws(() => new Client("http://localhost/ws", {WebSocket: class {}}), TypeError);
});

test("a ping is none of the application's", async (server, app) => {
  const [, peer] = await opened(server, app);
  peer.say({type: "ping", id: "p1", sentDateTime: "2026-01-01T00:00:00.000Z"});
  peer.announce(1);
  await app.has(1);
});

test("no answer is an error too", async (server, app) => {
  const [client, peer] = await opened(server, app);
  const asking = client.getInfo();
  await peer.heard();
  app.runOut();
  await assert.rejects(asking, (error) => error instanceof RequestError && error.code === "timeout" && error.temporary);
});
