/**
 * The browser client: it comes back by itself, and says where it missed something.
 *
 *     import {Client} from "https://hub.example.com/client.js";
 *     const client = new Client("wss://hub.example.com/ws");
 *     client.addEventListener("message", ({message}) => console.log(message.payload));
 *     client.addEventListener("gap", ({channel}) => fetchAgain(channel));
 *     await client.connect();
 *     await client.subscribe("news", "today");
 *
 * Events: `message` (MessageEvent), `recovered` and `gap` (RecoveryEvent), `state` (StateEvent), `refused` (RefusedEvent).
 *
 * Where to go on: a position moves to a message only when that message and all before it on its channel were taken, so what
 * is asked for again is never less than what may be missing; what comes twice is dropped.
 *
 * One order: while a socket is replaced (close code 3011), what the new one brings is held until the old one is closed. The
 * new one's stream begins at a position that the old one has passed, so what the old one did not bring any more stands,
 * in order, among what the new one brings. Without recovery there is no such proof, and `gap` says so.
 *
 * Nothing unbounded: a page cannot stop reading a socket, so a client whose application is behind by `maxUntaken` messages
 * closes it, and goes on from its position when half of them are taken.
 *
 * It needs nothing but a WebSocket class, which may be handed in (Node has none of its own before 22).
 */

/** @typedef {{type: string, channel?: string, subId?: string, userTag?: string, payload?: any, id?: string,
 *   sentDateTime?: string, pubsubId?: string, position?: string, [property: string]: any}} Message */
/** @typedef {"connecting" | "open" | "waiting" | "closed"} State `waiting` is between two sockets, `closed` is for ever. */
/** @typedef {Object} Options All times are in milliseconds.
 * @property {string[]} [ackTypes] Types that the server wants acknowledged.
 * @property {string} [position] Where the user's inbox was left: `inboxPosition` of an earlier client.
 * @property {number} [requestTimeout] For the answer to a request, and for a new socket to be ready.
 * @property {number} [firstWait] Upper end of the first random wait before a socket is opened again; it doubles ...
 * @property {number} [longestWait] ... up to this.
 * @property {number} [silence] A server that said nothing for so long is asked whether it is there.
 * @property {number} [maxUntaken] Messages that the application may have on its hands (see MessageEvent.waitUntil).
 * @property {typeof WebSocket} [WebSocket] The class of sockets.
 * @property {() => number} [random] For tests, as are the next two.
 * @property {() => number} [now]
 * @property {{set: (call: () => void, delay: number) => any, clear: (timer: any) => void}} [timers]
 */

const REMEMBERED = 10_000; // messages by which repeats are known, and that may wait behind one that was not taken
const MAX_HELD = 1000; // messages of a new socket while the old one is still there
const MAX_REQUESTS = 1000; // that may await their answer; another is refused
const PROVEN = 10_000; // ms that a socket has to last before the waits begin with the first again
const LONGEST_RETRY_AFTER = 600_000;
const REPLAY_OVER = 60_000; // ms without a message after which nothing of a replay can still be on its way
const FINISH_TIMEOUT = 5_000; // ms for what a socket that is being replaced still owes, and for its closing
const ROTATION = 3011;
const STAY_AWAY = new Set([1002, 1003, 1007, 1008, 1009, 1010]); // the client itself is at fault, and would be again
const NOT_MESSAGES = new Set(["ack", "error", "welcome", "subscribe", "unsubscribe", "getInfo", "getInfoDetail"]);

/** Whether a client opens a new socket after this close code (1006: the connection just ended). @param {number} code */
export function comesBack(code) {
  return !STAY_AWAY.has(code) && !(code >= 3500 && code < 4000);
}

/** A request was refused, or its answer did not come (`connection_lost`, `timeout` and `too_many` are the client's own codes).
 * After a `temporary` error the same message may succeed later. */
export class RequestError extends Error {
  /** @param {string} code @param {string} value @param {boolean} temporary @param {Message} [request] */
  constructor(code, value, temporary, request) {
    super(`${code}: ${value}`);
    this.name = "RequestError";
    this.code = code;
    this.value = value;
    this.temporary = temporary;
    this.request = request;
  }
}

