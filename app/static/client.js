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
 * Wishes: `subscribe` and `unsubscribe` say at once what the client wants; each socket is kept at exactly that, also a new one
 * that is still being set up. The last call wins, and the promise tells when the server has confirmed it.
 *
 * Where to go on: a position moves to a message only when that message and all before it on its channel were taken, so what
 * is asked for again is never less than what may be missing; what comes twice is dropped.
 *
 * One order: while a socket is replaced (close code 3011), what the new one brings is held until the old one is closed. The
 * new one's stream begins at a position that the old one has passed, so what the old one did not bring any more stands,
 * in order, among what the new one brings. Without recovery there is no such proof, and `gap` says so.
 *
 * Nothing unbounded: a page cannot stop reading a socket. A client whose application is behind by `maxUntaken` messages
 * closes it, and goes on from its position when half of them are taken. While the application awaits an answer, the socket stays
 * for the answers alone, and is replaced then.
 *
 * It needs nothing but a WebSocket class, which may be handed in (Node has none of its own before 22).
 */

/** @typedef {{type: string, channel?: string, subId?: string, userTag?: string, payload?: any, id?: string,
 *   sentDateTime?: string, pubsubId?: string, position?: string, [property: string]: any}} Message */
/** @typedef {"connecting" | "open" | "waiting" | "closed"} State `waiting` is between two sockets, `closed` until `connect()`. */
/** @typedef {{set: (call: () => void, delay: number) => any, clear: (timer: any) => void}} Timers */
/** @typedef {Object} Options All times are in milliseconds. `Infinity` is never.
 * @property {string[]} [ackTypes] Types that the server wants acknowledged.
 * @property {string} [position] Where the user's inbox was left: `inboxPosition` of an earlier client.
 * @property {number} [requestTimeout] For an answer, and for a new socket to be ready; it counts from the last message that came.
 * @property {number} [openTimeout] For a socket to be opened; 90 s in browsers, since they may hold one back that long.
 * @property {number} [firstWait] Upper end of the first random wait before a socket is opened again; it doubles ...
 * @property {number} [longestWait] ... up to this.
 * @property {number} [silence] A server that said nothing for so long is asked whether it is there.
 * @property {number} [maxUntaken] Messages that the application may have on its hands (see MessageEvent.waitUntil).
 * @property {any} [WebSocket] The class of sockets.
 * @property {() => number} [random] For tests, as are the next two.
 * @property {() => number} [now]
 * @property {Timers} [timers]
 */

const REMEMBERED = 10_000; // messages by which repeats are known, and that may wait behind one that was not taken
const MAX_HELD = 1000; // messages of a new socket while the old one is still there
const MAX_REQUESTS = 1000; // that may await their answer on a socket; the next waits its turn
const MAX_WAITING = 10_000; // requests that may wait their turn; another is refused
const PROVEN = 10_000; // ms that a socket has to last before the waits begin with the first again
const LONGEST_RETRY_AFTER = 600_000;
const REPLAY_OVER = 60_000; // ms without a message after which nothing of a replay can still be on its way
const FINISH_TIMEOUT = 5_000; // ms without a message for what a socket that is being replaced still owes, and for its closing
const FINISH_TIMES = 6; // as many of those at the most
const OPEN_TIMEOUT = 90_000; // ms: Firefox holds a socket back for up to 60 s after failures, and then has 20 s to open it
const CLOSE_FOLLOWS = 100; // ms in which a browser says more of a socket that failed
const CHECK_TIMEOUT = 2_000; // ms in which a server answers a page that wakes up, or its socket is replaced
const LONGEST_TIMER = 2 ** 31 - 1; // ms: longer ones would run out at once
const ROTATION = 3011;
const NOT_AUTHENTICATED = 3500;
const STAY_AWAY = new Set([1002, 1003, 1007, 1008, 1009, 1010]); // the client itself is at fault, and would be again
const TRY_AGAIN_STATUSES = new Set([408, 425, 429]); // below 500, and a moment's wait may cure them
const NOT_MESSAGES = new Set(["ack", "error", "welcome", "ping", "subscribe", "unsubscribe", "getInfo", "getInfoDetail"]);
/** @type {Record<number, string>} */
const STATUSES = {
  401: "it asks for an identity (a session or a token), and none that counts came",
  403: "pages of this origin, or this client, may not open a socket there",
  404: "it has no sockets at this path",
  429: "too many sockets were opened in a short time",
  503: "it has no room, or is about to stop",
};

/** Whether a client opens a new socket after this close code (1006: the connection just ended). @param {number} code */
export function comesBack(code) {
  return !STAY_AWAY.has(code) && !(code >= 3500 && code < 4000);
}

/** A request was refused, or its answer did not come. `connection_lost`, `timeout`, `too_many`, `not_connected` (there was no
 * `connect()`) and `unsubscribed` (before the server had confirmed the subscription) are the client's own codes.
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
    /** How long the server wants it to wait, in milliseconds. @type {number | undefined} */
    this.retryAfter = undefined;
  }
}

/** A socket could not be opened. `code` is the close code and `status` the HTTP status, where they are known (a page is told
 * neither of a refused upgrade). `temporary`: the client goes on trying. */
export class ConnectError extends Error {
  /** @param {string} message @param {{code?: number, status?: number, temporary: boolean, cause?: unknown}} known */
  constructor(message, {code, status, temporary, cause}) {
    super(message);
    if (cause !== undefined) this.cause = cause;
    this.name = "ConnectError";
    this.code = code;
    this.status = status;
    this.temporary = temporary;
  }
}

/** The client has ended and does not come back by itself; `code` is the close code, or the HTTP status of a refused upgrade. */
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
 * it is acknowledged, if its type is one of `ackTypes` or it came with `isRetry`. If a listener throws or one of those is rejected,
 * the message is not taken, whatever its type: no position moves over it, and it is handed over again when it comes again. The
 * promise of an `async` listener counts as given to `waitUntil`. */
export class MessageEvent extends Event {
  /** @param {Message} message */
  constructor(message) {
    super("message");
    this.message = message;
    /** @type {Promise<any>[]} */
    this.awaited = [];
    this.isOver = false;
  }

