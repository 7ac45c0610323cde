// Proof of work: solves ALTCHA's challenges in Web Workers.
//
// A worker whose file stalls looks like one that calculates: it says nothing before it has the solution, and a slow phone takes
// minutes. Browsers report the file as an error when they give up the connection.
import { pbkdf2, sha, solveChallenge, solveChallengeWorkers } from "altcha/lib";

// The most workers: a launch page must not use all of a laptop, or the battery of a phone.
const WORKERS = 2;

/**
 * Solve a challenge.
 *
 * @param {object} challenge the challenge of the offer `altcha` in `GET challenge`
 * @param {(algorithm: string) => Worker|Promise<Worker>} startWorker starts one of ALTCHA's workers
 * @param {AbortSignal} [signal] ends it; the promise then rejects
 * @returns {Promise<string>} the solution, as `POST passes` accepts it
 * @throws {Error} without a secure context, or if workers are blocked
 */
export async function solve(challenge, startWorker, signal) {
  const started = [];
  try {
    return await finish(challenge, signal, (controller) => solveChallengeWorkers({
      challenge,
      controller,
      concurrency: Math.min(WORKERS, navigator.hardwareConcurrency || 1),
      createWorker: async (algorithm) => {
        const worker = await startWorker(algorithm);
        started.push(worker);
        // It was stopped while the worker was fetched.
        if (signal?.aborted) worker.terminate();
        return worker;
      },
      timeout: 0,
    }));
  } finally {
    // The library ends its workers, except when starting one of them fails, or when one does not answer.
    for (const worker of started) worker.terminate();
  }
}

/**
 * Solve a challenge without workers. Each step is a call to the browser's own cryptography, which runs on another thread, so the
 * page stays responsive. It takes about twice as long.
 *
 * @param {object} challenge a challenge with an algorithm that browsers have: PBKDF2 or SHA
 * @param {AbortSignal} [signal] ends it; the promise then rejects
 * @returns {Promise<string>} the solution
 */
export async function solveInPage(challenge, signal) {
  const means = { PBKDF2: pbkdf2, SHA: sha }[family(challenge.parameters.algorithm)];
  if (!means) throw new Error("needs workers");
  const { deriveKey } = means;
  return finish(challenge, signal, (controller) => solveChallenge({ challenge, controller, deriveKey, timeout: 0 }));
}

async function finish(challenge, signal, work) {
  // Browsers offer crypto.subtle only on https and localhost.
  if (!globalThis.crypto?.subtle) throw new Error("insecure context");
  const controller = new AbortController();
  signal?.throwIfAborted();
  try {
    const solution = await new Promise((resolve, reject) => {
      // A worker whose file does not arrive would never hear of it.
      signal?.addEventListener("abort", () => reject(signal.reason));
      work(controller).then(resolve, reject);
    });
    if (!solution) throw new Error("not solved");
    return btoa(JSON.stringify({ challenge, solution }));
  } finally {
    controller.abort();
  }
}

/**
 * The algorithm's name without its variant.
 *
 * @param {string} algorithm "PBKDF2/SHA-256"
 * @returns {string} "PBKDF2"
 */
export const family = (algorithm) => algorithm.split(/[/-]/)[0];