/** The client has ended and does not come back; `code` is the close code. */
export class ClosedError extends Error {
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(reason ? `${code}: ${reason}` : String(code));
    this.name = "ClosedError";
    this.code = code;
    this.reason = reason;
  }
}

/** A message. It counts as taken when its listeners have returned and all that they gave to `waitUntil` is fulfilled; then
 * it is acknowledged, if its type is one of `ackTypes` or it came with `isRetry`. If one of those is rejected, a message that
 * awaits an acknowledgement is handed over again when it comes again. */
export class MessageEvent extends Event {
  /** @param {Message} message */
  constructor(message) {
    super("message");
    this.message = message;
    /** @type {Promise<any>[]} */
    this.awaited = [];
  }

  /** @param {Promise<any>} promise */
  waitUntil(promise) {
    this.awaited.push(promise);
  }
}

/** How a subscription went on after a new socket; `channel` is null for the user's inbox and what goes to everyone. After a
 * `gap` something may be missing, and the application has to fetch its state anew. */
export class RecoveryEvent extends Event {
  /** @param {string | null} channel @param {boolean} recovered */
  constructor(channel, recovered) {
    super(recovered ? "recovered" : "gap");
    this.channel = channel;
  }
}

/** The client does something else now; with `closed` comes why. */
export class StateEvent extends Event {
  /** @param {State} state @param {ClosedError} [error] */
  constructor(state, error) {
    super("state");
    this.state = state;
    this.error = error;
  }
}

/** An error that answers no awaited request, such as a subscription that was refused after a reconnect. */
export class RefusedEvent extends Event {
  /** @param {RequestError} error */
  constructor(error) {
    super("refused");
    this.error = error;
  }
}

const NOT_YET = 0;
const REFUSED = 1; // the application failed on it: when it comes again it is handed over again
const YES = 2;

/** `repeats`: the same message as it came first; when that is taken, so is this.
 * @typedef {{position?: string, id?: string, stream?: Stream, wantsAck: boolean, taken: number, repeats?: Delivery}} Delivery */

/** @param {Delivery} delivery */
const isTaken = ({taken, repeats}) => taken === YES || repeats?.taken === YES;

/** The position of one channel, or of the inbox: the end of what was taken without anything left out before it. */
class Stream {
  /** @param {string} [position] */
  constructor(position) {
    this.position = position;
    /** @type {Set<string>} */
    this.subIds = new Set();
    /** Subscriptions that have yet to be answered. Until the last is, `resumedFrom` stays what is asked for: each subId is
     * replayed on its own, and the first to be done may be ahead of what the next has to bring. @type {Set<string>} */
    this.resuming = new Set();
    this.allRecovered = true;
    /** @type {string | undefined} */
    this.resumedFrom = undefined;
    /** @type {Delivery[]} */
    this.ahead = [];
    /** @type {{position: string, since: number} | null} */
    this.later = null;
  }

  /** A message, or a position, that comes behind all that came before. @param {Delivery} delivery */
  note(delivery) {
    if (delivery.position === undefined) return;
    delivery.stream = this;
    this.later = null;
    this.ahead.push(delivery);
    if (this.ahead.length > REMEMBERED) this.ahead[0].taken = YES;
    this.advance();
  }

  /** A reply said that everything up to here was sent. @param {string} [position] */
  reached(position) {
    this.note({position, wantsAck: false, taken: YES});
  }

  /** ... or will have been when the replay behind it is over. @param {string | undefined} position @param {number} now */
  reachedAfterReplay(position, now) {
    this.later = position === undefined ? null : {position, since: now};
  }

  advance() {
    let taken = 0;
    while (taken < this.ahead.length && isTaken(this.ahead[taken])) taken += 1;
    if (taken === 0) return;
    this.position = this.ahead[taken - 1].position;
    this.ahead.splice(0, taken);
  }

  /** The position to go on from. @param {number} now */
  resume(now) {
    if (this.resuming.size > 0) return this.resumedFrom;
    if (this.later !== null && this.ahead.length === 0 && now - this.later.since >= REPLAY_OVER) {
      this.position = this.later.position;
      this.later = null;
    }
    return this.position;
  }

