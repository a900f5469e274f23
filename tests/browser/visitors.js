/**
 * Visitors of rooms: clients in one page, each with its own socket, that enter and leave rooms all the time. They note whatever a client
 * must not do. Messages move them, and sockets that are replaced; no time does.
 *
 * Messages are numbered in each room, from 1 on, and say when the one before was begun: {number, previous}.
 */

import {Client, RequestError} from "/client.js";

const PATIENCE = 20_000; // ms for anything that has to come
const LATE = 100; // ms by which the clocks of a page and of the publisher may differ
const STAY = [1, 8]; // messages of a room that a visitor waits for before it leaves
const AWAY = [1, 5]; // messages of the hall between two rooms
const IN_ONE_TURN = 0.25; // the part of enterings and leavings that are taken back, or done again, before they are answered
const TWICE = 0.3; // the part of the stays with two subscriptions of the room
const HURRIED = 0.5; // the part of them that are done as soon as there is not one open socket, or more than one
const CHECKED = 0.5; // the part of enterings and leavings after which the hub is asked

/** A generator of chance with a seed (mulberry32). @param {number} seed @returns {() => number} */
function chanceOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A room as one visitor sees it: `in` is where messages have to come without a hole, `out` where none may. */
class Room {
  constructor(name) {
    this.name = name;
    /** @type {"out" | "entering" | "in" | "leaving"} */
    this.state = "out";
    this.subIds = [];
    this.last = 0; // of all stays: what comes twice comes behind it
    this.heard = 0; // in this stay
    this.since = Infinity; // when this stay was confirmed
    this.isWhole = false; // each message of this stay has to follow the one before
  }
}

class Visitor {
  #rooms = new Map();
  #chance;
  #report;
  #sockets = new Set();
  #waiting = new Set();
  #isHalted = true;

