// One check of a browser: a challenge, its solution, and the verifier's pass for that.
import { json, NoAnswer, post, Refusal } from "./verifier.js";

// A pass is no longer sent in the last seconds before it expires.
const MARGIN_SECONDS = 5;
// Seconds after its build request until which a ready server waits: the defaults if the verifier names none, and the limit.
const HOLD_SECONDS = 4;
const INTERACTIVE_HOLD_SECONDS = 60;
const LONGEST_HOLD_SECONDS = 60;

/**
 * Most challenges to solve for one pass while the price rises. Each price is accepted until it has doubled, so with the defaults
 * 465 people who begin in the same second get a pass (docs/fairness.md).
 */
const ROUNDS = 4;

export class Check {
  /**
   * @type {"asking"|"solving"|"widget"|"passed"|"none"|"unanswered"|"needed"|"without"} what the
   *   check does, or how it ended: `needed` if every offered provider needs a widget that this page must not load, `without` if
   *   the person declined
   */
  state = "asking";
  /** @type {?string} what a server without a pass reaches; null: the site closes nothing */
  access;
  /** @type {string} the same as a sentence */
  reach;
  /** @type {?Error} why there is no pass, if that is known */
  error = null;
  /** @type {number} when the first build request of this check went out, in ms of `performance.now`; missing until then */
  since;
  /** Whether a person has to do something. */
  interactive = false;
  /** Whether the person can choose another offer. */
  others = false;
  _token = null;
  _until = performance.now();
  _untilToday = 0;
  /** @type {?object} what the verifier said of the promise when it issued the pass; null: nothing */
  promise = null;
  _hold = HOLD_SECONDS;
  _interactiveHold = INTERACTIVE_HOLD_SECONDS;
  _shown = false;
  _resume = () => {};
  _solving = new AbortController();
  _another = false;
  _over = false;
  _paying = null;

  /**
   * Begin a check.
   *
   * @param {string} base the absolute address of the verifier, ending in "/"
   * @param {?Promise<Response>} asked the answer to `GET challenge`, if the page has already sent that request
   * @param {object} means the page's ways to solve a challenge
   * @param {(challenge: object, signal: AbortSignal) => Promise<string>} means.solve solves proof of work
   * @param {() => Promise<object>} [means.load] loads widgets.js
   * @param {?object} [means.widgets] where and how to show third-party widgets: `{place: () => Promise<HTMLElement>,
   *   language: string, theme: () => string}`; null if the page must load nothing from third parties
   * @param {(offer: object) => boolean} [means.suits] whether an offer is good enough; by default every offer is
   * @param {string} [means.promise] the promise of a launch, which the pass keeps
   * @param {() => void} changed called after each change
   */
  constructor(base, asked, means, changed) {
    this.base = base;
    this.means = means;
    this.changed = changed;
    /** @type {Promise<void>} settles when the check has ended, with or without a pass; never rejects */
    this.done = this._run(asked).catch((error) => {
      this.error = error;
      this._set(error instanceof Refusal ? "none" : "unanswered");
    });
  }

  /** Whether a pass may still come. */
  get running() {
    return ["asking", "solving", "widget"].includes(this.state);
  }

  /** The pass, as long as it is valid. */
  get token() {
    // On a computer that sleeps, only the clock of the day goes on.
    return performance.now() < this._until && Date.now() < this._untilToday ? this._token : null;
  }

  /** Whether the pass has expired. */
  get expired() {
    return this.state === "passed" && !this.token;
  }

  /** Milliseconds that a ready server may wait for this check, longer once a person has seen a widget. Zero or less: none. */
  get left() {
    return this.running ? this.since + (this._shown ? this._interactiveHold : this._hold) * 1000 - performance.now() : 0;
  }

  /** Wait as long as `left` says. Never rejects. */
  async wait() {
    while (this.left > 0) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, this.left);
        this._resume = () => { clearTimeout(timer); resolve(); };
      });
    }
  }

  /** The person continues without internet access. */
  decline() {
    this._end("without");
  }

  /** Drop this offer and try the next one. */
  another() {
    this._another = true;
    this._solving.abort();
  }

  /** End the check, because its pass would be of no use. */
  stop() {
    this._end(this.running ? "none" : this.state);
  }

  _end(state) {
    this._set(state);
    this._over = true;
    this._solving.abort();
  }

  _set(state) {
    // A check ends only once: the person chose the end, or has already read the message about it.
    if (this._over || this.state === "passed") return;
    this.state = state;
    this._shown ||= state === "widget";
    this._resume();
    this.changed();
  }

  async _run(asked) {
    let answer = await json(asked ?? fetch(`${this.base}challenge?purpose=launch`));
    for (let round = 1; ; round += 1) {
      this.access = answer.access;
      this.reach = answer.reach;
      this._hold = seconds(answer.hold, HOLD_SECONDS);
      this._interactiveHold = seconds(answer.interactive_hold, INTERACTIVE_HOLD_SECONDS);
      try {
        return await this._solveOne(answer.providers);
      } catch (error) {
        // Others in this network got passes in the meantime, so the next challenge is harder.
        if (error.type !== "price-risen" || round === ROUNDS) throw error;
        answer = await json(fetch(`${this.base}challenge?purpose=launch`));
      }
    }
  }

  async _solveOne(providers) {
    const { suits, widgets } = this.means;
    const offers = providers.filter((offer) => (offer.kind === "proof-of-work" || widgets) && (suits?.(offer) ?? true));
    // A provider whose price has risen stays first: the person has already begun with it.
    offers.sort((one, other) => (other.name === this._paying) - (one.name === this._paying));
    if (!offers.length) return this._set(providers.length ? "needed" : "none");
    while (offers.length && !this._over) {
      const offer = offers[0];
      this.interactive = offer.kind === "interactive";
      this.others = offers.length > 1;
      this._another = false;
      this._solving = new AbortController();
      try {
        const solution = await this._solve(offer, this._solving.signal);
        if (this._over) return undefined;
        const [began, today] = [performance.now(), Date.now()];
        const { promise } = this.means;
        const got = await json(fetch(`${this.base}passes`, post({ provider: offer.name, solution, promise })));
        if (this._over) return undefined;
        this._token = String(got.token);
        this.promise = got.promise;
        // Measured from the time of the answer, because the browser's clock may be wrong.
        const lifetime = (Number(got.expires_in) - MARGIN_SECONDS) * 1000;
        [this._until, this._untilToday] = [began + lifetime, today + lifetime];
        return this._set("passed");
      } catch (error) {
        if (this._over) return undefined;
        if (this._another) {
          offers.push(offers.shift());
          continue;
        }
        // This provider is blocked, or does not work here. Try the next one.
        offers.shift();
        if (error.type === "price-risen") this._paying = offer.name;
        if (!offers.length || error.type === "price-risen") {
          if (error instanceof Refusal || error instanceof NoAnswer) throw error;
          this.error = error;
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
    // A widget that a person clicks may take longer than a calculation; other widgets may not.
    this._set("solving");
    const onShown = () => { if (this.interactive) this._set("widget"); };
    return mountWidget(offer, element, { signal, language, theme: theme(), onShown });
  }
}

function seconds(said, otherwise) {
  return typeof said === "number" && said >= 0 ? Math.min(said, LONGEST_HOLD_SECONDS) : otherwise;
}