  /** A subscription is asked for from this position on. @param {string} subId @param {string} [position] */
  resumes(subId, position) {
    if (this.resuming.size === 0) {
      this.resumedFrom = position;
      this.allRecovered = true;
    }
    this.resuming.add(subId);
  }

  /** After a gap: what the application refused does not come again. */
  giveUpRefused() {
    for (const delivery of this.ahead) if (delivery.taken === REFUSED) delivery.taken = YES;
    this.advance();
  }
}

/** A promise that is fulfilled by `set`. */
class Flag {
  constructor() {
    this.isSet = false;
    /** @type {() => void} */
    this.set = () => {};
    /** @type {Promise<void>} */
    this.promise = new Promise((resolve) => {
      this.set = () => {
        this.isSet = true;
        resolve();
      };
    });
  }
}

/** @typedef {{message: Message, resumes: boolean, resolve: (answer: Message) => void, reject: (error: Error) => void}} Request */

/** A socket with what is awaited on it. `held` collects what came while its predecessor is still there. */
class Link {
  /** @param {WebSocket} socket @param {number} now @param {boolean} resumed @param {string | undefined} resumedFrom */
  constructor(socket, now, resumed, resumedFrom) {
    this.socket = socket;
    this.opened = now;
    this.heard = now;
    this.resumed = resumed;
    this.resumedFrom = resumedFrom;
    /** @type {Map<number, Request>} */
    this.requests = new Map();
    /** @type {[Message, Request | undefined][] | null} */
    this.held = null;
    /** @type {Message | null} */
    this.farewell = null;
    this.welcomed = new Flag();
    this.full = new Flag(); // it can hold no more
    this.decided = new Flag(); // all subscriptions are answered, or it ended, or it can hold no more
    this.leaving = new Flag(); // it ended, or is about to be replaced
    this.ended = new Flag();
    this.code = 1006;
    this.reason = "";
  }

  get rotates() {
    return this.farewell?.code === ROTATION && this.farewell.reconnect === true;
  }

  get comesBack() {
    const told = this.farewell?.reconnect;
    return typeof told === "boolean" ? told : comesBack(this.code);
  }
}

/** A client of the service. */
export class Client extends EventTarget {
  /** @type {State} */
  state = "waiting";
  /** What the server said when the latest socket was opened. @type {Message | null} */
  welcome = null;

  #url;
  #options;
  #ackTypes;
  /** @type {Map<string, Stream>} */
  #channels = new Map();
  #inbox;
  /** @type {Map<string, Delivery>} */
  #seen = new Map();
  /** Ids of our own announces: a new socket is another sender, and would be told what the old one said. @type {Map<string, true>} */
  #said = new Map();
  #untaken = 0;
  #roomAgain = new Flag();
  #numbers = 0;
  /** @type {Set<Link>} */
  #links = new Set();
  /** The link that takes requests. @type {Link | null} */
  #link = null;
  #changed = new Flag();
  #tries = 0;
  #retryAfter = 0;
  /** @type {() => void} */
  #wake = () => {};
  /** @type {ClosedError | null} */
  #end = null;
  #started = false;

  /** @param {string | URL} url `ws:` or `wss:` @param {Options} [options] */
  constructor(url, options = {}) {
    super();
    this.#url = new URL(url);
    if (this.#url.protocol !== "ws:" && this.#url.protocol !== "wss:") throw new TypeError(`not the URL of a WebSocket: ${url}`);
    this.#options = {
      requestTimeout: 10_000,
      firstWait: 1_000,
      longestWait: 30_000,
      silence: 60_000,
      maxUntaken: 1_000,
      WebSocket: globalThis.WebSocket,
      random: Math.random,
      now: () => performance.now(),
      timers: {
        set: (/** @type {() => void} */ call, /** @type {number} */ delay) => setTimeout(call, delay),
        clear: (/** @type {any} */ timer) => clearTimeout(timer),
      },
      ...options,
    };
    this.#ackTypes = new Set(options.ackTypes ?? []);
    this.#inbox = new Stream(options.position);
  }

