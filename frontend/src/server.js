// The page of a server. It shows the state that `server-state.js` has, unlocks the server, raises its tier, renews its lease, and
// follows its state while the page is visible.
import { fill } from "./language.js";
import { again, GONE, guess, next, purpose, UNVERIFIED, useful } from "./server-state.js";
import { solve } from "./solve.js";
import { json, post } from "./verifier.js";
import { mountWidget, title, WidgetError } from "./widgets.js";
import { startWorker } from "./workers.js";

// The page's elements, by their ids. `unlock` is the button.
const ui = Object.fromEntries(
  ["page", "look", "state", "reach", "left", "after", "next", "retry", "back", "gone", "closed", "how", "why", "way", "unlock",
    "progress", "widget", "others", "phone", "late"].map((id) => [id, document.getElementById(id)]),
);
ui.late.remove();
const { base } = ui.page.dataset;
const messages = JSON.parse(ui.page.dataset.messages);
const tiers = JSON.parse(ui.page.dataset.tiers);
const language = document.documentElement.lang;

// The longest wait for an answer. An unlock may take 2 s. Without a limit, browsers wait for minutes.
const ANSWER_SECONDS = 15;
// Milliseconds between two requests for the server's state: at first, at most, and the factor by which they grow (D-124).
const [SOON_MS, LATE_MS, SLOWER] = [3_000, 60_000, 1.2];
// After this many milliseconds, the page says that an unlock takes unusually long.
const TOO_LONG_MS = 60_000;
// For so many milliseconds, the page says that the time has been renewed.
const NEWS_MS = 10_000;

// Busy, so that the first tick says it if the end is near.
let state = next(GONE, { _report: JSON.parse(ui.page.dataset.server), _at: performance.now(), _busy: true });
const locked = () => state.tier === UNVERIFIED;
// Whether to begin without a click. That happens at most once: an open page must not renew for a person who has left.
let automatic = locked() && location.hash === "#unlock" && "fromNowhere" in ui.page.dataset;
let offers = [];
let chosen; // the name of the provider that the person chose
let aim; // the purpose of the current solution, or of the button
let working = null; // the AbortController of the current solution
let granted = null; // ends the wait for a pending unlock

const sentences = (...parts) => parts.filter(Boolean).join(" ");
const say = (...parts) => { ui.state.textContent = sentences(...parts); };
const text = (name, values) => fill(messages[name], values);

// The texts for each purpose of a solution.
const AIMS = {
  unlock: {
    why: text("why"), get button() { return text(again(state) ? "button-again" : "button"); }, presenting: text("presenting"),
    failed: text("failed"),
  },
  renew: {
    why: text("why-renewal"), button: text("renew"), presenting: text("presenting-renewal"), failed: text("failed-renewal"),
  },
  raise: { why: text("why-more"), button: text("button-more"), presenting: text("presenting"), failed: text("failed-more") },
};
// The texts on what the server reaches, by the verifier's word for it.
const STATES = {
  none: text("no-access"), packages: text("packages-only"), hosts: text("hosts-only"), network: text("granted"),
};
const has = () => STATES[state.access];
const gives = (name) => tiers[name] && text("then-reach", { reach: tiers[name] });

/** An error with a text in the catalogue. `name` is a problem's type, or a name of this page. */
class Failure extends Error {
  constructor(name, { detail, after } = {}) {
    super(name);
    Object.assign(this, { name, detail, after });
  }
}

async function call(address, options) {
  // Where browsers have it, the signal also ends the request.
  const signal = AbortSignal.timeout?.(ANSWER_SECONDS * 1000);
  try {
    return await json(fetch(address, { ...options, cache: "no-store", signal }), ANSWER_SECONDS);
  } catch ({ type, message, retryAfter }) {
    throw new Failure(type || "no-answer", { detail: message, after: Number(retryAfter) });
  }
}

// -- the view of a state

