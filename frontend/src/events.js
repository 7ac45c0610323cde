// Reads a build's event stream.

const SAID = /"phase": ?"(?:launching|ready|failed)"/i;

/**
 * Read one event's data.
 *
 * @param {string} data
 * @returns {?{phase: string, url?: string}} null for phases other than launching, ready and failed
 */
export const readEvent = (data) => (SAID.test(data) ? JSON.parse(data) : null);

/**
 * Begin to read a stream.
 *
 * @returns {(piece?: Uint8Array) => {phase: string, url?: string}[]} takes the next piece of the stream, and returns the events of
 *   the phases launching, ready and failed that end in it
 */
export function eventReader() {
  const decoder = new TextDecoder();
  let rest = "";
  return (piece) => {
    const lines = (rest + decoder.decode(piece, { stream: true })).split(/\r\n|\n|\r/);
    rest = lines.pop();
    return lines.map((line) => line.startsWith("data:") && readEvent(line.slice(5))).filter(Boolean);
  };
}
