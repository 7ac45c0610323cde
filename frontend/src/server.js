// The page of a server. It says what the server may reach and for how long, unlocks the server, raises its tier, renews its lease,
// and follows its state while the page is visible.
import { fill } from "./language.js";
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
const UNVERIFIED = "unverified";

// The longest wait for an answer. An unlock may take 2 s. Without a limit, browsers wait for minutes.
const ANSWER_SECONDS = 15;
// Milliseconds between two requests for the server's state: at first, at most, and the factor by which they grow (D-124).
const [SOON_MS, LATE_MS, SLOWER] = [3_000, 60_000, 1.2];
// After this many milliseconds, the page says that an unlock takes unusually long.
const TOO_LONG_MS = 60_000;
// For so many milliseconds, the page says that the time has been renewed.
const NEWS_MS = 10_000;
// Seconds before the end of a lease at which screen readers announce it.
const NEAR_END_SECONDS = 300;

let tier = ui.page.dataset.tier; // null: the server does not exist
let { access } = ui.page.dataset;
let unlockable = "unlockable" in ui.page.dataset;
let again = "again" in ui.page.dataset; // whether an unlock gives access back
let lease = JSON.parse(ui.page.dataset.lease); // null: the tier never ends
let larger = JSON.parse(ui.page.dataset.larger); // the larger tiers that it may get
let suggested = lease?.renewable_in === 0; // whether a renewal was possible when the ways were last shown
let ends, opens; // the end of the lease and the start of its renewal, in milliseconds of the browser's monotonic clock
// Whether to begin without a click. That happens at most once: an open page must not renew for a person who has left.
let automatic = tier === UNVERIFIED && location.hash === "#unlock" && "fromNowhere" in ui.page.dataset;
let offers = [];
let chosen; // the name of the provider that the person chose
let working = null; // the AbortController of the current solution
let granted = null; // ends the wait for a pending unlock
let changes = 0; // an answer to a request from before the last change is outdated

const say = (...parts) => { ui.state.textContent = parts.filter(Boolean).join(" "); };
const text = (name, values) => fill(messages[name], values);

