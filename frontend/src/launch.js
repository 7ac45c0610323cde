// BinderHub's launch page: solves a challenge while the launch goes on, and keeps the promise that the build request carries.
//
// An inline wrapper of fetch in the page (chart/integration/launch_page.js) sends the build requests and loads this script. If
// anything fails here, the launch goes on.
import { Check } from "./check.js";
import { eventReader } from "./events.js";
import { Panel } from "./panel.js";
import { solve } from "./solve.js";
import { askPromise, presentPass, unlockPage, verifierOf } from "./pass.js";
import { startWorker } from "./workers.js";

// Milliseconds between two questions about a promise.
const AGAIN_MS = 1_000;

/** The object that the wrapper and this file share. docs/launch-page.md lists what pages may read. */
const ours = window.binderEgress;

/**
 * One launch: the build request and its retries. The first four properties are the wrapper's.
 *
 * @typedef {object} Launch
 * @property {string} promise what the build request carries
 * @property {string} [address] the address of the build request; missing until the page has sent it
 * @property {Promise<Response>} [answer] the answer to the last request
 * @property {number} [since] when the last request went out, in ms of `performance.now`
 * @property {Check} check
 * @property {(piece: Uint8Array) => object[]} read reads the events of the answer
 * @property {string} verifier the address of the verifier of the member that builds
 * @property {?object} said what the verifier said of the promise
 * @property {boolean} brought whether the pass was brought to another member
 * @property {boolean} starting whether the server is being started
 * @property {boolean} asking whether the verifier is asked about the promise now and then
 * @property {boolean} waiting whether the server is ready and waits for the check
 * @property {boolean} failed whether the last request led to no server
 * @property {string} [page] the address of its server's page, as soon as the server is ready
 */

/** @type {?Launch} the last launch, which the panel shows */
let current = null;
/** @type {?Panel} */
let panel = null;

function begin() {
  try {
    panel = new Panel(file("panel.css"));
    panel.onCarryOn = () => current.check.decline();
    panel.onAnother = () => current.check.another();
    // When the browser restores the page from its cache, its launch is over, and answers to it may still come.
    addEventListener("pageshow", (event) => {
      if (!event.persisted) return;
      current = null;
      panel.host.remove();
    });
  } catch {
    // The browser is old, but may still be able to do proof of work.
  }
  Object.assign(ours, { sent, read });
  ours.launches.forEach(sent);
}

// The address of a file that only some pages need. build.js puts the files' names in place of MANIFEST.
const file = (name) => `${ours.base}static/${MANIFEST[name]}`;

/**
 * Begin with a launch whose build request has just been sent, again perhaps, or is expected.
 *
 * @param {Launch} launch
 */
function sent(launch) {
  const { answer, address } = launch;
  Object.assign(launch, { read: eventReader(), verifier: ours.base, said: null, brought: false, starting: false, failed: false });
  if (!launch.check || launch.check.expired) launch.check = newCheck(launch);
  // A retry does not begin its time anew.
  launch.check.since ??= launch.since;
  current = launch;
  show(launch);
  answer?.then(({ ok, url }) => {
    if (!ok) throw new Error();
    launch.verifier = verifierOf(url, address, ours.base);
    bring(launch);
  }).catch(() => { if (launch.answer === answer) fail(launch); });
}

function newCheck(launch) {
  // For signed-in users no third-party script is loaded: it could read their token for the hub.
  const widgets = panel && !signedIn() ? { place: () => panel.attach(), language: panel.language, theme: () => panel.theme } : null;
  const means = {
    promise: launch.promise,
    solve: (challenge, signal) => solve(challenge, (algorithm) => startWorker(algorithm, ours.base), signal),
    // Our own table of widgets. A page that only needs proof of work never loads it.
    load: () => import(file("widgets.js")),
    widgets,
  };
  const { challenge } = ours;
  ours.challenge = null;
  return new Check(ours.base, challenge, means, () => {
    const { check } = launch;
    if (check.token) {
      if (launch.verifier === ours.base) launch.said = check.promise ?? launch.said;
      bring(launch);
      follow(launch);
    }
    show(launch);
  });
}

// With auth_enabled, BinderHub accepts no build request without this cookie's token. Its page reads the cookie and sends the token.
function signedIn() {
  try {
    // D-139
    return Boolean(window.pageConfig.apiToken) || /(?:^|; )_xsrf=/.test(document.cookie);
  } catch {
    // The page is not allowed to read its cookies.
    return true;
  }
}

/**
 * See a piece of an answer before the page does. The piece with the event `ready` waits.
 *
 * @param {Launch} launch
 * @param {Promise<Response>} answer
 * @param {Promise<{done: boolean, value?: Uint8Array}>} got settled
 * @returns {Promise<{done: boolean, value?: Uint8Array}>} the same
 */
