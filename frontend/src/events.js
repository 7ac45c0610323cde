// Reads a build's event stream, from a copy of the response that BinderHub's page reads.

// The page ends its request as soon as it has read the last event, and that discards what is still unread here. So nothing (no
// generator, no event target) stands between two calls of read(): this loop must be as quick as the page's own (D-137).

const SAID = /"phase": ?"(?:launching|ready|failed)"/i;

/**
 * Read one event's data.
 *
 * @param {string} data
 * @returns {?{phase: string, url?: string}} null for phases other than launching, ready and failed
 */
export const readEvent = (data) => (SAID.test(data) ? JSON.parse(data) : null);

/**
 * Delay the event `ready` for the page. It reads everything else immediately, and the response stays the browser's own.
 *
 * @param {Response} response a response that nobody has begun to read
 * @param {() => Promise<void>} wait called when the event has come; never rejects
 */
export function delayReady({ body }, wait) {
  const getReader = body.getReader.bind(body);
  body.getReader = (...options) => {
    const reader = getReader(...options);
    const read = reader.read.bind(reader);
    reader.read = async (...into) => {
      const got = await read(...into);
      if (/"phase": ?"ready"/i.test(new TextDecoder().decode(got.value))) await wait();
      return got;
    };
    return reader;
  };
}

/**
 * Read until the build is over or the stream ends.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {(event: {phase: string, url?: string}) => boolean} on called with each event of the phases launching, ready and
 *   failed; returns whether to read on
 */
export async function readEvents(body, on) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines) {
      const event = line.startsWith("data:") && readEvent(line.slice(5));
      if (event && !on(event)) {
        // Do not await it: the promise resolves only after the page has cancelled its copy, too.
        reader.cancel().catch(() => {});
        return;
      }
    }
  }
}