  /** Open the first socket, however often it has to be tried. Rejects with ClosedError. @returns {Promise<void>} */
  async connect() {
    if (!this.#started) {
      this.#started = true;
      globalThis.addEventListener?.("online", this.#online);
      this.#run();
    }
    await this.#ready();
  }

  /** Close the socket and end; requests that are under way fail. */
  close() {
    this.#finish(new ClosedError(1000, "closed by the client"));
  }

  /** Subscribe, now and on every socket to come. With a `position` (of `positions`, kept from an earlier client) what came
   * since is sent first, or `gap` says that this cannot be. Answers the server's reply; rejects with RequestError.
   * @param {string} channel @param {string} subId @param {{position?: string}} [options] @returns {Promise<Message>} */
  async subscribe(channel, subId, {position} = {}) {
    try {
      return await this.#askUntilAnswered(() => {
        let stream = this.#channels.get(channel);
        if (stream === undefined) this.#channels.set(channel, (stream = new Stream(position)));
        stream.subIds.add(subId);
        if (position !== undefined) stream.resumes(subId, position);
        return {type: "subscribe", channel, subId, position};
      });
    } catch (error) {
      if (error instanceof RequestError && !["connection_lost", "timeout", "too_many"].includes(error.code)) this.#drop(channel, subId);
      throw error;
    }
  }

  /** Leave a subscription, all of a channel, or all there are. Rejects with RequestError.
   * @param {string} [channel] @param {string} [subId] @returns {Promise<Message>} */
  async unsubscribe(channel, subId) {
    if (channel === undefined) this.#channels.clear();
    else if (subId === undefined) this.#channels.delete(channel);
    else this.#drop(channel, subId);
    return this.#askUntilAnswered(() => ({type: "unsubscribe", channel, subId}));
  }

  /** Publish a message; fulfilled when the fan-out has accepted it, with the server's reply (`id`, `pubsubId`). Rejects with
   * RequestError. After a temporary one it is sent again with the same id, `attempts` times in all: on the same socket it is
   * published once; where the socket was lost before the answer came, it may be twice.
   * @param {Message} message @param {{attempts?: number}} [options] @returns {Promise<Message>} */
  async publish(message, {attempts = 1} = {}) {
    const complete = {...message, id: message.id ?? newId()};
    if (complete.type === "announce") remember(this.#said, complete.id, true);
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#ask(() => complete);
      } catch (error) {
        if (!(error instanceof RequestError) || !error.temporary || attempt >= attempts) throw error;
      }
      await new Promise((resolve) => this.#options.timers.set(() => resolve(undefined), this.#jitter(attempt - 1)));
    }
  }

  /** Publish an announce to a channel. As `publish`.
   * @param {string} channel @param {any} payload @param {{subId?: string, attempts?: number}} [options] */
  async announce(channel, payload, {subId, attempts} = {}) {
    return this.publish({type: "announce", channel, subId, payload}, {attempts});
  }

  /** The server's counts, with `detail` the lists behind them. @param {{detail?: boolean, channel?: string}} [options] */
  async getInfo({detail = false, channel} = {}) {
    return this.#askUntilAnswered(() => ({type: detail ? "getInfoDetail" : "getInfo", channel}));
  }

  /** Where each channel can be gone on from: what came up to there was taken. @returns {Record<string, string>} */
  get positions() {
    /** @type {Record<string, string>} */
    const found = Object.create(null);
    for (const [channel, stream] of this.#channels) {
      const position = stream.resume(this.#options.now());
      if (position !== undefined) found[channel] = position;
    }
    return found;
  }

  /** The same for what is sent to this user and to everyone. @returns {string | undefined} */
  get inboxPosition() {
    return this.#inbox.resume(this.#options.now());
  }

  // Life

  async #run() {
    try {
      let link = await this.#open(null);
      while (link !== null) {
        await link.leaving.promise;
        if (this.#end !== null) return;
        if (link.ended.isSet) {
          this.#judge(link);
          link = await this.#open(link);
        } else {
          link = await this.#replace(link);
        }
      }
    } catch (error) {
      this.#finish(error instanceof ClosedError ? error : new ClosedError(1011, String(error)));
    }
  }

  /** @param {ClosedError} end */
  #finish(end) {
    if (this.#end !== null) return;
    this.#end = end;
    globalThis.removeEventListener?.("online", this.#online);
    for (const link of [...this.#links]) this.#abandon(link, end.code);
    this.#link = null;
    this.#changed.set();
    this.#roomAgain.set();
    this.#wake();
    this.#become("closed");
  }

  #online = () => this.#wake(); // the network is back: there is nothing to wait for

  /** @param {State} state */
  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new StateEvent(state, this.#end ?? undefined));
  }

  /** A link ended: throws ClosedError if there is to be no other, else notes how long the server wants us away. @param {Link} link */
  #judge(link) {
    if (!link.comesBack) throw new ClosedError(link.code, link.reason || String(link.farewell?.reason ?? ""));
    if (this.#options.now() - link.opened >= PROVEN) this.#tries = 0;
    this.#retryAfter = timeAway(link.farewell);
  }

  /** A link with all subscriptions, however often it has to be tried; null when the client has ended. @param {Link | null} before */
  async #open(before) {
    if (before !== null) await this.#wait();
    while (this.#end === null) {
      if (this.#link === null) this.#become("connecting");
      const link = await this.#try(before);
      if (link !== null && this.#end === null) {
        this.#link = link;
        this.#changed.set();
        this.#become("open");
        return link;
      }
      if (this.#end === null) await this.#wait();
    }
    return null;
  }

  /** Full jitter: any time up to a bound that doubles, after what the server asked for. */
  async #wait() {
    if (this.#link === null) this.#become("waiting");
    while (this.#untaken > this.#options.maxUntaken / 2 && this.#end === null) {
      this.#roomAgain = new Flag();
      await this.#roomAgain.promise;
    }
    if (this.#end !== null) return;
    const delay = this.#retryAfter + this.#jitter(this.#tries);
    this.#retryAfter = 0;
    this.#tries += 1;
    /** @type {any} */
    let timer;
    await new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      timer = this.#options.timers.set(this.#wake, delay);
    });
    this.#options.timers.clear(timer);
  }

  /** @param {number} tries */
  #jitter(tries) {
    return this.#options.random() * Math.min(this.#options.longestWait, this.#options.firstWait * 2 ** Math.min(tries, 30));
  }

  /** One try; null if there has to be another. Throws ClosedError. @param {Link | null} before */
  async #try(before) {
    const now = this.#options.now();
    const position = this.#inbox.resume(now);
    const url = new URL(this.#url);
    if (position !== undefined) url.searchParams.set("position", position);
    const link = new Link(new this.#options.WebSocket(url.href), now, before !== null, position);
    if (before !== null && !before.ended.isSet) link.held = [];
    this.#links.add(link);
    link.socket.onmessage = ({data}) => this.#heard(link, data);
    link.socket.onclose = ({code, reason}) => this.#ended(link, code, reason);
    link.socket.onerror = () => {
      if (!link.welcomed.isSet) this.#ended(link, 1006, ""); // Node 20 says no more of a refused upgrade
    };
    this.#subscribeToAll(link);
    const timer = this.#options.timers.set(() => this.#abandon(link), this.#options.requestTimeout);
    await link.decided.promise;
    this.#options.timers.clear(timer);
    if (!link.ended.isSet) {
      this.#watch(link);
      return link;
    }
    link.held = null; // what a link held that never came into use is asked for again by the next
    if (this.#end === null) this.#judge(link);
    return null;
  }

  /** Close a socket and wait for nothing: a dead network would not even let it close. @param {Link} link @param {number} [code] */
  #abandon(link, code = 1006) {
    this.#ended(link, code, "");
    link.socket.close(1000);
  }

  /** @param {Link} link @param {number} code @param {string} reason */
  #ended(link, code, reason) {
    if (link.ended.isSet) return;
    link.code = code;
    link.reason = reason;
    this.#links.delete(link);
    this.#unusable(link);
    for (const {message, reject} of link.requests.values()) reject(lost(message));
    link.requests.clear();
    for (const flag of [link.ended, link.leaving, link.decided, link.welcomed]) flag.set();
  }

  /** No further request goes to this link. @param {Link} link */
  #unusable(link) {
    if (this.#link !== link || this.#end !== null) return;
    this.#link = null;
    this.#changed = new Flag();
  }

  /** Ask a server that is silent whether it is there. @param {Link} link */
  #watch(link) {
    const {timers, now, silence} = this.#options;
    const look = () => {
      if (link.ended.isSet) return;
      const rest = link.heard + silence - now();
      if (rest > 0) {
        timer = timers.set(look, rest);
        return;
      }
      this.#answer(link, {type: "getInfo"}).then(
        () => (timer = timers.set(look, silence)),
        () => this.#abandon(link),
      );
    };
    let timer = timers.set(look, silence);
    link.ended.promise.then(() => timers.clear(timer));
  }

  /** Ask for all subscriptions anew, each from where its channel was left; close a link that cannot have them. @param {Link} link */
  async #subscribeToAll(link) {
    try {
      await link.welcomed.promise;
      const now = this.#options.now();
      /** @type {Message[]} */
      const asked = [];
      for (const [channel, stream] of this.#channels) {
        const position = stream.resume(now);
        stream.resuming.clear();
        for (const subId of stream.subIds) {
          stream.resumes(subId, position);
          asked.push({type: "subscribe", channel, subId, position});
        }
      }
      await Promise.all(asked.map((message) => this.#resubscribe(link, message)));
    } catch {
      this.#abandon(link);
      return;
    }
    link.decided.set();
  }

  /** @param {Link} link @param {Message} message */
  async #resubscribe(link, message) {
    try {
      await this.#send(link, this.#numbered(message), link.resumed);
    } catch (error) {
      if (!(error instanceof RequestError) || error.temporary) throw error;
      this.#drop(/** @type {string} */ (message.channel), /** @type {string} */ (message.subId));
      this.dispatchEvent(new RefusedEvent(error));
    }
  }

  /** Make before break: set up the new link, close the old one, then let the new one go. @param {Link} old */
  async #replace(old) {
    this.#retryAfter = timeAway(old.farewell);
    this.#tries = 0;
    const link = await this.#open(old);
    if (link === null) return null;
    const {timers} = this.#options;
    const timer = timers.set(() => this.#abandon(old), FINISH_TIMEOUT);
    await Promise.race([old.ended.promise, link.full.promise, Promise.all([...old.requests.values()].map(settled))]);
    if (!old.ended.isSet) old.socket.close(1000);
    await Promise.race([old.ended.promise, link.full.promise]);
    this.#abandon(old);
    timers.clear(timer);
    const held = link.held ?? [];
    link.held = null;
    for (const [message, request] of held) if (!link.ended.isSet) this.#accept(link, message, request);
    return link;
  }

  // Receive

  /** @param {Link} link @param {any} data */
  #heard(link, data) {
    if (link.ended.isSet) return;
    link.heard = this.#options.now();
    const message = decode(data);
    if (message === null) return;
    if (message.type === "disconnect") {
      link.farewell = message;
      if (link.rotates) link.leaving.set();
      return;
    }
    const request = typeof message.ackId === "number" ? link.requests.get(message.ackId) : undefined;
    if (request !== undefined) {
      link.requests.delete(message.ackId);
      if (request.message.type !== "subscribe") {
        request.resolve(message);
        return;
      }
    }
    if (message.type === "welcome") {
      this.welcome = message;
      link.welcomed.set();
    }
    if (link.held === null) {
      this.#accept(link, message, request);
    } else {
      link.held.push([message, request]);
      if (link.held.length >= MAX_HELD) {
        link.full.set();
        link.decided.set();
      }
    }
    request?.resolve(message);
  }

  /** Take what came in its place among all that came. @param {Link} link @param {Message} message @param {Request} [request] */
  #accept(link, message, request) {
    if (request !== undefined) this.#acceptSubscription(request, message);
    else if (message.type === "welcome") this.#acceptWelcome(link, message);
    else if (message.type === "error") this.dispatchEvent(new RefusedEvent(errorOf(message)));
    else if (!NOT_MESSAGES.has(message.type)) this.#acceptMessage(message); // else an answer that came too late
    if (this.#untaken >= this.#options.maxUntaken) this.#abandon(link);
  }

  /** @param {Link} link @param {Message} welcome */
  #acceptWelcome(link, welcome) {
    const recovered = welcome.recovered === true;
    if (recovered) {
      // The replay comes behind the welcome: its position counts when that is certainly over.
      this.#inbox.reachedAfterReplay(welcome.position, this.#options.now());
    } else {
      this.#inbox.giveUpRefused();
      this.#inbox.reached(welcome.position);
    }
    if (link.resumed || link.resumedFrom !== undefined) this.dispatchEvent(new RecoveryEvent(null, recovered));
  }

  /** @param {Request} request @param {Message} answer */
  #acceptSubscription({message, resumes}, answer) {
    const channel = /** @type {string} */ (message.channel);
    const stream = this.#channels.get(channel);
    if (stream === undefined) return;
    stream.resuming.delete(/** @type {string} */ (message.subId));
    if (answer.type === "error") return;
    const resumed = resumes || message.position !== undefined;
    if (resumed && answer.recovered !== true) {
      stream.allRecovered = false;
      stream.giveUpRefused();
    }
    stream.reached(answer.position);
    if (resumed && stream.resuming.size === 0) this.dispatchEvent(new RecoveryEvent(channel, stream.allRecovered));
  }

  /** @param {Message} message */
  #acceptMessage(message) {
    const wantsAck = this.#ackTypes.has(message.type) || message.isRetry === true;
    const key = keyOf(message);
    const before = key === null ? undefined : this.#seen.get(key);
    const stream = message.channel === undefined ? this.#inbox : this.#channels.get(message.channel);
    if (before !== undefined) {
      // What was replayed from an earlier place has come to this one again.
      stream?.note({position: message.position, wantsAck: false, taken: NOT_YET, repeats: before});
      before.wantsAck ||= wantsAck;
      if (before.taken === YES && wantsAck) this.#acknowledge(before);
      else if (before.taken === REFUSED) this.#handOver(before, message);
      return;
    }
    const delivery = {position: message.position, id: message.id, wantsAck, taken: NOT_YET};
    if (key !== null) remember(this.#seen, key, delivery);
    stream?.note(delivery);
    if (message.type === "announce" && message.id !== undefined && this.#said.has(message.id)) this.#settle(delivery);
    else this.#handOver(delivery, message);
  }

  /** @param {Delivery} delivery @param {Message} message */
  #handOver(delivery, message) {
    delivery.taken = NOT_YET;
    const event = new MessageEvent(message);
    this.dispatchEvent(event);
    if (event.awaited.length === 0) {
      this.#settle(delivery);
      return;
    }
    this.#untaken += 1;
    Promise.all(event.awaited)
      .then(
        () => this.#settle(delivery),
        () => {
          if (delivery.wantsAck) delivery.taken = REFUSED;
          else this.#settle(delivery);
        },
      )
      .then(() => {
        this.#untaken -= 1;
        if (this.#untaken <= this.#options.maxUntaken / 2) this.#roomAgain.set();
      });
  }

  /** The application has taken a message. @param {Delivery} delivery */
  #settle(delivery) {
    delivery.taken = YES;
    delivery.stream?.advance();
    if (delivery.wantsAck) this.#acknowledge(delivery);
  }

  /** Tell all sockets: each of them may wait for the acknowledgement of what came on both. @param {Delivery} delivery */
  #acknowledge({id}) {
    if (id === undefined) return;
    for (const {socket, welcomed} of this.#links) if (welcomed.isSet) socket.send(JSON.stringify({type: "ack", id}));
  }

  // Ask

  /** @param {string} channel @param {string} subId */
  #drop(channel, subId) {
    const stream = this.#channels.get(channel);
    stream?.subIds.delete(subId);
    stream?.resuming.delete(subId);
    if (stream?.subIds.size === 0) this.#channels.delete(channel);
  }

  /** The link that takes requests. @returns {Promise<Link>} */
  async #ready() {
    for (;;) {
      await this.#changed.promise;
      if (this.#end !== null) throw this.#end;
      if (this.#link !== null) return this.#link;
    }
  }

  /** For what may be said twice: a lost socket is no reason to give up before the timeout. @param {() => Message} make */
  async #askUntilAnswered(make) {
    const deadline = this.#options.now() + this.#options.requestTimeout;
    for (;;) {
      try {
        return await this.#ask(make, deadline - this.#options.now());
      } catch (error) {
        if (!(error instanceof RequestError) || error.code !== "connection_lost") throw error;
      }
    }
  }

  /** Send what `make` makes when a link is ready, and answer its reply.
   * @param {() => Message} make @param {number} [timeout] @returns {Promise<Message>} */
  async #ask(make, timeout = this.#options.requestTimeout) {
    let late = false;
    const asking = this.#ready().then((link) => (late ? Promise.reject(late) : this.#answer(link, make())));
    try {
      return await this.#inTime(asking, timeout);
    } finally {
      late = true;
    }
  }

  /** The answer to a request on this link. @param {Link} link @param {Message} message @returns {Promise<Message>} */
  async #answer(link, message) {
    if (link.requests.size >= MAX_REQUESTS) throw new RequestError("too_many", "too many requests are under way", true, message);
    const request = this.#numbered(message);
    try {
      return await this.#inTime(this.#send(link, request, false), this.#options.requestTimeout);
    } finally {
      link.requests.delete(request.ackId);
    }
  }

  /** @template T @param {Promise<T>} promise @param {number} timeout @returns {Promise<T>} */
  async #inTime(promise, timeout) {
    const {timers} = this.#options;
    /** @type {any} */
    let timer;
    const limit = new Promise((_, reject) => {
      timer = timers.set(() => reject(new RequestError("timeout", `no answer in ${timeout} ms`, true)), timeout);
    });
    promise.catch(() => {}); // it may fail when nobody waits for it any more
    try {
      return await Promise.race([promise, /** @type {Promise<T>} */ (limit)]);
    } finally {
      timers.clear(timer);
    }
  }

  /** @param {Message} message @returns {Message} */
  #numbered(message) {
    this.#numbers += 1;
    return {...message, ackId: this.#numbers};
  }

  /** @param {Link} link @param {Message} request @param {boolean} resumes @returns {Promise<Message>} */
  #send(link, request, resumes) {
    return new Promise((resolve, reject) => {
      if (link.ended.isSet || link.socket.readyState !== 1) {
        this.#unusable(link);
        reject(lost(request));
        return;
      }
      const check = (/** @type {Message} */ answer) => (answer.type === "error" ? reject(errorOf(answer, request)) : resolve(answer));
      link.requests.set(request.ackId, {message: request, resumes, resolve: check, reject});
      link.socket.send(JSON.stringify(request));
    });
  }
}

