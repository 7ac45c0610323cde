// For third-party pages that launch servers on a BinderHub: with thebe, @jupyterhub/binderhub-client, EventSource or fetch.
//
// The launch goes out unchanged and without delay. Meanwhile this script reads the build's events and solves a challenge; when the
// server is ready, it unlocks the server. The page sees none of its failures (D-144, D-145, D-146).
import { Check } from "./check.js";
import { eventReader, readEvent } from "./events.js";
import { chooseLanguage, direction } from "./language.js";
import { family, solve, solveInPage } from "./solve.js";
import { presentPass, unlockPage, verifierOf, withPass } from "./pass.js";
import { json } from "./verifier.js";
import { workerOf } from "./workers.js";

// The default for the longest wait of a page for a pass, in seconds.
const PASS_WAIT_SECONDS = 15;
// Seconds before the next attempts of an unlock that got no answer, or whose server is unknown: the verifier learns of a server
// shortly after its start.
const AGAIN_SECONDS = [1, 2, 4];
// The longest wait for the answer to an unlock, which takes 2 s at most. Browsers wait for minutes.
const UNLOCK_SECONDS = 10;

/** @type {Map<string, object>} the results of `connect`, by the verifier's address */
const connected = new Map();

/**
 * Watch this page's launches on a BinderHub.
 *
 * @param {object} options
 * @param {string} options.verifier the address of the verifier, `https://hub.example.org/egress/`
 * @param {string} [options.binderhub] the address of the BinderHub, `https://mybinder.org/`; by default the parent of the
 *   verifier's address
 * @param {string[]} [options.tiers] the tiers that are enough: proof of work for another tier is not done; by default all tiers are
 * @param {string|Element} [options.link] where to show a link to the server's unlock page if this page cannot unlock it: an
 *   element, or a CSS selector
 * @param {string} [options.key] an API key for passes; proof of work is done only if the key gives no pass
 * @returns {{verifier: string, binderhub: string, getPass: Function, withEgress: Function}}
 */
export function connect({ verifier, binderhub, tiers, link, key } = {}) {
  if (!verifier) throw new TypeError("binder-egress: say where the verifier is: connect({ verifier: \"https://…/egress/\" })");
  const base = folder(verifier);
  if (!connected.has(base)) {
    const gate = new Gate(base, folder(binderhub ?? "../", base), tiers, link, key);
    gate.observe();
    connected.set(base, Object.freeze({
      verifier: base,
      binderhub: gate.binderhub,
      getPass: () => gate.getPass(),
      withEgress: (url, how) => gate.withEgress(url, how),
    }));
  }
  return connected.get(base);
}

const folder = (address, from = document.baseURI) => new URL(address, from).href.replace(/\/?$/, "/");

class Gate {
  /** @type {Map<string, Launch>} by the address of the build request */
  launches = new Map();

  constructor(base, binderhub, tiers, link, key) {
    Object.assign(this, { base, binderhub, tiers, link, key });
  }

  // The proxies only watch. They return, throw and look exactly like the browser's own functions.
  observe() {
    const gate = this;
    const { EventSource, fetch } = globalThis;
    if (fetch) {
      globalThis.fetch = new Proxy(fetch, {
        apply(target, self, args) {
          const answer = Reflect.apply(target, self, args);
          try { gate.fetched(args, answer); } catch { /* The request is not a launch. */ }
          return answer;
        },
      });
    }
    if (EventSource) {
      const proxy = new Proxy(EventSource, {
        construct(target, args, self) {
          const source = Reflect.construct(target, args, self);
          try { gate.opened(source); } catch { /* The request is not a launch. */ }
          return source;
        },
      });
      EventSource.prototype.constructor = proxy;
      globalThis.EventSource = proxy;
    }
  }

  /** The launch of a request; null if the request is not a launch, or already has a pass. */
  launchOf(address, method = "GET") {
    if (!address.startsWith(`${this.binderhub}build/`) || method.toUpperCase() !== "GET") return null;
    const asked = new URL(address).searchParams;
    if (asked.has("egress_token") || asked.get("build_only") === "true") return null;
    let launch = this.launches.get(address);
    if (!launch) this.launches.set(address, launch = new Launch(this, address));
    launch.begin();
    return launch;
  }

  fetched([input, options], answer) {
    const request = input instanceof Request ? input : null;
    const address = new URL(request?.url ?? input, document.baseURI).href;
    const launch = this.launchOf(address, String(options?.method ?? request?.method ?? "GET"));
    if (launch) this.readAlong(launch, answer);
  }

  async readAlong(launch, answer) {
    launch.request = answer;
    try {
      // Clone the response before the page can begin to read it.
      await answer.then((response) => (response.ok && response.body ? readEvents(response, response.clone(), launch) : null));
    } catch {
      // The page ended the request, or it handles the same error itself.
    }
    launch.over(answer);
  }

