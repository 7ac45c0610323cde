// ALTCHA's workers for pages of the hub, started from the verifier's files.
import { family } from "./solve.js";

// build.js puts the names of these files, with their checksums, in place of MANIFEST.
const FILES = { PBKDF2: "worker-pbkdf2.js", SHA: "worker-sha.js", SCRYPT: "worker-scrypt.js", ARGON2ID: "worker-argon2id.js" };

/**
 * Start a worker.
 *
 * @param {string} algorithm "PBKDF2/SHA-256"
 * @param {string} base the absolute address of the verifier, ending in "/"
 * @returns {Worker}
 */
export function startWorker(algorithm, base) {
  const address = `${base}static/${MANIFEST[FILES[family(algorithm)]]}`;
  if (new URL(address).origin === location.origin) return new Worker(address);
  // A worker must have the page's origin, but may import scripts from others: the verifier may be on another host than the page.
  return workerOf(`importScripts(${JSON.stringify(address)})`);
}

/**
 * Start a worker from its text.
 *
 * @param {string} text the text of the script
 * @returns {Worker}
 */
export function workerOf(text) {
  const blob = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try {
    return new Worker(blob);
  } finally {
    // The browser fetches the address after Worker() has returned, so it stays valid for a while.
    setTimeout(() => URL.revokeObjectURL(blob), 10_000);
  }
}
