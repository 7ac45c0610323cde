// Proof of work: solves a challenge of ALTCHA in Web Workers.
import { solveChallengeWorkers } from "altcha/lib";

// Two at most: a launch page must not take the whole of a laptop, or the battery of a phone.
const WORKERS = 2;

/**
 * Solve a challenge.
 *
 * @param {object} challenge what `GET challenge` offers under `altcha`
 * @param {string} base the absolute address of the verifier, ending in "/"
 * @param {AbortSignal} [signal] ends it; the promise then rejects
 * @returns {Promise<string>} the solution, as `POST passes` takes it
 * @throws {Error} without a secure context, or where workers are blocked
 */
export async function solve(challenge, base, signal) {
  // Browsers offer crypto.subtle on https and localhost only.
  if (!globalThis.crypto?.subtle) throw new Error("insecure context");
  const controller = new AbortController();
  signal?.throwIfAborted();
  const stop = () => controller.abort();
  signal?.addEventListener("abort", stop);
  const started = [];
  try {
    const solution = await solveChallengeWorkers({
      challenge,
      controller,
      concurrency: Math.min(WORKERS, navigator.hardwareConcurrency || 1),
      createWorker: (algorithm) => {
        started.push(startWorker(algorithm, base));
        return started.at(-1);
      },
      timeout: 0,
    });
    signal?.throwIfAborted();
    if (!solution) throw new Error("not solved");
    return btoa(JSON.stringify({ challenge, solution }));
  } finally {
    signal?.removeEventListener("abort", stop);
    // The library ends its workers, but not those that it had when making the next one failed.
    for (const worker of started) worker.terminate();
  }
}

const FILES = { PBKDF2: "worker-pbkdf2.js", SHA: "worker-sha.js", SCRYPT: "worker-scrypt.js", ARGON2ID: "worker-argon2id.js" };

function startWorker(algorithm, base) {
  const address = `${base}static/${MANIFEST[FILES[algorithm.split(/[/-]/)[0]]]}`;
  if (new URL(address).origin === location.origin) return new Worker(address);
  // A worker must be of the page's own origin, a script that it imports need not: the page may come from another host than the build.
  const blob = URL.createObjectURL(new Blob([`importScripts(${JSON.stringify(address)})`], { type: "text/javascript" }));
  try {
    return new Worker(blob);
  } finally {
    // Worker() has taken the address; browsers fetch it before they let go of it.
    setTimeout(() => URL.revokeObjectURL(blob), 10_000);
  }
}
