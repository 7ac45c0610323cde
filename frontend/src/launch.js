// BinderHub's launch page: solves a challenge while the page loads and sends the pass with its build request.
//
// An inline wrapper of fetch in the page (chart/integration/launch_page.js) loads this script and hands it build requests. If
// anything fails here, the request goes out unchanged.
import { Check } from "./check.js";
import { readEvents } from "./events.js";
import { Panel } from "./panel.js";
import { solve } from "./solve.js";
import { presentPass, unlockPage, verifierOf, withPass } from "./unlock.js";
import { startWorker } from "./workers.js";

/** What the wrapper and this file share; docs/launch-page.md says what pages may read of it. */
const ours = window.binderEgress;

/**
 * One launch: the build request, and those that repeat it, because the page tries again.
 *
 * @typedef {object} Launch
 * @property {?string} address of the build request
 * @property {Check} check
 * @property {number} waiting how many requests wait for the check
 * @property {boolean} gone whether a request has gone without a pass
 * @property {boolean} sent whether the last one has gone with a pass
 * @property {boolean} ended whether its server is ready
 * @property {?string} unlock the verifier's answer to an unlock: granted, pending or refused
 */

/** @type {Map<string, Launch>} those that are under way, by the address of their build request */
const launches = new Map();
/** @type {?Launch} of the page that launches at once; its build request is still to come */
let expected = null;
/** @type {?Launch} what the panel is about */
let current = null;
/** @type {?Panel} */
let panel = null;

function begin() {
  try {
    panel = new Panel();
    panel.onCarryOn = () => current.check.decline();
    panel.onAnother = () => current.check.another();
    // The browser restored the page from its cache, and the panel's message is outdated.
    addEventListener("pageshow", (event) => { if (event.persisted) panel.host.remove(); });
  } catch {
    // An old browser, which may still do proof of work.
  }
  if (ours.challenge) expected = newLaunch(null, ours.challenge);
  const early = ours.early ?? [];
  ours.early = null;
  ours.send = send;
  for (const [address, copy] of early) {
    const launch = launchOf(address);
    launch.gone = true;
    watch(launch, copy, address, null);
    show(launch);
  }
}

function newLaunch(address, asked) {
  const launch = { address, waiting: 0, gone: false, sent: false, ended: false, unlock: null };
  launch.check = newCheck(launch, asked);
  show(launch);
  return launch;
}

function newCheck(launch, asked) {
  // For signed-in users no script of third parties is loaded: it could read their token for the hub.
  const widgets = panel && !signedIn() ? { place: () => panel.attach(), language: panel.language, theme: () => panel.theme } : null;
  const means = {
    solve: (challenge, signal) => solve(challenge, (algorithm) => startWorker(algorithm, ours.base), signal),
    // Our own table of widgets; a page with proof of work never loads it.
    load: () => import(`${ours.base}static/${MANIFEST["widgets.js"]}`),
    widgets,
  };
  return new Check(ours.base, asked, means, () => {
    // If a request waits for this pass, it goes out now and shows the next message.
    if (launch.check && !(launch.check.token && launch.waiting)) show(launch);
  });
}

// With auth_enabled BinderHub takes no build request without the token of this cookie, which its page can read and sends along.
function signedIn() {
  try {
    return Boolean(window.pageConfig.apiToken) || /(?:^|; )_xsrf=/.test(document.cookie);
  } catch {
    // The page may not read its cookies.
    return true;
  }
}

function launchOf(address) {
  let launch = launches.get(address);
  if (!launch) {
    launch = expected ?? newLaunch(address, null);
    launch.address = address;
    expected = null;
    launches.set(address, launch);
  }
  return launch;
}

/**
 * Send a build request, with a pass if there is one, after waiting for it if a challenge is being solved.
 *
 * @param {typeof fetch} original the page's fetch
 * @param {*} self what it was called on
 * @param {IArguments} args what it was called with
 * @param {string} address the absolute address of the request
 * @returns {Promise<Response>|undefined} undefined for requests other than launches
 */
