// The uses of a pass: it goes with a launch, keeps the promise of one, or unlocks a running server.
import { json, post } from "./verifier.js";

/**
 * The address of a build request with a pass.
 *
 * @param {string|URL} address absolute
 * @param {string} token the pass
 * @returns {string}
 */
export function withPass(address, token) {
  const url = new URL(address);
  // `searchParams` would re-encode the rest of the query.
  url.search += `${url.search ? "&" : "?"}egress_token=${encodeURIComponent(token)}`;
  return url.href;
}

/**
 * The verifier of the member that built, in a federation that redirects build requests.
 *
 * @param {string} answered the address of the response
 * @param {string} asked the address of the request
 * @param {string} base the address of the page's verifier, ending in "/"
 * @returns {string} ending in "/"
 */
export function verifierOf(answered, asked, base) {
  const [member, page] = [answered, asked].map((address) => address.slice(0, address.indexOf("/build/") + 1));
  return member === page ? base : member + base.match(/[^/]+\/$/)[0];
}

/**
 * The address of a server's unlock page, which also accepts passes.
 *
 * @param {string} verifier ending in "/"
 * @param {URL} server the server's address in the event `ready`
 * @returns {string}
 */
export function unlockPage(verifier, server) {
  const [, user, name] = server.pathname.match(/\/user\/([^/]+)(?:\/([^/]+))?\/?$/);
  return `${verifier}servers/${user}${name ? `/${name}` : ""}`;
}

/**
 * Ask for the state of a promise.
 *
 * @param {string} verifier ending in "/"
 * @param {string} promise
 * @param {?string} token a pass for that verifier to keep the promise with
 * @returns {Promise<{state: string, access: ?string}>}
 */
export const askPromise = (verifier, promise, token) =>
  json(fetch(`${verifier}promises/${promise}`, token ? post({ token }) : {}));

/**
 * Present a pass for a server.
 *
 * @param {string} address the address of its unlock page
 * @param {string} token the pass
 * @returns {Promise<object>} the verifier's answer: `state` is granted or pending; a refusal has none
 */
export async function presentPass(address, token) {
  // The page may be left at any moment. `keepalive` lets the request finish.
  const answer = await fetch(address, { ...post({ token }), keepalive: true });
  return answer.json();
}
