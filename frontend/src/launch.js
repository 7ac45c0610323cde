// BinderHub's launch page: solves a challenge while the page loads and sends the pass with its build request.
//
// An inline wrapper of fetch in the page (chart/integration/launch_page.js) loads this script and hands it build requests. If
// anything fails here, the request goes out unchanged.
import { Check } from "./check.js";
import { delayReady, readEvents } from "./events.js";
import { Panel } from "./panel.js";
import { solve } from "./solve.js";
import { presentPass, unlockPage, verifierOf, withPass } from "./pass.js";
import { startWorker } from "./workers.js";

/** The object that the wrapper and this file share. docs/launch-page.md lists what pages may read. */
const ours = window.binderEgress;

/**
 * One launch: the build request and its retries.
 *
 * @typedef {object} Launch
 * @property {?string} address the address of the build request
 * @property {?Check} check null only while it is made
 * @property {number} waiting the number of requests and of ready servers that wait for the check
 * @property {number} began when its first request came, in ms; 0 if that went out before this script had loaded
 * @property {boolean} gone whether a request went out without a pass
 * @property {boolean} sent whether the last request went out with a pass
 * @property {?Promise<Response>} copy the copy of the last request's answer that is read
 * @property {boolean} failed whether the last request led to no server
 * @property {boolean} ended whether its server is ready
 * @property {?string} page the address of its server's page, as soon as the server is ready
 * @property {?string} answer the verifier's answer at `ready`: granted, pending or refused
 */

/** @type {Map<string, Launch>} unfinished launches, by the address of their build request */
const launches = new Map();
/** @type {?Launch} the launch of a page that launches by itself, before its build request */
let expected = null;
/** @type {?Launch} the launch that the panel shows */
let current = null;
/** @type {?Panel} */
let panel = null;

function begin() {
  try {
    panel = new Panel(file("panel.css"));
    panel.onCarryOn = () => current.check.decline();
    panel.onAnother = () => current.check.another();
    // When the browser restores the page from its cache, the panel's message is outdated.
    addEventListener("pageshow", (event) => { if (event.persisted) panel.host.remove(); });
  } catch {
    // The browser is old, but may still be able to do proof of work.
  }
  if (ours.challenge) expected = newLaunch(null, ours.challenge);
  const early = ours.early ?? [];
  ours.early = null;
  ours.send = send;
  for (const [address, copy] of early) {
    const launch = launchOf(address);
    launch.gone = true;
    watch(launch, copy, address);
    show(launch);
  }
}

// The address of a file that only some pages need. build.js puts the files' names in place of MANIFEST.
const file = (name) => `${ours.base}static/${MANIFEST[name]}`;

function newLaunch(address, asked) {
  const launch = {
    address, check: null, waiting: 0, began: 0, gone: false, sent: false, copy: null, failed: false, ended: false, page: null,
    answer: null,
  };
  launch.check = newCheck(launch, asked);
  show(launch);
  return launch;
}

function newCheck(launch, asked) {
  // For signed-in users no third-party script is loaded: it could read their token for the hub.
  const widgets = panel && !signedIn() ? { place: () => panel.attach(), language: panel.language, theme: () => panel.theme } : null;
  const means = {
    solve: (challenge, signal) => solve(challenge, (algorithm) => startWorker(algorithm, ours.base), signal),
    // Our own table of widgets. A page that only needs proof of work never loads it.
    load: () => import(file("widgets.js")),
    widgets,
  };
  return new Check(ours.base, asked, means, () => {
    // The check of a failed launch goes on for a retry, and must not take the panel away from a launch that is under way.
    if (launch.failed && launch !== current) return;
    // A request that waits for this pass goes out now, and shows the next message itself.
    if (launch.check && !(launch.check.token && launch.waiting)) show(launch);
  });
}

