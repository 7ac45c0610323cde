// One check of a person's browser: a challenge, its solution, and the pass that the verifier gives for it.

// Most seconds for one answer of the verifier. No launch waits that long.
const PATIENCE = 10;
// Seconds that a launch waits for the challenge: a person must be asked before the launch goes, and a verifier that has just
// delivered launch.js can answer.
const GRACE = 1;
// Seconds before a pass expires from which it is no longer sent.
const MARGIN = 5;
// Seconds to hold a launch: the default if the verifier does not say, and the limit, since BinderHub's build tokens live for 300 s.
const HOLD = [4, 60];
const INTERACTIVE_HOLD = [60, 240];

/**
 * Most challenges to solve for one pass while the price rises. Each price is accepted until it has doubled, so with the defaults
 * 465 people who begin in the same second get a pass (docs/fairness.md).
 */
const ROUNDS = 4;

/** The verifier's refusal; `type` is one word of its problem types. */
class Refusal extends Error {
  constructor(body) {
    super(body.detail);
    this.type = String(body.type).split(/[:/#]/).pop();
  }
}

/** The verifier gave no answer, or could not. */
class NoAnswer extends Error {}

export class Check {
  /**
   * @type {"asking"|"solving"|"widget"|"passed"|"none"|"unanswered"|"needed"|"without"} what it
   *   does, or how it ended: `needed` if only a provider would help that may not be loaded here, `without` if the person declined
   */
  state = "asking";
  /** @type {?string} the name of the provider that is needed, as people know it */
  provider = null;
  /** Whether a person has to do something. */
  interactive = false;
  /** Whether there are other offers than this one. */
  others = false;
  _token = null;
  _until = 0;
  _hold = HOLD[0];
  _interactiveHold = INTERACTIVE_HOLD[0];
  _asked = performance.now();
  _instead = 0;
  _solving = new AbortController();
  _another = false;
  _over = false;
  _paying = null;
  _waiting = new Set();

  /**
   * Begin a check.
   *
   * @param {string} base the absolute address of the verifier, ending in "/"
   * @param {?Promise<Response>} asked the answer to `GET challenge`, if somebody has already asked
   * @param {object} means what the page solves with
   * @param {(challenge: object, signal: AbortSignal) => Promise<string>} means.solve solves proof of work
   * @param {() => Promise<object>} [means.load] loads widgets.js
   * @param {?object} [means.widgets] where widgets of third parties may be shown: `{place: () => Promise<HTMLElement>,
   *   language, theme}`; null if nothing of third parties may be loaded
   * @param {(offer: object) => boolean} [means.suits] whether an offer is good enough; by default each one is
   * @param {() => void} changed called after each change
   */
  constructor(base, asked, means, changed) {
    this.base = base;
    this.means = means;
    this.changed = changed;
    /** @type {Promise<void>} settles when the check has ended, with or without a pass; never rejects */
    this.done = this._run(asked).catch((error) => this._set(error instanceof Refusal ? "none" : "unanswered"));
  }

  /** Whether something is on the way that a launch may wait for. */
  get running() {
    if (this.state === "solving" || this.state === "widget") return true;
    return this.state === "asking" && performance.now() < this._asked + GRACE * 1000;
  }

  /** The pass, as long as it is valid. */
  get token() {
    return performance.now() < this._until ? this._token : null;
  }

  /** Whether the pass has expired. */
  get expired() {
    return this.state === "passed" && !this.token;
  }

  /**
   * Wait while it runs, but not for longer than the operator allows.
   *
   * @param {AbortSignal} [signal] ends the waiting
   * @returns {Promise<void>} never rejects
   */
  async wait(signal) {
    const began = performance.now();
    const stop = new Promise((resolve) => { signal?.addEventListener("abort", resolve, { once: true }); });
    while (this.running && !signal?.aborted) {
      let limit = began + (this.state === "widget" ? this._interactiveHold : this._hold) * 1000;
      if (this.state === "asking") limit = Math.min(limit, this._asked + GRACE * 1000);
      // The launch waited for a widget, and now for a calculation instead of it.
      if (this._instead > began) limit = Math.min(this._instead + this._hold * 1000, began + this._interactiveHold * 1000);
      const left = limit - performance.now();
      if (left <= 0) return;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this._waiting.add(() => { clearTimeout(timer); resolve(); });
        stop.then(resolve);
      });
    }
  }

  /** The person continues without internet access. */
  decline() {
    this._end("without");
  }