/** When a request is answered, or will not be. @param {Request} request @returns {Promise<void>} */
function settled(request) {
  return new Promise((done) => {
    const {resolve, reject} = request;
    request.resolve = (answer) => (resolve(answer), done());
    request.reject = (error) => (reject(error), done());
  });
}

/** @param {any} data @returns {Message | null} */
function decode(data) {
  try {
    const message = JSON.parse(data);
    if (message !== null && typeof message === "object" && !Array.isArray(message)) return message;
  } catch {
    // below
  }
  console.warn("left out a frame that is no message:", String(data).slice(0, 100));
  return null; // a newer server may say what this client does not know
}

/** What a message is known by. A sender may choose its ids, and another the same: the time tells them apart, and is the same
 * in every repeat. @param {Message} message */
function keyOf({pubsubId, id, sentDateTime}) {
  // A sender may choose its ids, and another the same, and an emulator that is started anew counts from 1 again: the time
  // tells them apart, and is the same in every repeat.
  const name = pubsubId ?? id;
  return name === undefined ? null : `${sentDateTime} ${name}`;
}

/** @template T @param {Map<string, T>} map @param {string} key @param {T} value */
function remember(map, key, value) {
  map.set(key, value);
  if (map.size > REMEMBERED) map.delete(/** @type {string} */ (map.keys().next().value));
}

/** @param {Message} answer @param {Message} [request] */
function errorOf(answer, request) {
  return new RequestError(String(answer.code), String(answer.value), answer.temporary === true, request);
}

/** @param {Message} request */
function lost(request) {
  return new RequestError("connection_lost", "the socket ended before the answer", true, request);
}

/** How long the server wants a client to stay away. @param {Message | null} farewell */
function timeAway(farewell) {
  const time = farewell?.retryAfterMs;
  return typeof time === "number" && time > 0 ? Math.min(time, LONGEST_RETRY_AFTER) : 0;
}

/** Pages without TLS have no crypto.randomUUID. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