// With auth_enabled, BinderHub accepts no build request without this cookie's token. Its page reads the cookie and sends the token.
function signedIn() {
  try {
    return Boolean(window.pageConfig.apiToken) || /(?:^|; )_xsrf=/.test(document.cookie);
  } catch {
    // The page is not allowed to read its cookies.
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
 * Send a build request, with a pass if there is one. While a challenge is being solved, wait for its pass. For proof of work, wait
 * only a second here, and for the rest of the time when the server is ready (D-224).
 *
 * @param {typeof fetch} original the page's fetch
 * @param {*} self the `this` of the page's call
 * @param {IArguments} args the arguments of the page's call
 * @param {string} address the absolute address of the request
 * @returns {Promise<Response>|undefined} undefined for requests other than launches
 */
function send(original, self, args, address) {
  const url = new URL(address);
  const method = String(args[1]?.method ?? args[0].method ?? "GET").toUpperCase();
  if (method !== "GET" || url.searchParams.has("egress_token") || url.searchParams.get("build_only") === "true") return undefined;
  const launch = launchOf(address);
  launch.failed = false;
  // The retry came after the pass had expired.
  if (launch.check.expired) launch.check = newCheck(launch, null);
  launch.began ||= performance.now();
  const signal = args[1]?.signal ?? args[0].signal;
  const go = () => {
    let token = launch.check.token;
    const more = token && withToken(args, address, token);
    if (!more) token = null;
    const answer = original.apply(self, more ?? args);
    launch.sent = Boolean(token);
    launch.gone ||= !token && !signal?.aborted;
    try {
      watch(launch, answer.then((response) => response.clone()), address);
      show(launch);
      if (!token) return answer.then((response) => delayed(launch, response, signal));
    } catch {
      // The request has already gone out.
    }
    return answer;
  };
  // A launch waits only once. A retry goes out immediately.
  if (launch.check.token || launch.gone || !launch.check.running) return go();
  launch.waiting += 1;
  show(launch);
  return launch.check.wait(signal).catch(() => {}).then(() => {
    launch.waiting -= 1;
    return go();
  });
}

function delayed(launch, response, signal) {
  try {
    delayReady(response, () => rest(launch, signal));
  } catch {
    // A response without a body, or a browser that does not allow it.
  }
  return response;
}

// The rest of the waiting time. At this point nothing waits for a person.
const rest = ({ check, began }, signal) => check.wait(signal, began);

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
 * @param {string} address the address of the request
 */
async function watch(launch, copy, address) {
  launch.copy = copy;
  try {
    const response = await copy;
    if (response.ok) {
      await readEvents(response.body, ({ phase, url }) => {
        const said = phase.toLowerCase();
        if (said === "ready") ready(launch, new URL(url, response.url), verifierOf(response.url, address, ours.base));
        // The build took longer than a pass is valid.
        if (said === "launching" && !launch.sent && launch.check.expired) launch.check = newCheck(launch, null);
        return said === "launching";
      });
    }
  } catch {
    // The page ended the request, or it handles the same error itself.
  }
  if (launch.ended || launch.copy !== copy) return;
  // There is no server for which anything could be promised. The check goes on, for a retry.
  launch.failed = true;
  if (current === launch) show(launch);
}

// The pass is presented even if it went with the request: BinderHub may not have reported the launch to the verifier. A server
// that has the tier keeps its use, so nothing is spent (D-221).
async function ready(launch, server, verifier) {
  launch.ended = true;
  launch.page = unlockPage(verifier, server);
  // The next request for this address starts another launch, with another pass.
  launches.delete(launch.address);
  launch.waiting += 1;
  show(launch);
  await rest(launch);
  launch.waiting -= 1;
  const { token } = launch.check;
  launch.check.stop();
  if (token) {
    presentPass(launch.page, token)
      .then(({ state, status }) => {
        // A server that the verifier does not know yet may have received the tier with its launch.
        launch.answer = state ?? (status === 403 || !launch.sent ? "refused" : null);
        show(launch);
      })
      .catch(() => {});
  }
  show(launch);
}

function show(launch) {
  current = launch;
  const { check } = launch;
  const state = launch.failed ? "failed" : check ? stateOf(launch) : "checking";
  ours.state = state;
  // Where nothing is closed, a server without a pass has internet access (D-399).
  if (launch.failed || (check?.access === null && ["none", "needed", "without"].includes(state))) {
    panel?.host.remove();
    return;
  }
  const asks = Boolean(check?.running) && !launch.ended;
  try {
    panel?.show({
      state,
      access: check?.access,
      busy: state === "checking" || state === "holding",
      carryOn: asks && (check.others || check.interactive),
      another: asks && check.others,
      asks: asks && check.interactive,
      page: ["has", "checked"].includes(state) || launch.waiting ? null : launch.page,
    });
  } catch {
    // The panel does not work. The launch goes on.
  }
}

// The key of the message. A pass is not a promise: only the verifier's answer about the server is one.
function stateOf({ check, waiting, gone, ended, answer }) {
  if (answer === "granted") return "has";
  if (answer === "refused") return "none";
  if (check.state === "passed") return "checked";
  if (ended && !waiting) return "none";
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
  // The page works as it does without this script.
}