  /** Try the next offer instead of this one. */
  another() {
    this._another = true;
    this._solving.abort();
  }

  /** End the check: its pass would be of no use. */
  stop() {
    this._end(this.running || this.state === "asking" ? "none" : this.state);
  }

  _end(state) {
    this._set(state);
    this._over = true;
    this._solving.abort();
  }

  _set(state) {
    // The end of a check is final: a person decided it, or has read it.
    if (this._over || this.state === "passed") return;
    this.state = state;
    const waiting = [...this._waiting];
    this._waiting.clear();
    for (const wake of waiting) wake();
    this.changed();
  }

  async _run(asked) {
    let answer = await json(asked ?? fetch(`${this.base}challenge?purpose=launch`));
    for (let round = 1; ; round += 1) {
      this._hold = seconds(answer.hold, HOLD);
      this._interactiveHold = seconds(answer.interactive_hold, INTERACTIVE_HOLD);
      try {
        return await this._solveOne(answer.providers);
      } catch (error) {
        // Others of this network got passes in the meantime. Solve a harder challenge.
        if (error.type !== "price-risen" || round === ROUNDS) throw error;
        answer = await json(fetch(`${this.base}challenge?purpose=launch`));
      }
    }
  }

  async _solveOne(providers) {
    const { load, suits, widgets } = this.means;
    const offers = providers.filter((offer) => (offer.kind === "proof-of-work" || widgets) && (suits?.(offer) ?? true));
    // The provider whose price has risen stays first: the person has begun with it.
    offers.sort((one, other) => (other.name === this._paying) - (one.name === this._paying));
    if (!offers.length) {
      if (!providers.length) return this._set("none");
      this.provider = providers[0].name;
      await load?.().then(({ title }) => { this.provider = title(this.provider); }, () => {});
      return this._set("needed");
    }
    while (offers.length && !this._over) {
      const offer = offers[0];
      this.interactive = offer.kind === "interactive";
      this.others = offers.length > 1;
      this._another = false;
      this._solving = new AbortController();
      try {
        const solution = await this._solve(offer, this._solving.signal);
        if (this._over) return undefined;
        const began = performance.now();
        const got = await json(fetch(`${this.base}passes`, post({ provider: offer.name, solution })));
        if (this._over) return undefined;
        this._token = String(got.token);
        // By this browser's own stopwatch: its clock may be wrong.
        this._until = began + (Number(got.expires_in) - MARGIN) * 1000;
        return this._set("passed");
      } catch (error) {
        if (this._over) return undefined;
        if (this.state === "widget") this._instead = performance.now();
        if (this._another) {
          offers.push(offers.shift());
          continue;
        }
        // Not this one: it is blocked, or does not work here. The next, if there is one.
        offers.shift();
        if (error.type === "price-risen") this._paying = offer.name;
        if (!offers.length || error.type === "price-risen") {
          if (error instanceof Refusal || error instanceof NoAnswer) throw error;
          return this._set("none");
        }
      }
    }
    return undefined;
  }

  async _solve(offer, signal) {
    if (offer.kind === "proof-of-work") {
      this._set("solving");
      return this.means.solve(offer.challenge, signal);
    }
    const { load, widgets: { place, language, theme } } = this.means;
    const [{ mountWidget }, element] = await Promise.all([load(), place()]);
    // Only what there is to click is waited for longer than a calculation.
    this._set("solving");
    const onShown = () => { if (this.interactive) this._set("widget"); };
    return mountWidget(offer, element, { signal, language, theme: theme(), onShown });
  }
}

/** What to send as JSON. */
export const post = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/**
 * What the verifier answers.
 *
 * @param {Promise<Response>} answer
 * @returns {Promise<object>}
 * @throws {Refusal|NoAnswer}
 */
export async function json(answer) {
  let response, body, timer;
  try {
    const late = new Promise((_, reject) => { timer = setTimeout(reject, PATIENCE * 1000, new NoAnswer("late")); });
    [response, body] = await Promise.race([answer.then(async (got) => [got, await got.json()]), late]);
  } catch (error) {
    // No connection, no end, or a proxy's error page.
    throw new NoAnswer(String(error));
  } finally {
    clearTimeout(timer);
  }
  if (response.status >= 500) throw new NoAnswer(response.status);
  if (!response.ok) throw new Refusal(body);
  return body;
}

function seconds(said, [otherwise, most]) {
  return typeof said === "number" && said >= 0 ? Math.min(said, most) : otherwise;
}
