// What this server may reach, according to the verifier. It is only read: all user pages of a hub share one origin, so that origin
// may do no more (D-302).

// Milliseconds: longest wait for an answer; between two requests right after a change and at most; the same while nobody answers,
// because the browser's console has a line for each; and while a person is at the server's page, for this long at most.
const [ANSWER_MS, SOON_MS, LATE_MS, AWAY_MS] = [10_000, 3_000, 60_000, 300_000];
const [HURRY_MS, HURRY_FOR_MS] = [1_500, 300_000];
const SLOWER = 1.5;

/**
 * The last known state of a server.
 *
 * @typedef {object} Followed
 * @property {object|null|undefined} now the last answer
 * @property {() => number|null} secondsLeft until the end of the lease
 * @property {() => boolean} renewableNow whether a renewal was impossible at the last answer, and is possible now
 * @property {() => Promise<void>} refresh requests the state now
 * @property {() => Promise<void>} soon requests the state now, and then as after a change
 * @property {() => void} hurry requests the state often until something changes
 */

/**
 * Follow a server's state while the page is visible.
 *
 * @param {string} address the server's page
 * @param {string} language of the verifier's sentences
 * @param {(now: object|null) => void} changed called with each answer of the verifier; null if it does not answer
 * @returns {Followed} its state
 */
export function follow(address, language, changed) {
  const server = { now: undefined, secondsLeft, renewableNow, refresh, soon, hurry };
  let timer, ends, opens, asking;
  let wait = SOON_MS;
  let hurryUntil = 0;

  async function ask() {
    try {
      const answer = await fetch(address, {
        headers: { Accept: "application/json", "Accept-Language": language }, credentials: "omit",
        referrerPolicy: "no-referrer", cache: "no-store", signal: AbortSignal.timeout?.(ANSWER_MS),
      });
      const said = answer.ok ? await answer.json() : null;
      return said && "access" in said ? said : null;
    } catch {
      return null;
    }
  }

  function refresh() {
    asking ??= once().finally(() => { asking = null; });
    return asking;
  }

  async function once() {
    clearTimeout(timer);
    const was = server.now;
    const now = await ask();
    // This device's clock may be wrong, so the time is counted from the answer on.
    ends = now?.until ? performance.now() + now.expires_in * 1000 : null;
    opens = now?.renewable_in > 0 ? performance.now() + now.renewable_in * 1000 : null;
    server.now = now;
    if (differ(was, now)) [wait, hurryUntil] = [SOON_MS, was && now ? 0 : hurryUntil];
    try {
      changed(now);
    } finally {
      plan();
    }
  }

  function plan() {
    clearTimeout(timer);
    if (document.visibilityState !== "visible" && performance.now() > hurryUntil) return;
    wait = Math.min(wait * SLOWER, server.now ? LATE_MS : AWAY_MS);
    timer = setTimeout(refresh, performance.now() < hurryUntil ? HURRY_MS : wait);
  }

  function secondsLeft() {
    return ends ? Math.max(0, Math.ceil((ends - performance.now()) / 1000)) : null;
  }

  function renewableNow() {
    return opens ? performance.now() >= opens : false;
  }

  function soon() {
    wait = SOON_MS;
    return refresh();
  }

  function hurry() {
    hurryUntil = performance.now() + HURRY_FOR_MS;
    plan();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refresh();
    else plan();
  });
  refresh();
  return server;
}

/** Whether two answers differ, apart from the time that has passed. */
export const differ = (one, other) => one?.tier !== other?.tier || one?.access !== other?.access || one?.until !== other?.until;