// Let something happen, and show what follows from it.
function happens(event) {
  const before = state;
  state = next(before, { ...event, _at: performance.now(), _busy: working });
  showTime();
  if (state._warned && !before._warned) say(has(), text("ends-soon"));
  if (state._over !== before._over) follow(SOON_MS / 3);
  if (state._change) showServer();
}

// What the server has, what is new about it, and what to do next.
function showServer() {
  const { tier, access, why, _change } = state;
  const look = tier === null ? "gone" : access;
  ui.look.dataset.look = look;
  for (const shape of ui.look.querySelectorAll("path")) {
    shape.setAttribute("display", shape.matches(`.${look}`) ? "inline" : "none");
  }
  ui.reach.textContent = tier === null ? text("ended-help") : state.reach;
  ui.reach.hidden = !ui.reach.textContent;
  ui.gone.hidden = tier !== null;
  ui.closed.hidden = !locked() || state.unlockable;
  ui.next.hidden = tier === null || locked() || access === "none";
  if (_change !== "details") {
    if (!state.unlockable) working?.abort();
    if (!locked()) automatic = false;
    // A block closes the egress proxy before the tier is taken.
    if (locked() || access === "none") say(has(), why);
    else if (tier === null) say(text("ended"));
    else if (_change === "renewed") {
      const news = text("renewed");
      say(has(), news);
      // The news is old by then, unless the page has said something else.
      setTimeout(() => { if (ui.state.textContent.endsWith(news)) say(has()); }, NEWS_MS);
    } else say(has(), text("from-now-on"));
    granted?.();
  }
  // Nothing failed before a renewal.
  ui.retry.hidden = state._renewable || (_change !== "server" && ui.retry.hidden);
  suggest();
}

// Show the ways to unlock the server, raise its tier or renew its lease, if that is useful.
function suggest() {
  ui.how.hidden = !useful(state);
  if (!useful(state)) return;
  if (!working) aimAt(guess(state), state.larger[0]);
  offer();
}

function aimAt(what, to) {
  aim = what;
  ui.why.textContent = sentences(AIMS[aim].why, aim === "raise" && gives(to));
  ui.unlock.textContent = AIMS[aim].button;
}

const clock = (seconds) => {
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
};

// Show the time left. Screen readers announce it once near the end, not each second.
function showTime() {
  ui.left.hidden = !state.until;
  ui.after.hidden = !state.until || locked();
  if (!state.until) return;
  const time = clock(state._seconds);
  ui.left.textContent = locked() ? text("stopping", { time }) : text("left", { time });
  const expiry = state.on_expiry === "stop" ? text("lease-stop") : text("lease-end");
  ui.after.textContent = sentences(expiry, state.renewable_in > 0 && !state._renewable && text("renew-later"));
}

// -- the verifier's reports

let timer, wait;

// Ask for the server's state while the page is visible.
async function refresh() {
  clearTimeout(timer);
  if (document.visibilityState !== "visible") return;
  const before = state._changes;
  const options = { headers: { Accept: "application/json" } };
  const report = await call(location.pathname, options).catch(({ name }) => (name === "no-such-server" ? null : undefined));
  if (before === state._changes) happens({ _report: report });
  wait = Math.min(wait * SLOWER, LATE_MS);
  timer = setTimeout(refresh, wait);
}

function follow(soon = SOON_MS) {
  clearTimeout(timer);
  wait = soon;
  timer = setTimeout(refresh, wait);
}

// -- the ways to unlock the server

const calculates = (one) => one.kind === "proof-of-work";

async function ask() {
  const { providers } = await call(`${base}challenge?purpose=unlock`);
  const suitable = providers.filter((one) => purpose(state, one.tier));
  // Browsers have crypto.subtle, which the calculation needs, only on https and localhost.
  offers = suitable.filter((one) => !calculates(one) || globalThis.crypto?.subtle);
  if (!offers.length) throw new Failure(suitable.length ? "insecure" : "nothing-to-solve");
}