  /** Walks that go on side by side, each in rooms of its own. */
  constructor(name, url, hall, walks, chance, report) {
    this.name = name;
    this.#chance = chance;
    this.#report = report;
    for (const room of [hall, ...walks.flat()]) this.#rooms.set(room, new Room(room));
    this.hall = this.#rooms.get(hall);
    this.walks = walks.map((rooms) => rooms.map((room) => this.#rooms.get(room)));
    this.client = new Client(`${url}?who=${name}`, {firstWait: 50, longestWait: 500, WebSocket: this.#socketClass()});
    this.client.addEventListener("message", ({message}) => this.#hear(message));
    this.client.addEventListener("recovered", ({channel}) => (report.recovered += channel === null ? 0 : 1));
    this.client.addEventListener("gap", ({channel}) => this.#wrong(`a gap in ${channel ?? "the inbox"}`));
    this.client.addEventListener("refused", ({error}) => {
      if (error instanceof RequestError) this.#wrong(`refused: ${error}`); // else an instance that is about to stop
    });
    this.client.addEventListener("state", ({state, error}) => {
      if (state === "closed") this.#wrong(`ended: ${error}`);
    });
  }

  #socketClass() {
    const sockets = this.#sockets;
    const report = this.#report;
    const changed = () => setTimeout(() => this.#look()); // behind the client, which hears of it too
    return class extends WebSocket {
      constructor(url) {
        super(url);
        sockets.add(this);
        for (const type of ["open", "message", "close"]) this.addEventListener(type, changed);
        this.addEventListener("close", () => sockets.delete(this));
        this.addEventListener("open", () => (report.sockets += 1));
        this.addEventListener("message", ({data}) => {
          if (data.includes('"disconnect"') && JSON.parse(data).code === 3011) report.rotations += 1;
        });
      }
    };
  }

  #wrong(what) {
    const here = [...this.#sockets].map(({readyState}) => readyState);
    this.#report.wrong.push(`${Math.round(performance.now())} ${this.name}, ${this.client.state} [${here}]: ${what}`);
  }

  /** Wait until it holds, for messages, or halts; answers whether it did in time. @param {() => boolean} holds @param {string} what */
  #until(holds, what) {
    if (holds()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const done = (came) => {
        this.#waiting.delete(look);
        clearTimeout(timer);
        if (!came) this.#wrong(`never ${what}`);
        resolve(came);
      };
      const look = () => holds() && done(true);
      const timer = setTimeout(() => done(false), PATIENCE);
      this.#waiting.add(look);
    });
  }

  #look() {
    for (const look of [...this.#waiting]) look();
  }

  #hear({channel, payload: {number, previous}}) {
    const room = this.#rooms.get(channel);
    this.#report.messages += 1;
    const what = `${number} of ${channel}`;
    if (room.state === "out") this.#wrong(`${what} came after it was left`);
    if (number <= room.last) this.#wrong(`${what} came after ${room.last}: doubled, or out of order`);
    else if (room.isWhole && number !== room.last + 1) this.#wrong(`lost: ${what} came after ${room.last}`);
    else if (!room.isWhole && room.state === "in" && previous > room.since + LATE) this.#wrong(`lost: what came before ${what}`);
    room.isWhole = room.state === "in";
    room.last = Math.max(room.last, number);
    room.heard += 1;
    this.#look();
  }

  // Enter and leave

  #drawn([least, most]) {
    return least + Math.floor(this.#chance() * (most - least + 1));
  }

  async #asked(what, promise) {
    try {
      return await promise;
    } catch (error) {
      this.#wrong(`${what}: ${error}`);
    }
  }

  async begin() {
    await this.client.connect();
    this.hall.subIds = ["1"];
    await this.#enter(this.hall);
  }

  async #enter(room) {
    room.state = "entering";
    room.heard = 0;
    room.isWhole = false;
    await Promise.all(room.subIds.map((subId) => this.#asked(`entering ${room.name}`, this.client.subscribe(room.name, subId))));
    room.since = Date.now();
    room.state = "in";
    this.#report.stays += 1;
  }

  #leave(room) {
    room.state = "leaving";
    room.isWhole = false;
    return this.client.unsubscribe(room.name, room.subIds.length === 1 ? room.subIds[0] : undefined);
  }

  async #passBy(room) {
    const entering = room.subIds.map((subId) => this.client.subscribe(room.name, subId));
    await this.#asked(`passing by ${room.name}`, this.#leave(room));
    for (const {reason} of await Promise.allSettled(entering)) {
      if (reason !== undefined && reason.code !== "unsubscribed") this.#wrong(`passing by ${room.name}: ${reason}`);
    }
    room.state = "out";
    this.#report.passed += 1;
  }

  async #leaveForGood(room) {
    await this.#asked(`leaving ${room.name}`, this.#leave(room));
    room.state = "out";
  }

  async #leaveAndEnter(room) {
    const leaving = this.#leave(room);
    await Promise.all([this.#asked(`leaving ${room.name}`, leaving), this.#enter(room)]);
  }

  /** Wait for so many messages of a room, or for a socket to be replaced; answers whether to go on. */
  async #pause(room, many) {
    const hurries = this.#chance() < HURRIED;
    const what = `${many} messages more of ${room.name}`;
    const until = room.heard + many;
    await this.#until(() => this.#isHalted || room.heard >= until || (hurries && this.#only() === undefined), what);
    return !this.#isHalted;
  }

  async #walk(rooms) {
    let inside = rooms.find(({state}) => state === "in");
    while (!this.#isHalted) {
      if (inside !== undefined) {
        if (!(await this.#pause(inside, this.#drawn(STAY)))) return;
        if (this.#chance() < IN_ONE_TURN) await this.#leaveAndEnter(inside);
        else {
          await this.#leaveForGood(inside);
          inside = undefined;
        }
      } else {
        if (!(await this.#pause(this.hall, this.#drawn(AWAY)))) return;
        const room = rooms[Math.floor(this.#chance() * rooms.length)];
        room.subIds = this.#chance() < TWICE ? ["1", "2"] : ["1"];
        if (this.#chance() < IN_ONE_TURN) await this.#passBy(room);
        else {
          await this.#enter(room);
          inside = room;
        }
      }
      if (this.#chance() < CHECKED) await this.check(rooms);
    }
  }

  /** Enter and leave until `halt`. */
  async wander() {
    this.#isHalted = false;
    await Promise.all(this.walks.map((rooms) => this.#walk(rooms)));
  }

  halt() {
    this.#isHalted = true;
    this.#look();
  }

  // What must hold

  /** The hub has of these rooms just what this client says, on the only socket that there is. They may not be entered or left now. */
  async check(rooms = [...this.#rooms.values()]) {
    const began = performance.now();
    const wanted = JSON.stringify(rooms.filter(({state}) => state === "in").map(({name, subIds}) => [name, subIds]));
    while (performance.now() - began < PATIENCE) {
      const before = this.#only();
      const {channelInfo} = (await this.#asked("asking the hub", this.client.getInfo({detail: true}))) ?? {};
      if (channelInfo !== undefined && before !== undefined && this.#only() === before) {
        const {channels} = channelInfo;
        const found = rooms.filter(({name}) => name in channels).map(({name}) => [name, channels[name].map(({subId}) => subId).sort()]);
        if (JSON.stringify(found) !== wanted) this.#wrong(`the hub has ${JSON.stringify(found)}, and wanted is ${wanted}`);
        this.#report.checks += 1;
        return;
      }
      await new Promise((done) => setTimeout(done, 10)); // a socket is being replaced
    }
    this.#wrong("there was never one socket alone");
  }

  #only() {
    const there = [...this.#sockets].filter(({readyState}) => readyState <= WebSocket.OPEN);
    return there.length === 1 && this.client.state === "open" ? there[0] : undefined;
  }

  /** The rooms that it is in; returns when the last message of each has come. @param {Record<string, number>} latest */
  async settle(latest) {
    const inside = [...this.#rooms.values()].filter(({state}) => state === "in");
    await Promise.all(inside.map((room) => this.#until(() => room.last === latest[room.name], `${latest[room.name]} of ${room.name}`)));
    await this.check();
    return inside.map(({name, subIds}) => [name, subIds]);
  }

  close() {
    this.client.close();
  }
}

/** Do what the test asks for, one thing after the other, until it ends. */
export async function serve({url, seed, names, hall, rooms}) {
  const chance = chanceOf(seed);
  const report = {wrong: [], sockets: 0, rotations: 0, stays: 0, passed: 0, messages: 0, checks: 0, recovered: 0};
  const half = Math.ceil(rooms.length / 2);
  const walks = [rooms.slice(0, half), rooms.slice(half)];
  const visitors = names.map((name) => new Visitor(name, url, hall, walks, chance, report));
  let wandering = Promise.resolve([]);
  const orders = {
    begin: () => Promise.all(visitors.map((visitor) => visitor.begin())),
    wander: () => void (wandering = Promise.all(visitors.map((visitor) => visitor.wander()))),
    halt: () => {
      for (const visitor of visitors) visitor.halt();
      return wandering;
    },
    settle: async (latest) => (await Promise.all(visitors.map((visitor) => visitor.settle(latest)))).flat(),
    wake: () => void globalThis.dispatchEvent(new Event("online")),
    report: () => report,
    end: () => visitors.forEach((visitor) => visitor.close()),
  };
  for (let told = null; ; ) {
    const {order, given} = await (await fetch("/next", {method: "POST", body: JSON.stringify(told)})).json();
    told = {done: order, answer: (await orders[order](given)) ?? null};
    if (order === "end") return told;
  }
}