  opened(source) {
    const launch = this.launchOf(source.url);
    if (!launch) return;
    launch.request = source;
    source.addEventListener("message", ({ data, origin }) => {
      try {
        const event = readEvent(data);
        // After a redirect an EventSource reveals only the new origin. Members of a federation have the same paths.
        if (event) launch.hear(event, origin + new URL(source.url).pathname);
      } catch {
        // The page's own listeners get the event in any case.
      }
    });
    source.addEventListener("error", () => {
      // The browser connects again by itself, unless the page's own listeners, which come after this one, close the source.
      setTimeout(() => { if (source.readyState === source.CLOSED) launch.over(source); });
    });
  }

  newCheck() {
    return new Check(this.base, null, {
      solve: (challenge, signal) => solveSomehow(challenge, this.base, signal),
      suits: ({ tier }) => !this.tiers?.length || this.tiers.includes(tier),
    }, () => {});
  }

  /** A check in advance. Null with a key: its passes are charged when requested, so the request waits until a pass is needed. */
  ahead() {
    return this.key ? null : this.newCheck();
  }

  /** A valid pass or null, the state of the check, the error if there is no pass, and whether the key gave the pass. */
  async pass(check) {
    const token = check ? null : await this.passForKey();
    if (token) return { token, state: "passed", byKey: true };
    let last = check ?? this.newCheck();
    await last.done;
    // The pass has expired in the meantime.
    if (last.expired) {
      last = this.newCheck();
      await last.done;
    }
    return { token: last.token, state: last.state, error: last.error };
  }

  async passForKey() {
    if (!this.key) return null;
    try {
      const headers = { Authorization: `Bearer ${this.key}` };
      const { token } = await json(fetch(`${this.base}passes`, { method: "POST", headers }));
      return String(token);
    } catch (error) {
      // The key is spent or revoked, or there is no answer. Go on without a key.
      warn("the key gives no pass", error.message);
      return null;
    }
  }

  async getPass() {
    const { token, state, error } = await this.pass(this.ahead());
    if (!token) throw new Error(["binder-egress: no pass", state, error?.message].filter(Boolean).join(": "), { cause: error });
    return token;
  }

  async withEgress(url, { timeout = PASS_WAIT_SECONDS } = {}) {
    const address = String(url);
    let check;
    try {
      if (!this.ownBuild(address)) return address;
      check = this.ahead();
      const got = await Promise.race([this.pass(check), delay(timeout)]);
      if (!got?.token) return address;
      return withPass(new URL(address, document.baseURI), got.token);
    } catch {
      return address;
    } finally {
      check?.stop();
    }
  }

  // Only this BinderHub may see the pass.
  ownBuild(address) {
    const made = new URL(address, document.baseURI);
    return made.href.startsWith(`${this.binderhub}build/`) && !made.searchParams.has("egress_token");
  }

  /** Send the page the event, and show the link. `page`: the address of the server's page, if a person can act there (D-151). */
  announce(state, build, server = null, page = null) {
    dispatchEvent(new CustomEvent("binder-egress", { detail: { state, build, server, unlock: page } }));
    const place = typeof this.link === "string" ? document.querySelector(this.link) : this.link;
    if (!place) return;
    const link = page && document.createElement("a");
    if (link) {
      const language = chooseLanguage([document.documentElement.lang, ...navigator.languages], Object.keys(MESSAGES));
      Object.assign(link, { href: page, target: "_blank", rel: "noopener", lang: language, dir: direction(language) });
      link.textContent = MESSAGES[language].unlock;
    }
    place.replaceChildren(...(link ? [link] : []));
  }
}

/** A build request and its retries: the page tries again, or an EventSource reconnects. */
class Launch {
  /** @type {?Check} the check whose pass is still unused */
  check = null;
  /** Whether the launch goes on: it has begun, and has neither a server nor failed. */
  underway = false;
  /** @type {Promise<Response>|EventSource} the last request, in whose place no other one has come */
  request = null;

  constructor(gate, address) {
    this.gate = gate;
    this.address = address;
  }

  begin() {
    if (this.underway && (this.gate.key || this.check?.token || ["asking", "solving"].includes(this.check?.state))) return;
    this.underway = true;
    if (!this.check?.token) this.check = this.gate.ahead();
    this.tell("checking");
  }

  /** Note that a request has ended, with or without a server. */
  over(request) {
    if (this.request === request) this.fail();
  }

  /** Note that the launch leads to no server. A retry starts afresh, with the same pass if there is one. */
  fail() {
    if (!this.underway) return;
    this.underway = false;
    this.check?.stop();
    this.tell("failed");
  }

