// Answers of the verifier, and its problems (RFC 9457).

// The longest wait for one answer, by default. No launch waits that long.
const ANSWER_SECONDS = 10;

/** A problem. `type` is the last word of its type, "price-risen", or "". */
class Problem extends Error {
  constructor(body, retryAfter) {
    super(body?.detail);
    [this.type] = /[^:/#]*$/.exec(body?.type ?? "");
    /** Seconds after which another try makes sense, as the verifier wrote them. */
    this.retryAfter = retryAfter;
  }
}

/** The verifier refuses. */
export class Refusal extends Problem {}

/** The verifier did not answer, or it answered with a server error. */
export class NoAnswer extends Problem {}

/** Options of `fetch` for a POST request with a JSON body. */
export const post = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/**
 * Read an answer from the verifier.
 *
 * @param {Promise<Response>} answer
 * @param {number} [seconds] the longest wait for all of it
 * @returns {Promise<object>}
 * @throws {Refusal|NoAnswer}
 */
export async function json(answer, seconds = ANSWER_SECONDS) {
  let response, body, timer;
  try {
    const late = new Promise((_, reject) => { timer = setTimeout(reject, seconds * 1000); });
    [response, body] = await Promise.race([answer.then(async (got) => [got, await got.json()]), late]);
  } catch {
    // There is no connection, the answer does not end, or it is a proxy's error page. The browser's message about it helps nobody.
    throw new NoAnswer();
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return body;
  throw new (response.status >= 500 ? NoAnswer : Refusal)(body, response.headers.get("Retry-After"));
}