  /** @param {PromiseLike<any>} promise */
  waitUntil(promise) {
    if (this.isOver) {
      throw new Error(
        "waitUntil() came too late: the listeners have returned, and the message may be acknowledged already. Call it before the first await",
      );
    }
    this.awaited.push(Promise.resolve(promise));
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

/** A socket could not be opened (ConnectError), or the server refused what nobody waits for (RequestError), such as a
 * subscription after a reconnect. */
export class RefusedEvent extends Event {
  /** @param {RequestError | ConnectError} error */
  constructor(error) {
    super("refused");
    this.error = error;
  }
}

const NOT_YET = 0;
const REFUSED = 1; // the application failed on it: when it comes again it is handed over again
const YES = 2;

/** A message in its stream. `repeats`: the same message as it came first; when that is taken, so is this. `answers`: no message,
 * but the place from which on this subscription goes on with its channel.
 * @typedef {{position?: string, id?: string, stream?: Stream, wantsAck: boolean, taken: number, repeats?: Delivery,
 *   answers?: {wish: Wish, start: Start | null}}} Delivery */

/** A place of its own from which a subscription goes on. @typedef {{from: string | undefined}} Start */

/** @param {Delivery} delivery */
const isTaken = ({taken, repeats}) => taken === YES || repeats?.taken === YES;

/** A caller that awaits an answer.
 * @typedef {{resolve: (answer: Message) => void, reject: (error: Error) => void}} Waiter */

/** A subscription that the application wants: by `Client.subscribe` (`plain`), by handles, or both. */
class Wish {
  /** @param {string} channel @param {string} subId */
  constructor(channel, subId) {
    this.channel = channel;
    this.subId = subId;
    this.plain = false;
    /** @type {Set<Handle>} */
    this.handles = new Set();
    /** @type {Set<Waiter>} */
    this.waiters = new Set();
    this.confirmed = false; // by any socket
    this.isPlaced = false; // an answer has said where it begins
    /** Until its channel has come to where that is, it goes on from here; then from where its channel is. @type {Start | null} */
    this.start = null;
  }

  get isWanted() {
    return this.plain || this.handles.size > 0;
  }
}

/** The position of one channel, or of the inbox: the end of what was taken without anything left out before it. */
class Stream {
  /** @param {string} [position] */
  constructor(position) {
    this.position = position;
    /** By subId. @type {Map<string, Wish>} */
    this.wishes = new Map();
    /** Subscriptions that have yet to be answered from where they go on: each is replayed on its own, and the first may be ahead
     * of what the next has to bring. @type {Set<Wish>} */
    this.behind = new Set();
    /** Position of the channel when the first of those began: nobody lacks what came up to there.
     * @type {string | undefined} */
    this.base = undefined;
    /** @type {Delivery[]} */
    this.ahead = [];
    /** @type {{position: string, since: number} | null} */
    this.later = null;
  }

  /** A message, or a position, that comes behind all that came before. @param {Delivery} delivery */
  note(delivery) {
    if (delivery.position === undefined && delivery.answers === undefined) return;
    delivery.stream = this;
    this.later = null;
    this.ahead.push(delivery);
    if (this.ahead.length > REMEMBERED) this.ahead[0].taken = YES;
    this.advance();
  }

  /** A reply said that everything up to here was sent. @param {string} [position] @param {Wish} [wish] */
  reached(position, wish) {
    this.note({position, wantsAck: false, taken: YES, answers: wish && {wish, start: wish.start}});
  }

  /** ... or will have been when the replay behind it is over. @param {string | undefined} position @param {number} now */
  reachedAfterReplay(position, now) {
    this.later = position === undefined ? null : {position, since: now};
  }

  advance() {
    let taken = 0;
    while (taken < this.ahead.length && isTaken(this.ahead[taken])) {
      const {position, answers} = this.ahead[taken];
      if (position !== undefined) this.position = position;
      if (answers !== undefined && answers.wish.start === answers.start) this.drop(answers.wish); // else it was asked for again since
      taken += 1;
    }
    if (taken > 0) this.ahead.splice(0, taken);
  }

  /** The position to go on from. @param {number} now */
  resume(now) {
    if (this.behind.size > 0) return this.base;
    if (this.later !== null && this.ahead.length === 0 && now - this.later.since >= REPLAY_OVER) {
      this.position = this.later.position;
      this.later = null;
    }
    return this.position;
  }

  /** A subscription is asked for from this position on. @param {Wish} wish @param {string | undefined} from */
  resumes(wish, from) {
    // A subscription that is new has a start which its channel has yet to come to.
    if (this.behind.size === 0) this.base = wish.start !== null && wish.start.from === from ? this.position : from;
    wish.start = {from};
    this.behind.add(wish);
  }

  /** A subscription goes on with its channel, or is gone. @param {Wish} wish */
  drop(wish) {
    wish.start = null;
    this.behind.delete(wish);
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

/** A subscription as it was asked for on a socket. @typedef {{wish: Wish, from: string | undefined, resumed: boolean}} Asked */

/** A request that awaits its answer on a socket. `asked`: it is a subscription.
 * @typedef {{message: Message, asked?: Asked,
 *   answered: (answer: Message) => void, failed: (error: RequestError) => void, limit?: Limit}} Request */

/** A request of the application that goes out in the order of the calls.
 * @typedef {{number: number, message: Message, text: string, attempts: number, tries: number, limit?: Limit} & Waiter} Call */

/** One run of the client, from `connect` to its end: what it ended with. @typedef {{end: ClosedError | null}} Life */

/** A socket with what is awaited on it. `held` collects what came while its predecessor is still there. */
class Link {
  /** @param {number} now @param {Link | null} before @param {string | undefined} resumedFrom */
  constructor(now, before, resumedFrom) {
    /** @type {WebSocket | null} */
    this.socket = null;
    this.began = now;
    this.heard = now;
    this.count = 0; // of the frames that came
    this.resumed = before !== null;
    this.resumedFrom = resumedFrom;
    /** @type {Map<number, Request>} */
    this.requests = new Map();
    /** Subscriptions that the server was asked for here and has not refused, by channel and subId.
     * @type {Map<string, Map<string, Asked>>} */
    this.subscriptions = new Map();
    this.unsettled = 0; // subscriptions that are not confirmed here yet
    /** By channel: whose answers are awaited until it is said whether it was recovered.
     * @type {Map<string, {awaited: Set<Wish>, allRecovered: boolean}>} */
    this.recovering = new Map();
    /** @type {[Message, Request | undefined][] | null} */
    this.held = null;
    /** Addresses that were left here while the link was held. @type {Set<string>} */
    this.left = new Set();
    /** Streams of which something was not taken in, since the application is behind: nor is what comes after. @type {Set<Stream>} */
    this.skipped = new Set();
    this.isTight = false; // the application has as much on its hands as it may
    this.muted = false; // it is there for answers alone
    this.isReplaced = false; // it is to be, whatever the server says
    this.isChecked = false;
    /** @type {Message | null} */
    this.farewell = null;
    this.opened = false;
    this.isWelcome = false;
    this.welcomed = new Flag();
    this.full = new Flag(); // it can hold no more
    this.decided = new Flag(); // it is ready, or it ended
    this.leaving = new Flag(); // it ended, or is about to be replaced
    this.ended = new Flag();
    this.code = 1006;
    this.reason = "";
    /** Reasons, as far as they are known, for which the socket was not opened.
     * @type {{status?: number, retryAfter?: number, text?: string, blocked?: boolean,
     *   late?: number, cause?: unknown}} */
    this.why = {};
    /** The link that this one replaces and that is still in use. @type {Link | null} */
    this.before = null;
  }

  get rotates() {
    return this.farewell?.code === ROTATION && this.farewell.reconnect === true;
  }

  get comesBack() {
    const told = this.farewell?.reconnect;
    if (typeof told === "boolean") return told;
    const {status} = this.why;
    if (!this.opened && status !== undefined) return status >= 500 || status < 400 || TRY_AGAIN_STATUSES.has(status);
    return comesBack(this.code);
  }

  /** @param {string} channel @param {string} subId */
  asked(channel, subId) {
    return this.subscriptions.get(channel)?.get(subId);
  }

  /** @param {string} channel @param {string} subId @param {Asked} asked */
  ask(channel, subId, asked) {
    let subIds = this.subscriptions.get(channel);
    if (subIds === undefined) this.subscriptions.set(channel, (subIds = new Map()));
    subIds.set(subId, asked);
  }

  /** @param {string} channel @param {string} subId */
  forget(channel, subId) {
    const subIds = this.subscriptions.get(channel);
    subIds?.delete(subId);
    if (subIds?.size === 0) this.subscriptions.delete(channel);
  }
}

/** Runs out once, unless it is stopped; the class of timers may be handed in. Times beyond what a timer can take are cut up. */
class Timer {
  #timers;
  /** @type {any} */
  #timer;
  #isOver = false;

  /** @param {Timers} timers @param {number} delay @param {() => void} call */
  constructor(timers, delay, call) {
    this.#timers = timers;
    this.#set(delay, call);
  }

  /** @param {number} delay @param {() => void} call */
  #set(delay, call) {
    if (delay === Infinity) return;
    this.#timer = this.#timers.set(
      () => {
        if (this.#isOver) return;
        if (delay > LONGEST_TIMER) {
          this.#set(delay - LONGEST_TIMER, call);
          return;
        }
        this.stop();
        call();
      },
      Math.min(delay, LONGEST_TIMER),
    );
  }

  stop() {
    this.#isOver = true;
    this.#timers.clear(this.#timer);
  }
}

/** Runs out when nothing has come for so long: `came` counts what comes, and says when it came last. */
class Limit {
  #timer;

  /** @param {{timers: Timers, now: () => number}} options @param {number} time @param {{count: number, heard: number}} came
   * @param {() => void} late */
  constructor({timers, now}, time, came, late) {
    const arm = (/** @type {number} */ delay) => {
      const {count} = came;
      return new Timer(timers, delay, () => {
        if (came.count === count) late();
        else this.#timer = arm(Math.max(1, came.heard + time - now()));
      });
    };
    this.#timer = arm(time);
  }

  stop() {
    this.#timer.stop();
  }
}

/** A request that may go out in any order, and again on another socket: `isMoot` once it is of no use any more.
 * @typedef {{message: Message, isMoot: () => boolean, link: Link | null, limit: Limit | null} & Waiter} Errand */

/** A handle as its client knows it. @typedef {{subIds: Set<string>, receive: (event: MessageEvent) => void,
 *   recovered: (event: RecoveryEvent) => void}} Handle */

/** Requests that a handle may make of its client. @typedef {{
 *   subscribe: (handle: Handle, subId: string, options: {position?: string}) => Promise<Message>,
 *   unsubscribe: (handle: Handle, subId?: string) => Promise<Message>,
 *   publish: (message: Message, options: {attempts?: number}) => Promise<Message>,
 *   feeds: Set<Feed>,
 *   isClosed: () => boolean}} Inner */

/** Nobody iterates any more: that is no failure. */
class GivenUp extends Error {}

/** Messages that wait for `for await`. Each is taken when the next one is asked for. */
class Feed {
  /** @type {{message: Message, taken: (value?: any) => void, refused: (error: Error) => void}[]} */
  #items = [];
  /** @type {((result: IteratorResult<Message, undefined>) => void)[]} */
  #readers = [];
  /** @type {{taken: (value?: any) => void, refused: (error: Error) => void} | null} */
  #handed = null;
  isOver = false;
  /** @type {() => void} */
  onEnd = () => {};

  /** @param {MessageEvent} event */
  put(event) {
    event.waitUntil(new Promise((taken, refused) => this.#items.push({message: event.message, taken, refused})));
    const reader = this.#readers.shift();
    if (reader !== undefined) reader(this.#take());
  }

  /** @returns {IteratorResult<Message, undefined>} */
  #take() {
    const item = this.#items.shift();
    if (item === undefined) return {value: undefined, done: true};
    this.#handed = item;
    return {value: item.message, done: false};
  }

  /** @returns {Promise<IteratorResult<Message, undefined>>} */
  next() {
    this.#handed?.taken();
    this.#handed = null;
    if (this.#items.length > 0 || this.isOver) return Promise.resolve(this.#take());
    return new Promise((resolve) => this.#readers.push(resolve));
  }

  /** @returns {Promise<IteratorResult<Message, undefined>>} */
  return() {
    this.end();
    return Promise.resolve({value: undefined, done: true});
  }

  /** Nobody asks for more: what was not taken is left to whoever it comes to again. @param {Error} [error] */
  end(error = new GivenUp("the iteration ended before the message was taken")) {
    if (this.isOver) return;
    this.isOver = true;
    for (const {refused} of this.#handed === null ? this.#items : [this.#handed, ...this.#items]) refused(error);
    this.#items = [];
    this.#handed = null;
    for (const reader of this.#readers.splice(0)) reader({value: undefined, done: true});
    this.onEnd();
  }

  /** Nobody has ever asked. */
  drop() {
    for (const {taken} of this.#items.splice(0)) taken();
    this.end();
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** A component's part in a channel: `Client.channel` makes it. It gets what it has subscribed to itself; the client leaves a
 * subscription when the last handle has left it, and nobody wants it by `Client.subscribe`. */
export class Channel {
  #inner;
  /** @type {Handle} */
  #handle;
  /** @type {Map<string, Set<(event: any) => any>>} */
  #listeners = new Map();
  /** @type {Set<Feed>} */
  #feeds = new Set();
  /** Feed for what comes between `subscribe` and an iteration that begins right behind it. @type {Feed | null} */
  #early = null;
  #subscribing = 0;
  #isClosed = false;

  /** @param {string} name @param {Inner} inner */
  constructor(name, inner) {
    this.name = name;
    this.#inner = inner;
    this.#handle = {
      subIds: new Set(),
      receive: (event) => this.#receive(event),
      recovered: (event) => this.#call(event.type, event),
    };
  }

  /** As `Client.subscribe`, for this handle. @param {string} [subId] @param {{position?: string}} [options] @returns {Promise<Message>} */
  subscribe(subId = "default", options = {}) {
    if (this.#isClosed) return Promise.reject(new Error("this handle was closed: ask the client for another"));
    if (this.#feeds.size === 0) this.#early = this.#feed();
    this.#subscribing += 1;
    const over = () => {
      this.#subscribing -= 1;
      if (this.#subscribing > 0) return;
      this.#early?.drop();
      this.#early = null;
    };
    const asking = this.#inner.subscribe(this.#handle, subId, options).finally(() => setTimeout(over)); // behind who awaits it
    return handedOut(asking, isToldElsewhere);
  }

  /** Leave a subscription of this handle, or all; to leave again does nothing. @param {string} [subId] @returns {Promise<Message>} */
  unsubscribe(subId) {
    return this.#inner.unsubscribe(this.#handle, subId);
  }

  /** As `Client.announce`; `type` is one of the types that the server publishes to a channel.
   * @param {any} payload @param {{subId?: string, type?: string, attempts?: number}} [options] @returns {Promise<Message>} */
  announce(payload, options = {}) {
    const announcing = async () => {
      const {subId, type = "announce", attempts} = checkOptions("announce", options, ["subId", "type", "attempts"]);
      return this.#inner.publish({type, channel: this.name, subId, payload}, {attempts});
    };
    return handedOut(announcing(), isToldElsewhere);
  }

  /** Call `listener` with each MessageEvent of this type, or with the RecoveryEvent for `recovered` and `gap`. Answers a function
   * that ends this. @param {string} type @param {(event: any) => any} listener @returns {() => void} */
  on(type, listener) {
    if (typeof listener !== "function") throw new TypeError(`the listener of ${type} has to be a function`);
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners);
    const call = (/** @type {any} */ event) => listener(event); // the same function may be given twice
    listeners.add(call);
    return () => {
      listeners.delete(call);
      if (listeners.size === 0 && this.#listeners.get(type) === listeners) this.#listeners.delete(type);
    };
  }

  /** The messages of this handle from now on, those too that came since a `subscribe` right before. It ends with `close`, of the
   * handle or the client. @returns {AsyncIterator<Message, undefined> & AsyncIterable<Message>} */
  [Symbol.asyncIterator]() {
    const feed = this.#early ?? this.#feed();
    this.#early = null;
    if (this.#isClosed || this.#inner.isClosed()) feed.end();
    return feed;
  }

  /** Leave all, and end what iterates. @returns {Promise<Message>} */
  close() {
    this.#isClosed = true;
    const leaving = this.unsubscribe();
    for (const feed of [...this.#feeds]) feed.end();
    this.#listeners.clear();
    return leaving;
  }

  #feed() {
    const feed = new Feed();
    for (const feeds of [this.#feeds, this.#inner.feeds]) feeds.add(feed);
    feed.onEnd = () => {
      for (const feeds of [this.#feeds, this.#inner.feeds]) feeds.delete(feed);
    };
    return feed;
  }

  /** @param {MessageEvent} event */
  #receive(event) {
    this.#call(event.message.type, event);
    for (const feed of this.#feeds) feed.put(event);
  }

  /** @param {string} type @param {Event} event */
  #call(type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) call(listener, event);
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
  /** Count of what came on any socket, and when something came last. */
  #came = {count: 0, heard: 0};
  /** @type {Set<Link>} */
  #links = new Set();
  /** The link that takes requests. @type {Link | null} */
  #link = null;
  #changed = new Flag();
  #tries = 0;
  #retryAfter = 0;
  #hurries = false; // the next try waits for nothing
  #isBlocked = false; // by the browser: it is tried, slowly
  #isOffline = false; // says the browser
  /** @type {() => void} */
  #wake = () => {};
  /** @type {Life | null} */
  #life = null;
  /** Calls that wait their turn, in their order. @type {Call[]} */
  #calls = [];
  #underWay = 0;
  /** Link on which calls are under way: what is said on two sockets may come in any order. @type {Link | null} */
  #speaking = null;
  #window = MAX_REQUESTS;
  /** Until it runs out nothing is said: what failed for the moment goes first. @type {Timer | null} */
  #pause = null;
  /** @type {Set<Errand>} */
  #errands = new Set();
  #waiting = 0; // subscribers that await an answer
  /** @type {Map<string, Set<Handle>>} */
  #handles = new Map();
  /** @type {Set<Feed>} */
  #feeds = new Set();
  /** @type {WeakMap<object, (event: Event) => void>} */
  #guarded = new WeakMap();

  /** @param {string | URL} url `ws:` or `wss:`, or relative to the page @param {Options} [options] */
  constructor(url, options = {}) {
    super();
    this.#url = addressOf(url);
    /** @type {Options} */
    const set = Object.fromEntries(Object.entries(checkOptions("Client", options, KNOWN)).filter(([, value]) => value !== undefined));
    const requestTimeout = set.requestTimeout ?? 10_000;
    this.#options = {
      requestTimeout,
      openTimeout: isInBrowser() ? Math.max(OPEN_TIMEOUT, requestTimeout) : requestTimeout,
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
      ...set,
    };
    const {openTimeout, silence, maxUntaken, firstWait, longestWait} = this.#options;
    for (const [name, value] of Object.entries({requestTimeout: this.#options.requestTimeout, openTimeout, silence, maxUntaken}))
      checkNumber(name, value, false);
    for (const [name, value] of Object.entries({firstWait, longestWait})) checkNumber(name, value, true);
    if (typeof this.#options.WebSocket !== "function") {
      throw new TypeError(
        set.WebSocket === undefined
          ? 'there is no WebSocket here: give one, as in new Client(url, {WebSocket: (await import("ws")).WebSocket})'
          : "WebSocket has to be a class",
      );
    }
    const {ackTypes = [], position} = options;
    if (!Array.isArray(ackTypes) || !ackTypes.every((type) => typeof type === "string"))
      throw new TypeError("ackTypes has to be an array of strings");
    if (position !== undefined && typeof position !== "string") throw new TypeError("position has to be a string");
    this.#ackTypes = new Set(ackTypes);
    this.#inbox = new Stream(position);
  }

  /** Open the first socket, however often it has to be tried; after `close()`, open one again, with the subscriptions that there
   * are. Rejects with ClosedError. @returns {Promise<void>} */
  connect() {
    if (this.#life === null || this.#life.end !== null) {
      /** @type {Life} */
      const life = {end: null};
      this.#life = life;
      this.#changed = new Flag();
      this.#tries = 0;
      this.#retryAfter = 0;
      this.#isOffline = this.#isBlocked = this.#hurries = false;
      this.#window = MAX_REQUESTS;
      this.#listen(true);
      this.#run(life);
    }
    return handedOut(this.#ready(this.#life), () => true); // `refused` and `state` tell it too
  }

  /** Close the socket and end; requests that are under way fail with ClosedError. */
  close() {
    this.#life ??= {end: null};
    this.#finish(this.#life, new ClosedError(1000, "closed by the client"));
  }

  /** Subscribe, now and on every socket to come, until `unsubscribe`. With a `position` (of `positions`, kept from an earlier
   * client) what came since is sent first, or `gap` says that this cannot be. Answers the server's reply; rejects with
   * RequestError. After a temporary one the client goes on trying by itself; after any other there is no subscription.
   * @param {string} channel @param {string} subId @param {{position?: string}} [options] @returns {Promise<Message>} */
  subscribe(channel, subId, options = {}) {
    return handedOut(this.#subscribe(channel, subId, options, null), isToldElsewhere);
  }

  /** Leave a subscription, all of a channel, or all there are; what handles want stays. Rejects with RequestError.
   * @param {string} [channel] @param {string} [subId] @returns {Promise<Message>} */
  unsubscribe(channel, subId) {
    const found = this.#wishes(channel, subId).filter((wish) => wish.plain);
    for (const wish of found) wish.plain = false;
    return handedOut(this.#leave(found, channel, subId), isToldElsewhere);
  }

  /** A handle on a channel, which counts: see Channel. @param {string} name @returns {Channel} */
  channel(name) {
    if (typeof name !== "string") throw new TypeError("a channel's name has to be a string");
    return new Channel(name, {
      subscribe: (handle, subId, options) => handedOut(this.#subscribe(name, subId, options, handle), isToldElsewhere),
      unsubscribe: (handle, subId) => handedOut(this.#unsubscribeHandle(name, handle, subId), isToldElsewhere),
      publish: (message, options) => this.publish(message, options),
      feeds: this.#feeds,
      isClosed: () => this.state === "closed",
    });
  }

  /** Publish a message; fulfilled when the fan-out has accepted it, with the server's reply (`id`, `pubsubId`). Rejects with
   * RequestError. After a temporary one it is sent again with the same id, `attempts` times in all, before all that was asked for
   * later: on the same socket it is published once; where the socket was lost before the answer came, it may be twice.
   * @param {Message} message @param {{attempts?: number}} [options] @returns {Promise<Message>} */
  publish(message, options = {}) {
    return handedOut(this.#publish(message, options), isToldElsewhere);
  }

  /** Publish an announce to a channel. As `publish`.
   * @param {string} channel @param {any} payload @param {{subId?: string, attempts?: number}} [options] @returns {Promise<Message>} */
  announce(channel, payload, options = {}) {
    const announcing = async () => {
      const {subId, attempts} = checkOptions("announce", options, ["subId", "attempts"]);
      return this.#publish({type: "announce", channel, subId, payload}, {attempts});
    };
    return handedOut(announcing(), isToldElsewhere);
  }

  /** The server's counts, with `detail` the lists behind them. Rejects with RequestError.
   * @param {{detail?: boolean, channel?: string}} [options] @returns {Promise<Message>} */
  getInfo(options = {}) {
    return handedOut(this.#getInfo(options), isToldElsewhere);
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

  /** A listener of `message` that throws has not taken it. @param {string} type @param {any} listener
   * @param {boolean | AddEventListenerOptions} [options] @override */
  addEventListener(type, listener, options) {
    super.addEventListener(type, type === "message" ? this.#guard(listener) : listener, options);
  }

  /** @param {string} type @param {any} listener @param {boolean | EventListenerOptions} [options] @override */
  removeEventListener(type, listener, options) {
    super.removeEventListener(type, type === "message" ? this.#guard(listener) : listener, options);
  }

  /** @param {any} listener */
  #guard(listener) {
    if (listener === null || (typeof listener !== "function" && typeof listener !== "object")) return listener;
    let guarded = this.#guarded.get(listener);
    if (guarded === undefined) {
      const client = this;
      guarded = (event) => call(typeof listener === "function" ? listener.bind(client) : (each) => listener.handleEvent(each), event);
      this.#guarded.set(listener, guarded);
    }
    return guarded;
  }

  // Life

  /** @param {Life} life */
  async #run(life) {
    try {
      let link = await this.#open(life, null);
      while (link !== null) {
        await link.leaving.promise;
        if (life.end !== null) return;
        if (link.ended.isSet) {
          this.#judge(link);
          link = await this.#open(life, link);
        } else {
          link = await this.#replace(life, link);
        }
      }
    } catch (error) {
      this.#finish(life, error instanceof ClosedError ? error : new ClosedError(1011, String(error)));
    }
  }

  /** @param {Life} life @param {ClosedError} end */
  #finish(life, end) {
    if (life.end !== null) return;
    life.end = end;
    this.#listen(false);
    this.#pause?.stop();
    this.#pause = null;
    this.#link = null;
    for (const link of [...this.#links]) this.#abandon(link, end.code);
    for (const call of this.#calls.splice(0)) {
      call.limit?.stop();
      call.reject(end);
    }
    for (const errand of [...this.#errands]) this.#done(errand, () => errand.reject(end));
    for (const {wishes} of this.#channels.values()) for (const wish of wishes.values()) rejectAll(wish, end);
    for (const feed of [...this.#feeds]) feed.end(end);
    this.#changed.set();
    this.#roomAgain.set();
    this.#wake();
    this.#become("closed");
  }

  /** Hear of what happens to the page. @param {boolean} begins */
  #listen(begins) {
    for (const [target, types, listener] of /** @type {[any, string[], () => void][]} */ ([
      [globalThis, ["online"], this.#online],
      [globalThis, ["offline"], this.#offline],
      [globalThis, ["pageshow"], this.#awake],
      [globalThis.document, ["resume"], this.#awake],
      [globalThis.document, ["visibilitychange"], this.#visible],
    ])) {
      for (const type of types) {
        if (begins) target?.addEventListener?.(type, listener);
        else target?.removeEventListener?.(type, listener);
      }
    }
  }

  #online = () => {
    this.#isOffline = false;
    this.#awake();
  };

  #offline = () => {
    this.#isOffline = true;
    if (this.#link === null) return;
    this.#become("waiting");
    this.#check(this.#link);
  };

  #visible = () => {
    if (globalThis.document.visibilityState === "visible") this.#awake();
  };

  /** The page may have slept, or the network may be another: what looks open is asked, and there is nothing to wait for. */
  #awake = () => {
    if (this.#link !== null) {
      this.#check(this.#link);
      return;
    }
    for (const link of [...this.#links]) {
      if (link.opened || this.#options.now() - link.began < CHECK_TIMEOUT) continue;
      this.#hurries = true;
      this.#abandon(link);
    }
    this.#wake();
  };

  /** Ask a socket whether it is there, and replace it at once where it is not. @param {Link} link */
  #check(link) {
    if (link.isChecked || link.ended.isSet) return;
    link.isChecked = true;
    const {count} = link;
    const done = (/** @type {boolean} */ isThere) => {
      if (!link.isChecked) return;
      link.isChecked = false;
      timer.stop();
      if (link.ended.isSet) return;
      if (!isThere) {
        this.#hurries = true;
        this.#abandon(link);
      } else if (link === this.#link) this.#become("open");
    };
    const timer = new Timer(this.#options.timers, CHECK_TIMEOUT, () => done(link.count !== count));
    this.#request(link, {type: "getInfo"}, {answered: () => done(true), failed: (error) => done(isAnAnswer(error))});
  }

  /** @param {State} state */
  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new StateEvent(state, this.#life?.end ?? undefined));
  }

  /** A link ended: throws ClosedError if there is to be no other, else notes how long the server wants us away. @param {Link} link */
  #judge(link) {
    if (!link.isWelcome || link.code === NOT_AUTHENTICATED) this.dispatchEvent(new RefusedEvent(explain(link, this.#url)));
    if (this.#life === null || this.#life.end !== null) return;
    if (!link.comesBack)
      throw new ClosedError(
        link.why.status ?? link.code,
        link.reason || String(link.farewell?.reason ?? STATUSES[link.why.status ?? 0] ?? ""),
      );
    if (this.#options.now() - link.began >= PROVEN) this.#tries = 0;
    this.#isBlocked = link.why.blocked === true;
    this.#retryAfter = timeAway(link.farewell?.retryAfterMs ?? link.why.retryAfter);
  }

  /** A link that is ready, however often it has to be tried; null when the client has ended. @param {Life} life @param {Link | null} before */
  async #open(life, before) {
    if (before !== null) await this.#wait(life);
    while (life.end === null) {
      if (this.#link === null) this.#become("connecting");
      const link = await this.#try(life, before);
      if (link !== null && life.end === null) {
        this.#use(link);
        return link;
      }
      if (life.end === null) await this.#wait(life);
    }
    return null;
  }

  /** From now on this link takes requests. @param {Link} link */
  #use(link) {
    if (!link.ended.isSet) {
      this.#link = link;
      this.#changed.set();
      this.#become("open");
    }
    for (const errand of [...this.#errands]) this.#send(errand);
    this.#speak();
  }

  /** Full jitter: any time up to a bound that doubles, after what the server asked for. @param {Life} life */
  async #wait(life) {
    if (this.#link === null) this.#become("waiting");
    while (this.#untaken > this.#options.maxUntaken / 2 && !this.#isAsking && life.end === null) {
      this.#roomAgain = new Flag();
      await this.#roomAgain.promise;
    }
    if (life.end !== null) return;
    const delay = this.#retryAfter + this.#jitter(this.#isOffline || this.#isBlocked ? Infinity : this.#tries);
    this.#retryAfter = 0;
    this.#tries += 1;
    if (this.#hurries) {
      this.#hurries = false;
      return;
    }
    /** @type {Timer | undefined} */
    let timer;
    await new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      timer = new Timer(this.#options.timers, delay, this.#wake);
    });
    timer?.stop();
  }

  /** @param {number} tries */
  #jitter(tries) {
    return this.#options.random() * Math.min(this.#options.longestWait, this.#options.firstWait * 2 ** Math.min(tries, 30));
  }

  /** One try; null if there has to be another. Throws ClosedError. @param {Life} life @param {Link | null} before */
  async #try(life, before) {
    const now = this.#options.now();
    const position = this.#inbox.resume(now);
    const url = new URL(this.#url);
    if (position !== undefined) url.searchParams.set("position", position);
    const link = new Link(now, before, position);
    if (before !== null && !before.ended.isSet) {
      link.before = before;
      link.held = [];
    }
    this.#links.add(link);
    before?.ended.promise.then(() => this.#isAlone(link));
    this.#dial(link, url);
    await link.decided.promise;
    if (!link.ended.isSet) {
      this.#watch(link);
      return link;
    }
    link.held = null; // what a link held that never came into use is asked for again by the next
    if (!link.isWelcome && globalThis.document !== undefined) await new Promise((resolve) => setTimeout(resolve)); // for why
    if (life.end === null) this.#judge(link);
    return null;
  }

  /** @param {Link} link @param {URL} url */
  #dial(link, url) {
    const {WebSocket, requestTimeout, openTimeout, timers} = this.#options;
    const {dialling, stop} = listenForWhy(link, url);
    link.ended.promise.then(() => setTimeout(stop));
    /** @type {Timer | Limit} */
    let limit = new Timer(timers, openTimeout, () => {
      link.why.late = openTimeout;
      this.#abandon(link);
    });
    link.welcomed.promise.then(() => limit.stop());
    /** @type {WebSocket} */
    let socket;
    try {
      socket = dialling(() => new WebSocket(url.href));
    } catch (error) {
      link.why = {...link.why, blocked: true, cause: error};
      this.#ended(link, 1006, "");
      return;
    }
    link.socket = socket;
    socket.onopen = () => {
      stop();
      limit.stop();
      link.opened = true;
      link.why = {};
      if (link.welcomed.isSet) return;
      limit = new Limit(this.#options, requestTimeout, link, () => {
        link.why.late = requestTimeout;
        this.#abandon(link);
      });
    };
    socket.onmessage = ({data}) => this.#heard(link, data);
    socket.onclose = ({code, reason}) => this.#ended(link, code, reason);
    socket.onerror = (event) => {
      if (link.opened) return; // the close says more
      const {message, error} = /** @type {any} */ (event);
      link.why.cause ??= error;
      const text = message ?? error?.message;
      link.why.status ??= statusIn(text);
      link.why.text ??= text;
      // Node 20 says no more of a refused upgrade, nor does Chromium of a socket that the page's policy forbids.
      if (isInBrowser()) setTimeout(() => this.#ended(link, 1006, ""), CLOSE_FOLLOWS);
      else this.#ended(link, 1006, "");
    };
  }

  /** Note that the link which this one was to replace is gone. @param {Link} link */
  #isAlone(link) {
    link.before = null;
    if (!link.isWelcome || link.ended.isSet) return;
    for (const stream of this.#channels.values()) for (const wish of stream.wishes.values()) this.#sync(link, stream, wish);
    link.decided.set();
  }

  /** Close a socket and wait for nothing: a dead network would not even let it close. @param {Link} link @param {number} [code] */
  #abandon(link, code = 1006) {
    this.#ended(link, code, "");
    try {
      link.socket?.close(1000);
    } catch {
      // some classes cannot close what is not open
    }
  }

  /** @param {Link} link @param {number} code @param {string} reason */
  #ended(link, code, reason) {
    if (link.ended.isSet) return;
    link.code = code;
    link.reason = reason;
    this.#links.delete(link);
    this.#unusable(link);
    for (const flag of [link.ended, link.leaving, link.decided, link.welcomed]) flag.set();
    const requests = [...link.requests.values()];
    link.requests.clear();
    for (const {message, failed, limit} of requests) {
      limit?.stop();
      failed(lost(message));
    }
  }

  /** No further request goes to this link. @param {Link} link */
  #unusable(link) {
    if (this.#link !== link || this.#life?.end !== null) return;
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
        timer = new Timer(timers, rest, look);
        return;
      }
      const goOn = () => {
        timer = new Timer(timers, silence, look);
      };
      this.#request(link, {type: "getInfo"}, {answered: goOn, failed: (error) => (isAnAnswer(error) ? goOn() : this.#abandon(link))});
    };
    let timer = new Timer(timers, silence, look);
    link.ended.promise.then(() => timer.stop());
  }

  /** Make before break: set up the new link, close the old one, then let the new one go. @param {Life} life @param {Link} old */
  async #replace(life, old) {
    this.#retryAfter = timeAway(old.farewell?.retryAfterMs);
    this.#tries = 0;
    if (old.isReplaced) this.#hurries = old.muted = true; // what it brings is asked for anew
    const link = await this.#open(life, old);
    if (link === null) return null;
    await this.#finishWith(old, link);
    this.#takeIn(link);
    return link;
  }

  /** Let a link bring what it still owes, and close it. @param {Link} old @param {Link} link */
  async #finishWith(old, link) {
    const over = new Flag();
    let times = 0;
    const again = () => {
      const {count} = old;
      return new Timer(this.#options.timers, FINISH_TIMEOUT, () => {
        times += 1;
        if (old.count === count || times === FINISH_TIMES) over.set();
        else timer = again();
      });
    };
    let timer = again();
    const answered = Promise.all([...old.requests.values()].map(settled));
    const {ended} = old;
    await Promise.race([ended.promise, over.promise, answered, link.full.promise]);
    if (link.full.isSet && !ended.isSet && old.requests.size > 0) {
      old.muted = true; // the new one brings it all
      this.#takeIn(link);
      await Promise.race([ended.promise, over.promise, answered]);
    }
    if (!ended.isSet) old.socket?.close(1000);
    await Promise.race([ended.promise, over.promise, link.full.promise]);
    timer.stop();
    this.#abandon(old);
  }

  /** From now on what a link brings is handed over, first what it has brought so far. @param {Link} link */
  #takeIn(link) {
    const {held} = link;
    if (held === null) return;
    link.held = null;
    if (link.ended.isSet) return; // it is all asked for again
    for (const [channel, subIds] of link.subscriptions) {
      const stream = this.#channels.get(channel);
      for (const [subId, {wish, from}] of subIds) {
        if (from !== undefined && stream?.wishes.get(subId) === wish) stream.resumes(wish, from);
      }
    }
    for (const [message, request] of held) {
      if (link.ended.isSet) return;
      const {channel, subId} = message;
      const wasLeft =
        request === undefined &&
        channel !== undefined &&
        link.left.size > 0 &&
        (link.left.has(addressed(channel)) || (subId !== undefined && link.left.has(addressed(channel, subId))));
      if (!wasLeft) this.#accept(link, message, request);
    }
    link.left.clear();
  }

  // Receive

  /** @param {Link} link @param {any} data */
  #heard(link, data) {
    if (link.ended.isSet) return;
    link.heard = this.#came.heard = this.#options.now();
    link.count += 1;
    this.#came.count += 1;
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
      request.limit?.stop();
    }
    if (request === undefined || request.asked !== undefined) {
      if (message.type === "welcome" && !link.isWelcome) this.#welcomed(link, message);
      if (link.held !== null) {
        link.held.push([message, request]);
        if (link.held.length >= MAX_HELD) {
          link.full.set();
          link.decided.set();
        }
      } else if (!link.muted) this.#accept(link, message, request);
    }
    if (request === undefined) return;
    if (message.type === "error") request.failed(errorOf(message, request.message));
    else request.answered(message);
  }

  /** @param {Link} link @param {Message} welcome */
  #welcomed(link, welcome) {
    this.welcome = welcome;
    link.isWelcome = link.opened = true;
    link.welcomed.set();
    for (const stream of this.#channels.values()) for (const wish of stream.wishes.values()) this.#sync(link, stream, wish);
    if (link.before === null || link.unsettled === 0) link.decided.set();
  }

  /** Take what came in its place among all that came. @param {Link} link @param {Message} message @param {Request} [request] */
  #accept(link, message, request) {
    if (request?.asked !== undefined) this.#acceptSubscription(link, request.asked, message);
    else if (message.type === "welcome") this.#acceptWelcome(link, message);
    else if (message.type === "error") this.dispatchEvent(new RefusedEvent(errorOf(message)));
    else if (!NOT_MESSAGES.has(message.type)) this.#acceptMessage(link, message); // else an answer that came too late
    if (this.#untaken < this.#options.maxUntaken || link.isTight) return;
    link.isTight = true;
    setTimeout(() => {
      link.isTight = false; // unless an answer that came in this turn has changed that
      if (this.#untaken >= this.#options.maxUntaken && !this.#isAsking) this.#abandon(link);
    });
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

  /** @param {Link} link @param {Asked} asked @param {Message} answer */
  #acceptSubscription(link, {wish, resumed}, answer) {
    const {channel, subId} = wish;
    const stream = this.#channels.get(channel);
    const group = link.recovering.get(channel);
    if (answer.type !== "error" && stream !== undefined && stream.wishes.get(subId) === wish) {
      if (resumed && answer.recovered !== true) {
        if (group !== undefined) group.allRecovered = false;
        stream.giveUpRefused();
      }
      if (!wish.isPlaced && wish.start === null && answer.position !== undefined) wish.start = {from: answer.position};
      wish.isPlaced = true;
      if (!link.skipped.has(stream)) stream.reached(answer.position, wish); // else something before it is asked for again
    }
    if (resumed) this.#isAnswered(link, wish);
  }

  /** Say how the subscriptions of a channel went on, where the last of them is answered.
   * @param {Link} link @param {Wish} wish */
  #isAnswered(link, wish) {
    const {channel} = wish;
    const group = link.recovering.get(channel);
    if (group === undefined || !group.awaited.delete(wish) || group.awaited.size > 0) return;
    link.recovering.delete(channel);
    if (!this.#channels.has(channel)) return;
    const event = new RecoveryEvent(channel, group.allRecovered);
    this.dispatchEvent(event);
    for (const handle of [...(this.#handles.get(channel) ?? [])]) handle.recovered(event);
  }

  /** @param {Link} link @param {Message} message */
  #acceptMessage(link, message) {
    const wantsAck = this.#ackTypes.has(message.type) || message.isRetry === true;
    const key = keyOf(message);
    const before = key === null ? undefined : this.#seen.get(key);
    const stream = message.channel === undefined ? this.#inbox : this.#channels.get(message.channel);
    if (before !== undefined) {
      if (link.skipped.has(stream ?? this.#inbox) && before.taken !== YES) return; // nor is its place known
      // What was replayed from an earlier place has come to this one again.
      stream?.note({position: message.position, wantsAck: false, taken: NOT_YET, repeats: before});
      before.wantsAck ||= wantsAck;
      if (before.taken === YES && wantsAck) this.#acknowledge(before);
      else if (before.taken === REFUSED) this.#handOver(before, message);
      return;
    }
    if (this.#untaken >= this.#options.maxUntaken) link.skipped.add(stream ?? this.#inbox);
    if (link.skipped.has(stream ?? this.#inbox)) return; // it is asked for again
    const delivery = {position: message.position, id: message.id, wantsAck, taken: NOT_YET};
    if (key !== null) remember(this.#seen, key, delivery);
    stream?.note(delivery);
    const isOwn = message.type === "announce" && message.id !== undefined && this.#said.has(nameOf(message.id, message));
    if (isOwn) this.#settle(delivery);
    else this.#handOver(delivery, message);
  }

  /** @param {Delivery} delivery @param {Message} message */
  #handOver(delivery, message) {
    delivery.taken = NOT_YET;
    const event = new MessageEvent(message);
    this.dispatchEvent(event);
    const {channel, subId} = message;
    const handles = channel === undefined ? undefined : this.#handles.get(channel);
    if (handles !== undefined) {
      for (const handle of [...handles]) if (subId === undefined || handle.subIds.has(subId)) handle.receive(event);
    }
    event.isOver = true;
    if (event.awaited.length === 0) {
      this.#settle(delivery);
      return;
    }
    this.#untaken += 1;
    Promise.allSettled(event.awaited).then((results) => {
      const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
      const isTaken = failures.every((error) => error instanceof GivenUp && !delivery.wantsAck);
      if (isTaken) this.#settle(delivery);
      else delivery.taken = REFUSED;
      this.#untaken -= 1;
      if (this.#untaken > this.#options.maxUntaken / 2) return;
      this.#roomAgain.set();
      for (const link of this.#links) {
        if (link.skipped.size === 0 || link.muted) continue;
        link.isReplaced = true;
        link.leaving.set();
      }
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
    for (const link of this.#links) if (link.isWelcome) this.#write(link, JSON.stringify({type: "ack", id}));
  }

  // Subscribe

  /** @param {string} channel @param {string} subId @param {{position?: string}} options @param {Handle | null} handle
   * @returns {Promise<Message>} */
  async #subscribe(channel, subId, options, handle) {
    const {position} = checkOptions("subscribe", options, ["position"]);
    for (const name of [channel, subId]) if (typeof name !== "string") throw new TypeError("channel and subId have to be strings");
    if (position !== undefined && typeof position !== "string") throw new TypeError("position has to be a string");
    this.#mustBeConnected();
    let stream = this.#channels.get(channel);
    if (stream === undefined) this.#channels.set(channel, (stream = new Stream(position)));
    let wish = stream.wishes.get(subId);
    if (wish === undefined) stream.wishes.set(subId, (wish = new Wish(channel, subId)));
    if (handle === null) wish.plain = true;
    else {
      wish.handles.add(handle);
      handle.subIds.add(subId);
      const handles = this.#handles.get(channel) ?? new Set();
      this.#handles.set(channel, handles.add(handle));
    }
    if (position !== undefined) stream.resumes(wish, position);
    const answer = this.#answerFor(wish);
    for (const link of [...this.#links]) {
      if (link !== this.#link || link.asked(channel, subId) === undefined) this.#sync(link, stream, wish);
      else this.#askFor(link, stream, wish, position); // again, for its answer
    }
    return answer;
  }

  /** @param {Wish} wish @returns {Promise<Message>} */
  #answerFor(wish) {
    this.#waiting += 1;
    this.#roomAgain.set();
    return new Promise((resolve, reject) => {
      const over = () => {
        limit.stop();
        wish.waiters.delete(waiter);
        this.#waiting -= 1;
      };
      /** @type {Waiter} */
      const waiter = {resolve: (answer) => (over(), resolve(answer)), reject: (error) => (over(), reject(error))};
      wish.waiters.add(waiter);
      const {channel, subId} = wish;
      const late = () => waiter.reject(this.#late({type: "subscribe", channel, subId}));
      const limit = new Limit(this.#options, this.#options.requestTimeout, this.#came, late);
    });
  }

  /** Ask for a subscription where that was not done. @param {Link} link @param {Stream} stream @param {Wish} wish */
  #sync(link, stream, wish) {
    const {channel, subId} = wish;
    if (!link.isWelcome || link.ended.isSet || link.asked(channel, subId) !== undefined) return;
    // What is new while a socket is replaced goes on from where the old one has begun with it.
    if (link.before !== null && !wish.confirmed && link.before.asked(channel, subId) !== undefined) return;
    const from = wish.start !== null ? wish.start.from : wish.confirmed ? stream.position : undefined;
    this.#askFor(link, stream, wish, from, link.resumed && wish.confirmed);
  }

  /** @param {Link} link @param {Stream} stream @param {Wish} wish @param {string | undefined} from @param {boolean} [comesBack] */
  #askFor(link, stream, wish, from, comesBack = false) {
    const {channel, subId} = wish;
    if (!isWritable(link)) return; // the next one is asked
    /** @type {Asked} */
    const asked = {wish, from, resumed: comesBack || from !== undefined};
    link.ask(channel, subId, asked);
    link.left.delete(addressed(channel, subId));
    link.left.delete(addressed(channel));
    link.unsettled += 1;
    if (asked.resumed) {
      const group = link.recovering.get(channel) ?? {awaited: new Set(), allRecovered: true};
      link.recovering.set(channel, group);
      group.awaited.add(wish);
    }
    if (link.held === null && from !== undefined) stream.resumes(wish, from);
    this.#request(
      link,
      {type: "subscribe", channel, subId, position: from},
      {
        asked,
        answered: (answer) => this.#confirmed(link, wish, answer),
        failed: (error) => this.#notConfirmed(link, asked, error),
      },
    );
  }

  /** @param {Link} link @param {Wish} wish @param {Message} answer */
  #confirmed(link, wish, answer) {
    const {channel, subId} = wish;
    const stream = this.#channels.get(channel);
    if (stream !== undefined && stream.wishes.get(subId) === wish) {
      wish.confirmed = true;
      for (const each of [...this.#links]) if (each.before === link) this.#sync(each, stream, wish);
    }
    for (const waiter of [...wish.waiters]) waiter.resolve(answer);
    this.#isSettled(link);
  }

  /** @param {Link} link */
  #isSettled(link) {
    link.unsettled -= 1;
    if (link.unsettled === 0 && link.isWelcome) link.decided.set();
  }

  /** @param {Link} link @param {Asked} asked @param {RequestError} error */
  #notConfirmed(link, asked, error) {
    const {wish} = asked;
    const {channel, subId} = wish;
    const stream = this.#channels.get(channel);
    const isWanted = stream !== undefined && stream.wishes.get(subId) === wish;
    if (error.code === "connection_lost") {
      if (!isWanted) rejectAll(wish, unsubscribed(wish)); // else it is asked for on the next
      return;
    }
    const isLatest = link.asked(channel, subId) === asked;
    if (error.code === "timeout") {
      // It may be there or not, and the server says nothing at all.
      if (isWanted && isLatest) this.#abandon(link);
      return;
    }
    if (isLatest) link.forget(channel, subId);
    this.#isAnswered(link, wish);
    if (isWanted && error.temporary) {
      rejectAll(wish, error);
      const delay = Math.max(timeAway(error.retryAfter), this.#jitter(0));
      const timer = new Timer(this.#options.timers, delay, () => {
        if (link.ended.isSet) return;
        if (stream.wishes.get(subId) === wish) this.#sync(link, stream, wish);
        this.#isSettled(link);
      });
      link.ended.promise.then(() => timer.stop());
      return;
    }
    if (isWanted) {
      if (wish.waiters.size === 0) this.dispatchEvent(new RefusedEvent(error));
      this.#forget(wish);
      for (const each of this.#links) this.#leaveOn(each, channel, subId);
    }
    rejectAll(wish, error);
    this.#isSettled(link);
  }

  /** All that are wanted of these. @param {string} [channel] @param {string} [subId] @returns {Wish[]} */
  #wishes(channel, subId) {
    const streams = channel === undefined ? [...this.#channels.values()] : [this.#channels.get(channel)];
    return streams.flatMap((stream) => [...(stream?.wishes.values() ?? [])]).filter((wish) => subId === undefined || wish.subId === subId);
  }

  /** @param {string} channel @param {Handle} handle @param {string} [subId] */
  async #unsubscribeHandle(channel, handle, subId) {
    const found = this.#wishes(channel, subId).filter((wish) => wish.handles.delete(handle));
    for (const wish of found) handle.subIds.delete(wish.subId);
    if (handle.subIds.size === 0) this.#handleIsIdle(channel, handle);
    if (found.length === 0) return nothingLeft(channel, subId);
    return this.#leave(found, channel, found.some((wish) => wish.isWanted) ? null : subId);
  }

  /** @param {string} channel @param {Handle} handle */
  #handleIsIdle(channel, handle) {
    const handles = this.#handles.get(channel);
    handles?.delete(handle);
    if (handles?.size === 0) this.#handles.delete(channel);
  }

  /** Leave, on every socket, what is wanted no more. `found` are those that were given up by somebody; null for
   * `subId`: those alone.
   * @param {Wish[]} found @param {string} [channel] @param {string | null} [subId] @returns {Promise<Message>} */
  async #leave(found, channel, subId) {
    const left = found.filter((wish) => !wish.isWanted);
    for (const wish of left) {
      this.#forget(wish);
      const isAsked = [...this.#links].some((link) => link.asked(wish.channel, wish.subId)?.wish === wish);
      if (!isAsked) rejectAll(wish, unsubscribed(wish));
    }
    const isAll = subId !== null && this.#wishes(channel, subId).length === 0;
    /** @type {[string | undefined, string | undefined][]} */
    const addresses = isAll ? [[channel, subId]] : left.map((wish) => [wish.channel, wish.subId]);
    for (const link of this.#links) if (link !== this.#link) for (const address of addresses) this.#leaveOn(link, ...address);
    if (this.#life === null || this.#life.end !== null) return nothingLeft(channel, subId ?? undefined);
    const answers = await Promise.all(addresses.map((address) => this.#leaveHere(...address)));
    if (answers.length === 1) return answers[0];
    const sum = nothingLeft(channel, subId ?? undefined);
    for (const answer of answers) for (const name of LEFT) sum[name] += answer[name] ?? 0;
    return sum;
  }

  /** @param {Wish} wish */
  #forget(wish) {
    const {channel, subId} = wish;
    const stream = this.#channels.get(channel);
    stream?.wishes.delete(subId);
    stream?.drop(wish);
    if (stream?.wishes.size === 0) this.#channels.delete(channel);
    for (const handle of wish.handles) {
      handle.subIds.delete(subId);
      if (handle.subIds.size === 0) this.#handleIsIdle(channel, handle);
    }
    for (const link of [...this.#links]) this.#isAnswered(link, wish);
  }

  /** Leave on the socket that is in use, or the next, and answer the server's reply.
   * @param {string} [channel] @param {string} [subId] @returns {Promise<Message>} */
  #leaveHere(channel, subId) {
    if (this.#link !== null) forgetAll(this.#link, channel, subId);
    return this.#errand({type: "unsubscribe", channel, subId}, () => this.#wishes(channel, subId).length > 0);
  }

  /** Leave on a socket, if it is there. @param {Link} link @param {string} [channel] @param {string} [subId] */
  #leaveOn(link, channel, subId) {
    if (forgetAll(link, channel, subId) && link.isWelcome)
      this.#tell(link, {type: "unsubscribe", channel, subId}, () => this.#wishes(channel, subId).length > 0);
  }

  /** Tell this link, and again while it cannot take it. @param {Link} link @param {Message} message @param {() => boolean} isMoot */
  #tell(link, message, isMoot) {
    this.#request(link, message, {answered: () => {}, failed: (error) => this.#tellLater(link, message, isMoot, error)});
  }

  /** @param {Link} link @param {Message} message @param {() => boolean} isMoot @param {RequestError} error */
  #tellLater(link, message, isMoot, error) {
    if (!error.temporary || link.ended.isSet) return;
    const timer = new Timer(this.#options.timers, Math.max(timeAway(error.retryAfter), this.#jitter(0)), () => {
      if (!link.ended.isSet && !isMoot()) this.#tell(link, message, isMoot);
    });
    link.ended.promise.then(() => timer.stop());
  }

  // Ask

  /** The link that takes requests, if it does. */
  #usable() {
    if (this.#link !== null && !isWritable(this.#link)) this.#unusable(this.#link);
    return this.#link;
  }

  get #isAsking() {
    return this.#underWay > 0 || this.#calls.length > 0 || this.#errands.size > 0 || this.#waiting > 0;
  }

  #mustBeConnected() {
    if (this.#life === null) throw new RequestError("not_connected", "call connect() first", false);
    if (this.#life.end !== null) throw this.#life.end;
  }

  /** When there is a link that takes requests. @param {Life} life @returns {Promise<void>} */
  async #ready(life) {
    while (life.end === null) {
      if (this.#link !== null) return;
      await this.#changed.promise;
    }
    throw life.end;
  }

  /** @param {{detail?: boolean, channel?: string}} options */
  async #getInfo(options) {
    const {detail = false, channel} = checkOptions("getInfo", options, ["detail", "channel"]);
    this.#mustBeConnected();
    return this.#errand({type: detail ? "getInfoDetail" : "getInfo", channel}, () => false);
  }

  /** For what may be said twice: a lost socket is no reason to give up. @param {Message} message @param {() => boolean} isMoot
   * @returns {Promise<Message>} */
  #errand(message, isMoot) {
    return new Promise((resolve, reject) => {
      if (this.#errands.size >= MAX_WAITING) throw new RequestError("too_many", "too many requests are under way", true, message);
      /** @type {Errand} */
      const errand = {message, isMoot, resolve, reject, link: null, limit: null};
      this.#errands.add(errand);
      this.#roomAgain.set();
      this.#send(errand);
    });
  }

  /** @param {Errand} errand */
  #send(errand) {
    const {message, link: before} = errand;
    if (before !== null) return;
    if (errand.isMoot()) {
      this.#done(errand, () => errand.resolve(nothingLeft(message.channel, message.subId)));
      return;
    }
    const link = this.#usable();
    if (link === null) {
      errand.limit ??= new Limit(this.#options, this.#options.requestTimeout, this.#came, () =>
        this.#done(errand, () => errand.reject(this.#late(message))),
      );
      return;
    }
    errand.limit?.stop();
    errand.limit = null;
    errand.link = link;
    this.#request(link, message, {
      answered: (answer) => this.#done(errand, () => errand.resolve(answer)),
      failed: (error) => {
        if (error.code === "connection_lost" && this.#life?.end === null) {
          errand.link = null;
          this.#send(errand);
          return;
        }
        if (message.type === "unsubscribe") this.#tellLater(link, message, errand.isMoot, error);
        this.#done(errand, () => errand.reject(this.#life?.end ?? error));
      },
    });
  }

  /** @param {Errand} errand @param {() => void} settle */
  #done(errand, settle) {
    errand.limit?.stop();
    if (this.#errands.delete(errand)) settle();
  }

  /** @param {Message} message @param {{attempts?: number}} options @returns {Promise<Message>} */
  async #publish(message, options) {
    const {attempts = 1} = checkOptions("publish", options, ["attempts"]);
    checkNumber("attempts", attempts, false);
    this.#mustBeConnected();
    const {ackId, ...said} = message; // the client's own
    const complete = {...said, id: said.id ?? newId()};
    const text = JSON.stringify(complete); // as it is now, and what cannot be said is told at once
    if (this.#calls.length >= MAX_WAITING) throw new RequestError("too_many", "too many requests are under way", true, complete);
    if (complete.type === "announce") remember(this.#said, nameOf(complete.id, complete), true);
    this.#numbers += 1;
    const number = this.#numbers;
    return new Promise((resolve, reject) => {
      this.#waitForTurn({number, message: complete, text, attempts, tries: 0, resolve, reject});
      this.#speak();
    });
  }

  /** @param {Call} call */
  #waitForTurn(call) {
    const calls = this.#calls;
    let place = calls.length;
    while (place > 0 && calls[place - 1].number > call.number) place -= 1;
    calls.splice(place, 0, call);
    this.#roomAgain.set();
    const arm = () => {
      call.limit = new Limit(this.#options, this.#options.requestTimeout, this.#came, () => {
        call.tries += 1;
        if (this.#link !== null)
          call.tries -= 1; // it has yet to have its turn
        else if (call.tries >= call.attempts) {
          calls.splice(calls.indexOf(call), 1);
          call.reject(this.#late(call.message));
          return;
        }
        arm();
      });
    };
    arm();
  }

  /** Send what waits its turn. What fails for the moment is sent again before the rest, one by one at first. */
  #speak() {
    while (this.#pause === null && this.#calls.length > 0 && this.#underWay < this.#window) {
      const link = this.#usable();
      if (link === null || (this.#underWay > 0 && this.#speaking !== link)) return;
      const call = /** @type {Call} */ (this.#calls.shift());
      call.limit?.stop();
      this.#speaking = link;
      this.#underWay += 1;
      this.#request(link, call.message, {
        text: call.text,
        answered: (answer) => {
          this.#underWay -= 1;
          if (this.#pause === null) this.#window = Math.min(MAX_REQUESTS, this.#window * 2);
          call.resolve(answer);
          this.#speak();
        },
        failed: (error) => {
          this.#underWay -= 1;
          call.tries += 1;
          const end = this.#life?.end;
          if (end || !error.temporary || call.tries >= call.attempts) call.reject(end || error);
          else {
            this.#waitForTurn(call);
            if (error.code !== "connection_lost") this.#rest(Math.max(timeAway(error.retryAfter), this.#jitter(call.tries - 1)));
          }
          this.#speak();
        },
      });
    }
  }

  /** @param {number} delay */
  #rest(delay) {
    this.#window = 1;
    this.#pause ??= new Timer(this.#options.timers, delay, () => {
      this.#pause = null;
      this.#speak();
    });
  }

  /** @param {Message} message */
  #late(message) {
    return new RequestError("timeout", `no answer in ${this.#options.requestTimeout} ms`, true, message);
  }

  /** Send a request; it is answered, or it fails.
   * @param {Link} link @param {Message} message
   * @param {{asked?: Asked, text?: string, answered: (answer: Message) => void, failed: (error: RequestError) => void}} how */
  #request(link, message, {asked, text = JSON.stringify(message), answered, failed}) {
    this.#numbers += 1;
    const number = this.#numbers;
    /** @type {Request} */
    const request = {message, asked, answered, failed};
    if (!this.#write(link, `{"ackId":${number},${text.slice(1)}`)) {
      this.#unusable(link);
      queueMicrotask(() => failed(lost(message)));
      return;
    }
    link.requests.set(number, request);
    request.limit = new Limit(this.#options, this.#options.requestTimeout, link, () => {
      link.requests.delete(number);
      failed(this.#late(message));
    });
  }

  /** @param {Link} link @param {string} text */
  #write(link, text) {
    if (!isWritable(link)) return false;
    link.socket?.send(text);
    return true;
  }
}

const KNOWN = [
  "ackTypes",
  "position",
  "requestTimeout",
  "openTimeout",
  "firstWait",
  "longestWait",
  "silence",
  "maxUntaken",
  "WebSocket",
  "random",
  "now",
  "timers",
];
const LEFT = ["removedConnectionCount", "subscriptionsDeleted", "channelsDeleted"];

/** Call a listener. What it throws, and the promise that it answers, are the message's. @param {(event: any) => any} listener
 * @param {Event} event */
function call(listener, event) {
  const fail = (/** @type {unknown} */ error) => {
    if (typeof globalThis.reportError === "function") globalThis.reportError(error);
    else console.error(error);
  };
  try {
    const result = listener(event);
    if (typeof result?.then !== "function") return;
    if (event instanceof MessageEvent) event.waitUntil(result);
    result.then(undefined, fail);
  } catch (error) {
    if (event instanceof MessageEvent) event.waitUntil(Promise.reject(error));
    fail(error);
  }
}

/** When a request is answered, or will not be. @param {Request} request @returns {Promise<void>} */
function settled(request) {
  return new Promise((done) => {
    const {answered, failed} = request;
    request.answered = (answer) => (answered(answer), done());
    request.failed = (error) => (failed(error), done());
  });
}

/** A promise for the application: nobody has to handle the rejections that it is told of elsewhere.
 * @template T @param {Promise<T>} promise @param {(error: unknown) => boolean} isTold @returns {Promise<T>} */
function handedOut(promise, isTold) {
  /** @type {Promise<T>} */
  const outer = new Promise((resolve, reject) => {
    promise.then(resolve, (error) => {
      if (isTold(error)) outer.catch(() => {});
      reject(error);
    });
  });
  return outer;
}

/** By the `state` event, or by its own `unsubscribe`. @param {unknown} error */
function isToldElsewhere(error) {
  return error instanceof ClosedError || (error instanceof RequestError && error.code === "unsubscribed");
}

/** @param {Link} link */
function isWritable({ended, socket}) {
  return !ended.isSet && socket?.readyState === 1;
}

/** Return whether the server said this. @param {RequestError} error */
function isAnAnswer({code}) {
  return code !== "timeout" && code !== "connection_lost";
}

/** @param {Wish} wish @param {Error} error */
function rejectAll(wish, error) {
  for (const waiter of [...wish.waiters]) waiter.reject(error);
}

/** @param {Wish} wish */
function unsubscribed({channel, subId}) {
  return new RequestError("unsubscribed", "unsubscribe() came before the server had confirmed it", false, {
    type: "subscribe",
    channel,
    subId,
  });
}

/** Return the answer of a server that had nothing to leave.
 * @param {string} [channel] @param {string} [subId] @returns {Message} */
function nothingLeft(channel, subId) {
  return {type: "ack", channel, subId, ...Object.fromEntries(LEFT.map((name) => [name, 0]))};
}

/** @param {string} channel @param {string} [subId] */
function addressed(channel, subId) {
  return JSON.stringify([channel, subId]);
}

/** A link is to leave these; answers whether it had any. @param {Link} link @param {string} [channel] @param {string} [subId] */
function forgetAll(link, channel, subId) {
  let found = false;
  for (const [name, subIds] of [...link.subscriptions]) {
    if (channel !== undefined && name !== channel) continue;
    for (const each of [...subIds.keys()]) {
      if (subId !== undefined && each !== subId) continue;
      found = true;
      link.forget(name, each);
      if (link.held !== null) link.left.add(addressed(name, each));
    }
    if (link.held !== null && !link.subscriptions.has(name)) link.left.add(addressed(name));
  }
  return found;
}

function isInBrowser() {
  return globalThis.document !== undefined || /** @type {any} */ (globalThis).WorkerGlobalScope !== undefined;
}

/** @param {string | URL} url */
function addressOf(url) {
  const text = String(url);
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  /** @type {URL} */
  let found;
  if (URL.canParse?.(text) ?? /^[a-z][a-z0-9+.-]*:/i.test(text)) found = new URL(text);
  else {
    try {
      found = new URL(text, base);
    } catch {
      throw new TypeError(`not the address of a WebSocket, and no page that it could be relative to: ${text}`);
    }
    found.protocol = found.protocol.replace(/^http/, "ws");
  }
  if (found.protocol !== "ws:" && found.protocol !== "wss:")
    throw new TypeError(`not the address of a WebSocket, which begins with ws: or wss: (or is relative to a page): ${text}`);
  found.hash = "";
  return found;
}

/** @template {object} T @param {string} what @param {T} options @param {string[]} known @returns {T} */
function checkOptions(what, options, known) {
  if (options === null || typeof options !== "object") throw new TypeError(`the options of ${what} have to be an object`);
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    const nearest = known
      .map((each) => ({each, away: distance(each.toLowerCase(), name.toLowerCase())}))
      .sort((one, other) => one.away - other.away)[0];
    const hint = nearest.away <= Math.max(2, name.length / 3) ? `; did you mean ${nearest.each}?` : `; there are ${known.join(", ")}`;
    throw new TypeError(`${what} has no option ${name}${hint}`);
  }
  return options;
}

/** How many letters have to change. @param {string} one @param {string} other */
function distance(one, other) {
  let row = Array.from({length: other.length + 1}, (_, index) => index);
  for (let at = 1; at <= one.length; at += 1) {
    const next = [at];
    for (let to = 1; to <= other.length; to += 1) {
      next.push(Math.min(next[to - 1] + 1, row[to] + 1, row[to - 1] + (one[at - 1] === other[to - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[other.length];
}

/** @param {string} name @param {unknown} value @param {boolean} mayBeZero */
function checkNumber(name, value, mayBeZero) {
  if (typeof value === "number" && (value > 0 || (mayBeZero && value === 0))) return;
  throw new TypeError(`${name} has to be a number above 0, or Infinity${mayBeZero ? ", or 0" : ""}: ${String(value)}`);
}

/** Hear why a socket is not opened, where the socket itself does not say it. `dialling` calls what makes the socket; `stop` ends this.
 * @param {Link} link @param {URL} url @returns {{dialling: (dial: () => WebSocket) => WebSocket, stop: () => void}} */
function listenForWhy(link, url) {
  const blocked = (/** @type {any} */ {effectiveDirective, blockedURI, disposition}) => {
    if (disposition === "report" || !String(effectiveDirective).startsWith("connect-src") || !String(blockedURI).startsWith(url.origin))
      return;
    link.why.blocked = true;
  };
  globalThis.document?.addEventListener("securitypolicyviolation", blocked);
  // Node's own class gives no status; what it is made of does, of all requests: ours is created while the socket is made.
  const diagnostics = /** @type {any} */ (globalThis).process?.getBuiltinModule?.("node:diagnostics_channel");
  /** @type {any} */
  let own;
  const created = (/** @type {any} */ {request}) => {
    if (request.upgrade === "websocket") own = request;
  };
  const answered = (/** @type {any} */ {request, response}) => {
    if (request !== own || response.statusCode === 101) return;
    link.why.status = response.statusCode;
    const headers = Array.from(response.headers ?? [], String);
    const at = headers.findIndex((header, index) => index % 2 === 0 && header.toLowerCase() === "retry-after");
    if (at >= 0) link.why.retryAfter = Number(headers[at + 1]) * 1000;
  };
  diagnostics?.subscribe("undici:request:headers", answered);
  return {
    dialling: (dial) => {
      diagnostics?.subscribe("undici:request:create", created);
      try {
        return dial();
      } finally {
        diagnostics?.unsubscribe("undici:request:create", created);
      }
    },
    stop: () => {
      globalThis.document?.removeEventListener("securitypolicyviolation", blocked);
      diagnostics?.unsubscribe("undici:request:headers", answered);
    },
  };
}

/** The HTTP status in what a class of sockets says of a refused upgrade. @param {unknown} text */
function statusIn(text) {
  const found = /\b(?:status|response|code)\b\D*\b([1-5]\d\d)\b/i.exec(String(text));
  return found === null ? undefined : Number(found[1]);
}

/** Why a socket could not be opened, as far as that is known. @param {Link} link @param {URL} url */
function explain(link, url) {
  const {status, late, blocked, cause, text} = link.why;
  const temporary = link.comesBack;
  const code = link.code === 1006 ? undefined : link.code;
  const policy = `Content-Security-Policy (connect-src has to name ${url.origin}: http: and https: do not cover ws: and wss:)`;
  /** @type {string} */
  let reason;
  if (status !== undefined) reason = `the server answered ${status}${STATUSES[status] === undefined ? "" : `: ${STATUSES[status]}`}`;
  else if (code !== undefined) reason = `the server closed it with ${code}${link.reason ? `: ${link.reason}` : ""}`;
  else if (blocked) {
    reason = `the browser blocks it (${cause instanceof Error ? cause.message : "by the page's policy"}): look at the page's ${policy}, and open wss: from an https: page`;
  } else if (late !== undefined) reason = `${link.opened ? "the server did not say welcome" : "it was not open"} after ${late} ms`;
  else if (isInBrowser()) {
    reason = `a page is not told why: nobody is there, the server refused it (401, 403, 404, 503), or the browser blocked it by ${policy} or by its rules for local networks`;
  } else reason = text ? `${text} (nobody is there, or no WebSocket server)` : "nobody is there, or no WebSocket server";
  return new ConnectError(`no socket to ${url.origin}${url.pathname}: ${reason}`, {code, status, temporary, cause});
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

/** Return the key that a message is known by. A sender may choose its ids, and another the same, and an emulator that
 * is started anew counts from 1 again: the time tells them apart, and is the same in every repeat.
 * @param {Message} message */
function keyOf(message) {
  const name = message.pubsubId ?? message.id;
  return name === undefined ? null : `${message.sentDateTime} ${nameOf(name, message)}`;
}

/** An id with what it counts within, beside its sender: no name has a line end.
 * @param {string} id @param {Message} message */
function nameOf(id, {type, channel, subId, userTag}) {
  return [id, type, channel, subId, userTag].map((part) => part ?? "").join("\n");
}

/** @template T @param {Map<string, T>} map @param {string} key @param {T} value */
function remember(map, key, value) {
  map.set(key, value);
  if (map.size > REMEMBERED) map.delete(/** @type {string} */ (map.keys().next().value));
}

/** @param {Message} answer @param {Message} [request] */
function errorOf(answer, request) {
  const error = new RequestError(String(answer.code), String(answer.value), answer.temporary === true, request);
  if (typeof answer.retryAfterMs === "number") error.retryAfter = answer.retryAfterMs;
  return error;
}

/** @param {Message} request */
function lost(request) {
  return new RequestError("connection_lost", "the socket ended before the answer", true, request);
}

/** How long the server wants a client to stay away. @param {unknown} time */
function timeAway(time) {
  return typeof time === "number" && time > 0 ? Math.min(time, LONGEST_RETRY_AFTER) : 0;
}

/** Pages without TLS have no crypto.randomUUID. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