  /** Handle an event of the build. Returns whether to read on. */
  hear({ phase, url }, answered) {
    const said = phase.toLowerCase();
    // The build took longer than a pass is valid, or the stream began again with another launch.
    if (said === "launching" && (!this.underway || this.check?.expired)) this.begin();
    if (said === "ready") {
      const server = new URL(url, answered);
      this.ready(server.href, unlockPage(verifierOf(answered, this.address, this.gate.base), server));
    }
    if (said === "failed") this.fail();
    return said === "launching";
  }

  async ready(server, page) {
    // The next request for this address is another launch.
    this.gate.launches.delete(this.address);
    const { check } = this;
    this.check = null;
    this.underway = false;
    let { token, state, byKey } = await this.gate.pass(check);
    if (token) state = await this.present(page, token);
    if (byKey && state === "refused") {
      // The key is for other repositories, for instance. Go on without a key.
      ({ token, state } = await this.gate.pass(this.gate.newCheck()));
      if (token) state = await this.present(page, token);
    }
    if (state === "refused") state = "none";
    // Where nothing is closed, a person can do nothing on the server's page (D-399).
    this.tell(state, server, ["granted", "pending"].includes(state) || check?.access === null ? null : page);
  }

  /** Present a pass: the verifier's state, `refused` if this pass is at fault, `none` if no pass would help, or `unanswered`. */
  async present(page, token) {
    for (const wait of [...AGAIN_SECONDS, null]) {
      try {
        const answer = await Promise.race([presentPass(page, token), delay(UNLOCK_SECONDS)]);
        if (!answer) throw new Error("late");
        const { state, type = "", status, detail } = answer;
        if (state) return state;
        if (wait === null || (status < 500 && !type.endsWith("no-such-server"))) {
          warn("the pass gives no internet access", detail);
          return type.endsWith("pass-refused") ? "refused" : "none";
        }
      } catch {
        // There is no connection or no answer, or a proxy sent an error page.
        if (wait === null) return "unanswered";
      }
      await delay(wait);
    }
    return "none";
  }

  tell(state, server, page) {
    try {
      this.gate.announce(state, this.address, server, page);
    } catch {
      // The page gets no event. Nothing else depends on that.
    }
  }
}

// A client may end its request as soon as it has read `ready`, and Firefox then discards what nobody has read from the copy. So
// this hears what the client's own reader reads, too. A client without a reader, such as one that pipes the body, is heard in the
// copy: this loop must be as quick as the client's own, without a generator.
async function readEvents(response, copy, launch) {
  const listener = listeners((event) => launch.hear(event, response.url));
  hearReader(response.body, listener());
  const reader = copy.body.getReader();
  const hear = listener();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    if (!hear(value)) {
      // Do not await it: the promise resolves only after the page has cancelled its copy, too.
      reader.cancel().catch(() => {});
      return;
    }
  }
}

// For several readers of the same bytes: makes a function for each, which takes the next bytes and returns whether more are wanted.
// No event is heard twice.
function listeners(hear) {
  const read = eventReader();
  let [heard, wanted] = [0, true];
  return () => {
    let at = 0;
    return (bytes) => {
      at += bytes.length;
      const fresh = at - heard;
      if (wanted && fresh > 0) {
        heard = at;
        wanted = read(bytes.slice(-fresh)).every(hear);
      }
      return wanted;
    };
  };
}

// Hear what a reader of this body reads, before its owner handles it. What goes into a buffer of the owner's is not heard.
function hearReader(body, hear) {
  const { getReader } = body;
  body.getReader = (...how) => {
    const reader = getReader.apply(body, how);
    const { read } = reader;
    reader.read = (...into) => {
      const piece = read.apply(reader, into);
      if (!into.length) piece.then(({ value }) => value && hear(value)).catch(() => {});
      return piece;
    };
    return reader;
  };
}

// Solve in workers if the page allows them, else in the page itself.
async function solveSomehow(challenge, base, signal) {
  try {
    return await solve(challenge, (algorithm) => worker(family(algorithm), base), signal);
  } catch {
    signal.throwIfAborted();
    return solveInPage(challenge, signal);
  }
}

// A worker has the rights of the page's origin. So its text is part of this file, or is verified with a checksum in this file:
// build.js puts both in place of WORKER_FILES.
async function worker(name, base) {
  if (WORKER_FILES[name].text) return workerOf(WORKER_FILES[name].text);
  const { file, integrity } = WORKER_FILES[name];
  return workerOf(await (await fetch(`${base}static/${file}`, { integrity })).text());
}

// For the author of the page: on its console, since nothing here is shown to visitors.
const warn = (what, why) => console.warn(["binder-egress", what, why].filter(Boolean).join(": "));

// Browsers count the milliseconds of a timer with 31 bits, and a longer one ends at once. A million seconds are eleven days.
const delay = (seconds) => new Promise((resolve) => { setTimeout(resolve, Math.min(seconds, 1e6) * 1000); });
