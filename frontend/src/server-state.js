// What the page of a server knows, as a function of what it knew and of what happened. `server.js` shows it.

export const UNVERIFIED = "unverified";

// Seconds before the end of a lease at which screen readers announce it.
const NEAR_END_SECONDS = 300;

/** The state before the first report, and what is known of a server that does not exist. */
export const GONE = { tier: null, access: null, unlockable: false, larger: [], until: null, renewable_in: null };

/**
 * The state after an event. It has the verifier's last report, with its names. The page's own names begin with `_`:
 *
 * @typedef {object} State
 * @property {number} _ends the end of the lease, in milliseconds of the browser's monotonic clock
 * @property {number} _opens the moment from which the lease may be renewed, by the same clock
 * @property {number} _seconds the seconds left
 * @property {boolean} _renewable whether the lease may be renewed now
 * @property {boolean} _warned whether the near end has been announced
 * @property {number} _asked the end of the lease when the last solution was sent: a report may come before the answer
 * @property {number} _over the end that was reached, as the verifier named it
 * @property {number} _changes a count: an answer to a request from before the last change is outdated
 * @property {string} _change what this event changed: "server", "renewed", "details", or "" for nothing
 *
 * @param {State} before
 * @param {object} event
 * @param {number} event._at its time in milliseconds of the browser's monotonic clock, because this device's clock may be wrong
 * @param {object|null} [event._report] what the verifier says of the server; null: it does not exist; undefined: nothing
 * @param {boolean} [event._live] whether the report answers a solution
 * @param {boolean} [event._sent] whether a solution is being sent
 * @param {boolean} [event._busy] whether the page solves a challenge
 * @returns {State}
 */
export function next(before, { _at, _report, _live, _sent, _busy }) {
  const after = { ...before, ...(_report === null ? GONE : _report) };
  if (_report) [after._ends, after._opens] = [after.expires_in, after.renewable_in].map((seconds) => _at + seconds * 1000);
  after.access = after.access ?? "network";
  after._renewable = after.tier !== UNVERIFIED && after.renewable_in !== null && _at >= after._opens;
  after._seconds = Math.max(0, Math.ceil((after._ends - _at) / 1000));
  after._warned = after._seconds <= NEAR_END_SECONDS && (before._warned || (after._renewable && !_busy));
  if (after.until && !after._seconds) after._over = after.until;
  const differs = (...names) => names.some((name) => String(after[name]) !== String(before[name]));
  const other = differs("tier", "access", "unlockable");
  after._change = differs("until", "larger") || after._renewable !== before._renewable ? "details" : "";
  if (other || _live) after._change = "server";
  if (_sent) after._asked = before.until;
  const known = _live ? before._asked : before.until;
  if (!other && after.tier !== UNVERIFIED && known && after.until > known) after._change = "renewed";
  if (_sent || after._change) after._changes = (before._changes ?? 0) + 1;
  return after;
}

/** Whether an unlock gives access back. */
export const again = (state) => state.unlockable && state.why !== "";

/** Whether a solution is of any use. */
export const useful = (state) => state.unlockable || state._renewable || state.larger.length > 0;

/** The purpose of a solution that gives a tier: "unlock", "raise" or "renew"; null: it would change nothing. */
export function purpose(state, tier) {
  if (state.tier === UNVERIFIED) return "unlock";
  if (state.larger.includes(tier)) return "raise";
  return tier === state.tier && state._renewable ? "renew" : null;
}

/** The purpose until the verifier's offers are known. */
export const guess = (state) => purpose(state, state.tier) ?? "raise";
