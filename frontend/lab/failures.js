// Whether a cell failed for lack of network, by what it printed. A guess: it only counts for a server that lacks network.

// Characters that are looked at, from the end.
const LIMIT = 20_000;

// One for each way in which it is said. tests/unit/test_jupyterlab_failures.py has messages for all of them.
const SIGNS = [
  // A name that is not found: the resolver's words (Python, git, pip), and those of curl's library (R, Julia, conda, mamba).
  /gaierror|NameResolutionError|EAI_AGAIN|ENOTFOUND|DNSError/,
  /(temporary failure|failure) (in name resolution|resolving)|name or service not known|no address associated with hostname/i,
  /(could not|couldn't|unable to|failed to) resolve (host|address|proxy)/i,
  // No way there.
  /network is unreachable|no route to host|ENETUNREACH|EHOSTUNREACH/i,
  // A connection that is not made, in time or at all.
  /ConnectTimeout|NewConnectionError|ConnectionTimeoutError|ClientConnector(DNS)?Error|CondaHTTPError: HTTP 000 CONNECTION FAILED/,
  /connect(ion)? timed out|urlopen error (\[Errno \d+\] )?timed out|timeout was reached|failed to connect to \S+ port/i,
  // The egress proxy refuses a host, in the words of the client or in its own.
  /ProxyError|(tunnel|tunneling) (connection )?failed|HTTP code 403 from proxy|No internet access: open https?:/i,
  // What hides the cause, in R.
  /cannot open (URL|the connection to) 'https?:|unable to access index for repository https?:/i,
];

// A server in the pod itself has nothing to do with it.
const LOCAL = /localhost|127\.0\.0\.\d|\[::1\]/;

/**
 * Whether a text says that something was not reached.
 *
 * @param {string} text what a cell printed
 */
export function looksLikeNoNetwork(text) {
  // Colours, as IPython writes them.
  const lines = text.slice(-LIMIT).replace(/\x1b\[[\d;]*m/g, "").split("\n");
  return lines.some((line) => !LOCAL.test(line) && SIGNS.some((sign) => sign.test(line)));
}

/**
 * What a cell printed, errors among it.
 *
 * @param {{length: number, get(index: number): {toJSON(): object}}} outputs the model of a cell's outputs
 * @returns {string}
 */
export function textOf(outputs) {
  const texts = [];
  for (let index = 0; index < outputs.length; index++) {
    const { output_type: kind, text, ename, evalue, traceback } = outputs.get(index).toJSON();
    if (kind === "stream") texts.push([].concat(text ?? "").join(""));
    // Without IPython's own lines of code, which may name an exception that is caught.
    if (kind === "error") texts.push(`${ename}: ${evalue}`, ...(traceback ?? []).join("\n").split("\n").slice(-1));
  }
  return texts.join("\n");
}