function choose(current) {
  // If the ways give different tiers, each says which one.
  const differ = offers.some((one) => one.tier !== current.tier);
  ui.how.removeAttribute("data-wait");
  aimAt(purpose(state, current.tier), current.tier);
  const means = calculates(current) ? text("how-calculation") : text("how-widget", { provider: title(current.name) });
  ui.way.textContent = sentences(means, differ && aim !== "raise" && gives(current.tier));
  const rest = offers.filter((one) => one.name !== current.name);
  ui.others.hidden = !rest.length;
  ui.others.lastElementChild.replaceChildren(...rest.map((one) => {
    const item = document.createElement("li");
    const other = document.createElement("button");
    other.type = "button";
    other.textContent = calculates(one) ? text("way-calculation") : text("way-widget", { provider: title(one.name) });
    other.addEventListener("click", () => {
      ui.others.open = false;
      ui.others.firstElementChild.focus(); // The button disappears.
      unlock(one.name);
    });
    item.append(other, differ ? ` ${gives(one.tier) ?? ""}` : "");
    return item;
  }));
}

// Show the offers. A widget is shown immediately, since the person clicks on it. A calculation begins with a click. It also begins
// if the address asks for it and no page sent the visitor here: a page, even a notebook of this hub, must not make its visitors
// work for its own server. A renewal or a larger tier always begins with a click.
async function offer() {
  const named = ui.unlock.hidden && location.hash === `#${ui.unlock.id}` && document.activeElement === document.body;
  // If a widget comes first, its room replaces the button.
  if (!working) place(locked() && ui.how.hasAttribute("data-room"));
  // The address names the button, but the button was hidden when the browser wanted to focus it. Without this, Tab would skip it.
  if (named && !ui.unlock.hidden) ui.unlock.focus({ preventScroll: true });
  if (working || document.visibilityState !== "visible") return;
  try {
    await ask();
  } catch (error) {
    ui.how.removeAttribute("data-wait");
    place(false);
    // If the verifier does not answer, the button stays, and a click reports the failure.
    if (error.name !== "insecure" && error.name !== "nothing-to-solve") return;
    if (locked()) fail(error);
    else if (aim === "raise") ui.how.hidden = true; // The server has access already.
    return;
  }
  if (!useful(state) || working) return;
  ui.how.hidden = false;
  choose(offers[0]);
  place(locked() && offers[0].kind === "interactive");
  if (ui.unlock.hidden || automatic) unlock(offers[0].name);
}

// Show the button, or instead the room for a widget.
function place(room) {
  ui.unlock.hidden = room;
  ui.how.toggleAttribute("data-room", room);
}

function fail(error) {
  // A fault of the verifier has no text of its own. Its detail is English, and of no use to visitors.
  const name = error.name === "internal" ? "unavailable" : error.name;
  const words = messages[`error-${name}`] ? name : "other";
  const provider = error.provider && title(error.provider);
  const minutes = Math.max(1, Math.round((error.after || 0) / 60));
  const when = new Intl.RelativeTimeFormat(language).format(minutes, "minute");
  const another = !ui.others.hidden && !["no-answer", "budget-spent", "unavailable", "other"].includes(words);
  const cause = text(`error-${words}`, { provider, when, detail: error.detail ?? "" });
  // Packages only is some access.
  const failed = aim === "unlock" && state.access !== "none" ? AIMS.raise.failed : AIMS[aim].failed;
  say(failed, cause, another && text("error-another-way"));
  place(false);
  // Without https the button cannot help.
  ui.unlock.hidden = words === "insecure";
  if (ui.phone && words === "workers") ui.phone.open = true;
}