function send(original, self, args, address) {
  const url = new URL(address);
  const method = String(args[1]?.method ?? args[0].method ?? "GET").toUpperCase();
  if (method !== "GET" || url.searchParams.has("egress_token") || url.searchParams.get("build_only") === "true") return undefined;
  const launch = launchOf(address);
  // A retry after longer than a pass lives.
  if (launch.check.expired) launch.check = newCheck(launch, null);
  const signal = args[1]?.signal ?? args[0].signal;
  const go = () => {
    let token = launch.check.token;
    const more = token && withToken(args, address, token);
    if (!more) token = null;
    const answer = original.apply(self, more ?? args);
    launch.sent = Boolean(token);
    launch.gone ||= !token && !signal?.aborted;
    try {
      watch(launch, answer.then((response) => response.clone()), address, token);
      show(launch);
    } catch {
      // The request is on its way.
    }
    return answer;
  };
  // A launch waits only once: a retry of the page goes at once.
  if (launch.check.token || launch.gone || !launch.check.running) return go();
  launch.waiting += 1;
  show(launch);
  return launch.check.wait(signal).catch(() => {}).then(() => {
    launch.waiting -= 1;
    return go();
  });
}

function withToken(args, address, token) {
  try {
    const url = withPass(address, token);
    return [args[0] instanceof Request ? new Request(url, args[0]) : url, ...[...args].slice(1)];
  } catch {
    return null;
  }
}

/**
 * Read the events of a build from a copy of the response.
 *
 * @param {Launch} launch
 * @param {Promise<Response>} copy a clone of the response that the page reads
 * @param {string} address that the request was for
 * @param {?string} token the pass that it had
 */
async function watch(launch, copy, address, token) {
  try {
    const response = await copy;
    if (!response.ok) return;
    await readEvents(response.body, ({ phase, url }) => {
      const said = phase.toLowerCase();
      if (said === "ready") ready(launch, token, new URL(url, response.url), verifierOf(response.url, address, ours.base));
      // The build took longer than a pass lives.
      if (said === "launching" && !token && launch.check.expired) launch.check = newCheck(launch, null);
      return said === "launching";
    });
  } catch {
    // The page ended the request, or handles the same error itself.
  }
}

function ready(launch, token, server, verifier) {
  launch.ended = true;
  // The next request for this address is another launch with another pass.
  launches.delete(launch.address);
  const late = launch.check.token;
  if (!token && late) unlock(launch, late, server, verifier);
  else launch.check.stop();
  show(launch);
}

function unlock(launch, token, server, verifier) {
  presentPass(unlockPage(verifier, server), token)
    .then(({ state }) => {
      launch.unlock = state ?? "refused";
      show(launch);
    })
    .catch(() => {});
}

function show(launch) {
  current = launch;
  const { check } = launch;
  const state = check ? stateOf(launch) : "checking";
  const asks = Boolean(check?.running) && !launch.ended;
  ours.state = state;
  try {
    panel?.show({
      state,
      provider: check?.provider,
      busy: state === "checking" || state === "holding",
      carryOn: asks && (check.others || check.interactive),
      another: asks && check.others,
    });
  } catch {
    // The panel is missing, and the launch goes on.
  }
}

// The key of the message. "will" promises access, so only a pass that went with the request leads to it.
function stateOf({ check, waiting, gone, sent, ended, unlock }) {
  if (unlock === "granted") return "has";
  if (unlock === "refused") return "none";
  if (sent) return "will";
  if (check.state === "passed") return "checked";
  if (ended) return "none";
  switch (check.state) {
    case "asking":
    case "solving": return waiting ? "holding" : "checking";
    case "widget": return gone && !waiting ? "confirm_running" : "confirm";
    default: return check.state;
  }
}

try {
  if (ours && !ours.send) begin();
} catch {
  // The page looks as it does without this script.
}