// The texts for each purpose of a solution.
const AIMS = {
  unlock: {
    why: text("why"), get button() { return text(again ? "button-again" : "button"); }, presenting: text("presenting"),
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
const has = () => STATES[access];
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

// -- the server

const renewable = () => tier !== UNVERIFIED && Number.isInteger(lease?.renewable_in) && performance.now() >= opens;
const useful = () => unlockable || renewable() || larger.length > 0;
const aimOf = (one) => { // the purpose of an offer; null: it would change nothing
  if (tier === UNVERIFIED) return "unlock";
  if (larger.includes(one.tier)) return "raise";
  return one.tier === tier && renewable() ? "renew" : null;
};
let aim; // the purpose of the current solution, or of the button

function aimAt(next, to) {
  aim = next;
  ui.why.textContent = [AIMS[aim].why, aim === "raise" && gives(to)].filter(Boolean).join(" ");
  ui.unlock.textContent = AIMS[aim].button;
}

// Show the state of the server as the verifier reports it; null: the server does not exist. `live`: the report answers a solution.
function show(now, live) {
  const was = { tier, access, unlockable, until: lease?.until, renewable: renewable(), larger: String(larger) };
  tier = now ? now.tier : null;
  access = now?.access ?? (tier === UNVERIFIED ? "none" : "network");
  unlockable = now?.unlockable ?? false;
  again = unlockable && now.why !== "";
  lease = now?.until ? now : null;
  larger = now?.larger ?? [];
  count();
  const other = tier !== was.tier || access !== was.access || unlockable !== was.unlockable;
  const renewed = !other && tier !== UNVERIFIED && lease?.until > was.until;
  if (!live && !other && lease?.until === was.until && renewable() === was.renewable && String(larger) === was.larger) return;
  changes += 1;
  ui.reach.textContent = now ? now.reach : text("ended-help");
  ui.reach.hidden = !ui.reach.textContent;
  paint();
  if (other || renewed || live) {
    if (tier === UNVERIFIED) {
      if (!unlockable) working?.abort();
      say(has(), now.why);
    } else {
      automatic = false;
      working?.abort();
      // A block closes the egress proxy before the tier is taken.
      const news = renewed ? text("renewed") : access === "none" ? now?.why : text("from-now-on");
      say(tier === null ? text("ended") : has(), tier !== null && news);
      if (renewed) fade();
      else ui.retry.hidden = false;
    }
    granted?.();
  }
  suggest();
}

// Take away news that is old by then, unless the page has said something else.
function fade() {
  const said = ui.state.textContent;
  setTimeout(() => { if (ui.state.textContent === said) say(has()); }, NEWS_MS);
}

// The icon of the state, and what to do next.
function paint() {
  const look = tier === null ? "gone" : access;
  ui.look.dataset.look = look;
  for (const shape of ui.look.querySelectorAll("path")) {
    shape.setAttribute("display", shape.matches(`.${look}`) ? "inline" : "none");
  }
  ui.gone.hidden = tier !== null;
  ui.closed.hidden = tier !== UNVERIFIED || unlockable;
  ui.next.hidden = tier === null || tier === UNVERIFIED || access === "none";
}

// Show the ways to unlock the server, raise its tier or renew its lease, if that is useful.
function suggest() {
  suggested = renewable();
  // Nothing failed before a renewal.
  if (suggested) ui.retry.hidden = true;
  ui.how.hidden = !useful();
  if (!useful()) return;
  if (!working) guess();
  offer();
}

// Guess the purpose of the button until the verifier's offers are known.
function guess() {
  if (tier === UNVERIFIED) aimAt("unlock");
  else if (renewable()) aimAt("renew");
  else aimAt("raise", larger[0]);
}

// -- the time left. Screen readers announce it once near the end, not each second.

let warned = false;
let refreshedEnd; // the end of a lease after which the page has already asked for the state

const clock = (seconds) => {
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
};

// Count from the time of the verifier's answer, because this device's clock may be wrong.
function count() {
  const now = performance.now();
  if (lease) [ends, opens] = [now + lease.expires_in * 1000, now + lease.renewable_in * 1000];
  tick();
}

function tick() {
  const unverified = tier === UNVERIFIED;
  ui.left.hidden = !lease;
  ui.after.hidden = !lease || unverified;
  if (!lease) return;
  const seconds = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
  ui.left.textContent = unverified ? text("stopping", { time: clock(seconds) }) : text("left", { time: clock(seconds) });
  const expiry = lease.on_expiry === "stop" ? text("lease-stop") : text("lease-end");
  ui.after.textContent = [expiry, lease.renewable_in > 0 && !renewable() && text("renew-later")].filter(Boolean).join(" ");
  if (renewable() && !suggested) suggest();
  if (seconds > NEAR_END_SECONDS) warned = false;
  if (renewable() && seconds <= NEAR_END_SECONDS && !warned && !working) {
    warned = true;
    say(has(), text("ends-soon"));
  }
  if (!seconds && refreshedEnd !== lease.until) {
    refreshedEnd = lease.until;
    follow(SOON_MS / 3);
  }
}

let timer, wait;

// Ask for the server's state while the page is visible.
async function refresh() {
  clearTimeout(timer);
  if (document.visibilityState !== "visible") return;
  const before = changes;
  try {
    const now = await call(location.pathname, { headers: { Accept: "application/json" } });
    if (before === changes) show(now);
  } catch (error) {
    if (error.name === "no-such-server" && before === changes) show(null);
  }
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
  const suitable = providers.filter(aimOf);
  // Browsers have crypto.subtle, which the calculation needs, only on https and localhost.
  offers = suitable.filter((one) => !calculates(one) || globalThis.crypto?.subtle);
  if (!offers.length) throw new Failure(suitable.length ? "insecure" : "nothing-to-solve");
}

function choose(current) {
  // If the ways give different tiers, each says which one.
  const differ = offers.some((one) => one.tier !== current.tier);
  ui.how.removeAttribute("data-wait");
  aimAt(aimOf(current), current.tier);
  const means = calculates(current) ? text("how-calculation") : text("how-widget", { provider: title(current.name) });
  ui.way.textContent = [means, differ && aim !== "raise" && gives(current.tier)].filter(Boolean).join(" ");
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
  if (!working) place(tier === UNVERIFIED && ui.how.hasAttribute("data-room"));
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
    if (tier === UNVERIFIED) fail(error);
    else if (aim === "raise") ui.how.hidden = true; // The server has access already.
    return;
  }
  if (!useful() || working) return;
  ui.how.hidden = false;
  choose(offers[0]);
  place(tier === UNVERIFIED && offers[0].kind === "interactive");
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
  const failed = aim === "unlock" && access !== "none" ? AIMS.raise.failed : AIMS[aim].failed;
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
  const [focused, was] = [document.activeElement === ui.unlock, tier];
  let done = false;
  ui.unlock.disabled = true;
  ui.widget.replaceChildren();
  try {
    for (let again = false; ; again = true) {
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
        changes += 1;
        await present(one.name, solved, signal);
        done = true;
        break;
      } catch (error) {
        if (error.name !== "price-risen" || again) throw Object.assign(error, { provider: one.name });
      }
    }
  } catch (error) {
    if (working === controller && useful()) {
      if (error.name === "no-such-server") show(null);
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
      if (done || tier !== was) suggest();
      // A disabled button loses the focus. If it is no longer there, the next Tab leads to what comes next.
      if (focused) (ui.how.hidden ? ui.next : ui.unlock).focus();
    }
  }
}

async function present(provider, solved, signal) {
  const was = tier;
  const answer = await call(location.pathname, post({ provider, solution: solved }));
  if (answer.state === "granted") return show(answer, true);
  if (!useful() || tier !== was) return undefined;
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

// The way back (D-312). If this page has a tab of its own, the tab is closed, and the server is in the previous one. A phone that
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
  if (useful() && !offers.length) offer();
  wait = SOON_MS;
  refresh();
});
count();
if (useful()) {
  guess();
  offer();
}
setInterval(tick, 1000);
follow();