async function solution(one, signal) {
  if (calculates(one)) {
    say(text("calculating"));
    ui.progress.hidden = false;
    try {
      const verifier = new URL(base, location.href).href;
      return await solve(one.challenge, (algorithm) => startWorker(algorithm, verifier), signal);
    } catch (error) {
      throw signal.aborted ? error : new Failure("workers");
    }
  }
  const provider = title(one.name);
  // A widget already has its room if it is expected; more words would move it.
  if (one.kind !== "interactive") say(has(), text("widget-loading", { provider }));
  const onShown = () => { if (one.kind === "interactive") say(has(), text("widget-ready")); };
  try {
    return await mountWidget(one, ui.widget, { signal, language, onShown });
  } catch (error) {
    if (signal.aborted || !(error instanceof WidgetError)) throw error;
    throw Object.assign(new Failure(error.reason === "script" ? "script" : "widget"), { provider: one.name });
  }
}

// Solve a challenge and present the solution. `name` is the provider's name; the first provider by default.
async function unlock(name) {
  chosen = name;
  working?.abort();
  const controller = new AbortController();
  working = controller;
  const { signal } = controller;
  const [focused, was] = [document.activeElement === ui.unlock, state.tier];
  let done = false;
  ui.unlock.disabled = true;
  ui.widget.replaceChildren();
  try {
    for (let second = false; ; second = true) {
      // Request a new one each time: challenges expire, and their price changes.
      await ask();
      signal.throwIfAborted();
      const one = offers.find((each) => each.name === name) ?? offers[0];
      choose(one);
      place(one.kind === "interactive");
      const solved = await solution(one, signal);
      signal.throwIfAborted();
      say(AIMS[aim].presenting);
      ui.progress.hidden = false;
      try {
        happens({ _sent: true });
        await present(one.name, solved, signal);
        done = true;
        break;
      } catch (error) {
        if (error.name !== "price-risen" || second) throw Object.assign(error, { provider: one.name });
      }
    }
  } catch (error) {
    if (working === controller && useful(state)) {
      if (error.name === "no-such-server") happens({ _report: null });
      else fail(error instanceof Failure ? error : new Failure("other", { detail: error }));
      follow();
    }
  } finally {
    if (working === controller) {
      working = null;
      ui.widget.replaceChildren();
      ui.how.removeAttribute("data-room");
      ui.progress.hidden = true;
      ui.unlock.disabled = false;
      // A still larger tier may be possible. After a failure with the same tier the person decides: a widget that comes first would
      // begin again by itself.
      if (done || state.tier !== was) suggest();
      // A disabled button loses the focus. If it is no longer there, the next Tab leads to what comes next.
      if (focused) (ui.how.hidden ? ui.next : ui.unlock).focus();
    }
  }
}

async function present(provider, solved, signal) {
  const was = state.tier;
  const answer = await call(location.pathname, post({ provider, solution: solved }));
  if (answer.state === "granted") return happens({ _report: answer, _live: true });
  if (!useful(state) || state.tier !== was) return undefined;
  ui.unlock.hidden = true;
  ui.others.hidden = true;
  ui.widget.replaceChildren();
  say(text("pending"));
  // Wait until `refresh` reads that the reconciler has confirmed it.
  const late = setTimeout(() => say(text("pending-long")), TOO_LONG_MS);
  follow(SOON_MS / 3);
  await new Promise((resolve) => {
    granted = resolve;
    signal.addEventListener("abort", resolve);
  });
  clearTimeout(late);
  return undefined;
}

// The way back. If this page has a tab of its own, the tab is closed, and the server is in the previous one. A phone that
// was used only for this has no way back.
const alone = Boolean(window.opener) || history.length === 1;
const elsewhere = !window.opener && matchMedia("(pointer: coarse)").matches;
ui.back.hidden = elsewhere || !(ui.back.href || alone);
ui.back.addEventListener("click", () => {
  if (!alone) return;
  window.close();
  // Some browsers close only tabs that a script opened. A button without effect is removed; the text says what to do.
  if (!ui.back.href) setTimeout(() => { ui.back.hidden = true; }, 1_000);
});
ui.unlock.addEventListener("click", () => unlock(chosen));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  if (useful(state) && !offers.length) offer();
  wait = SOON_MS;
  refresh();
});
happens();
suggest();
setInterval(happens, 1000);
follow();
