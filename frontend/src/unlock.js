// What becomes of a pass: it goes with a launch, or unlocks a server that has been launched.
import { post } from "./check.js";

/**
 * The address of a build request with a pass.
 *
 * @param {string|URL} address absolute
 * @param {string} token the pass
 * @returns {string}
 */
export function withPass(address, token) {
  const url = new URL(address);
  // Not by searchParams, which would write the rest of the query anew.
  url.search += `${url.search ? "&" : "?"}egress_token=${encodeURIComponent(token)}`;
  return url.href;
}

/**
 * The verifier of the member that built, in a federation that redirects build requests.
 *
 * @param {string} answered the address that the response came from
 * @param {string} asked the address that the request was for
 * @param {string} base the verifier that the page knows, ending in "/"
 * @returns {string} ending in "/"
 */
export function verifierOf(answered, asked, base) {
  const [member, page] = [answered, asked].map((address) => address.slice(0, address.indexOf("/build/") + 1));
  return member === page ? base : member + base.match(/[^/]+\/$/)[0];
}

/**
 * The unlock page of a server, which takes passes too.
 *
 * @param {string} verifier ending in "/"
 * @param {URL} server as the event `ready` says it
 * @returns {string}
 */
export function unlockPage(verifier, server) {
  const [, user, name] = server.pathname.match(/\/user\/([^/]+)(?:\/([^/]+))?\/?$/);
  return `${verifier}servers/${user}${name ? `/${name}` : ""}`;
}

/**
 * Present a pass for a server.
 *
 * @param {string} address its unlock page
 * @param {string} token the pass
 * @returns {Promise<object>} the verifier's answer: `state` is granted or pending; a refusal has none
 */
export async function presentPass(address, token) {
  // The page may be about to leave, and this must not end with it.
  const answer = await fetch(address, { ...post({ token }), keepalive: true });
  return answer.json();
}