async function read(launch, answer, got) {
  // There is no check in a browser that is too old for it. The server is ready, or the page has tried again.
  if (!launch.check || launch.page || launch.answer !== answer) return got;
  try {
    const { done, value } = await got;
    for (const event of launch.read(value)) await hear(launch, event);
    if (done) fail(launch);
  } catch {
    // The page ended the request, or it handles the same error itself.
    fail(launch);
  }
  return got;
}

async function hear(launch, { phase, url }) {
  const said = phase.toLowerCase();
  launch.starting = said === "launching";
  if (said === "launching") follow(launch);
  if (said === "failed") fail(launch);
  if (said === "ready") await ready(launch, url);
}

// There is no server for which anything could be promised. The check goes on, for a retry.
function fail(launch) {
  launch.failed = true;
  launch.starting = false;
  show(launch);
}

async function ready(launch, url) {
  // The next request for this address starts another launch, with another promise (D-138).
  ours.launches = ours.launches.filter((one) => one !== launch);
  const { check } = launch;
  launch.page = unlockPage(launch.verifier, new URL(url, (await launch.answer).url));
  launch.waiting = !decided(launch) && check.left > 0;
  show(launch);
  if (launch.waiting) await check.wait();
  launch.waiting = false;
  check.stop();
  show(launch);
  if (!check.token || launch.said?.state === "refused") return;
  // What is decided may be about an earlier attempt of BinderHub, and this one may not have been announced. A server that has the
  // tier keeps its use, so nothing is spent (D-221).
  presentPass(launch.page, check.token).then(({ state, access, status }) => {
    // The verifier may not know the server yet, or wait for its pod.
    if (state === "granted" || status === 403 || (state && !decided(launch))) launch.said = { state: state ?? "refused", access };
    show(launch);
  }).catch(() => {});
}

const decided = ({ said }) => said?.state === "granted" || said?.state === "refused";

// Ask about the promise from the start of the server until it is decided. Without a pass, nothing follows the announcement
// (D-433).
async function follow(launch) {
  if (launch.asking) return;
  launch.asking = true;
  while (launch.starting && !decided(launch) && (launch.check.token || launch.said?.state !== "announced") && await ask(launch)) {
    await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
  }
  launch.asking = false;
}

// The pass was issued by the page's own verifier. If another member builds, its verifier gets the pass from here.
function bring(launch) {
  if (launch.check.token && launch.verifier !== ours.base) ask(launch);
}

/** Ask once. Returns whether there was an answer: if there is none, the pass is presented when the server is ready. */
async function ask(launch) {
  const token = launch.verifier === ours.base || launch.brought ? null : launch.check.token;
  launch.brought ||= Boolean(token);
  try {
    const said = await askPromise(launch.verifier, launch.promise, token);
    if (!decided(launch) || decided({ said })) launch.said = said;
  } catch {
    return false;
  }
  // A launch that has a tier without a pass may get a larger one with it.
  if (launch.said.state === "refused") launch.check.stop();
  show(launch);
  return true;
}

function show(launch) {
  if (launch !== current) return;
  const { check, waiting, said } = launch;
  const state = stateOf(launch);
  const access = said?.access ?? check.access;
  const busy = state === "checking" || state === "holding";
  ours.state = state;
  // Where nothing is closed, nothing about internet access is said (D-399).
  if (launch.failed || (access === null && !busy && !state.startsWith("confirm"))) {
    panel?.host.remove();
    return;
  }
  try {
    panel?.show({
      state,
      access,
      // Of another tier, or of a repository with hosts of its own, only the word is known.
      reach: said?.state !== "granted" && access === check.access ? check.reach : "",
      busy,
      carryOn: waiting || (check.running && check.interactive),
      another: check.running && check.others,
      page: ["has", "checked"].includes(state) || waiting ? null : launch.page,
    });
  } catch {
    // The panel does not work. The launch goes on.
  }
}

// The key of the message. Neither a pass nor a promise is one: only the verifier's answer about the launch is.
function stateOf({ check, failed, waiting, said }) {
  if (failed) return "failed";
  if (said?.state === "granted") return ["packages", "hosts"].includes(said.access) ? "none" : "has";
  if (said?.state === "refused") return "none";
  switch (check.state) {
    case "asking":
    case "solving": return waiting ? "holding" : "checking";
    case "widget": return waiting ? "confirm_holding" : "confirm";
    case "passed": return "checked";
    default: return check.state;
  }
}

try {
  if (!ours.sent) begin();
} catch {
  // The page works as it does without this script.
}
