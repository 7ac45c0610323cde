// Guesses from a cell's output whether it failed for lack of network. The guess only counts for a server that lacks network
// (D-306).

// How many characters are examined, from the end.
const LIMIT_CHARACTERS = 20_000;

// One pattern for each kind of message. tests/unit/test_jupyterlab_failures.py has messages for all of them, and says for each
// whether the program was run, or which file of its sources has the message.
const SIGNS = [
  // A name that is not found: the resolver's messages (Python, git, pip, uv, libgit2), and curl's library's, old and new
  // (R, Julia, conda, mamba): curl, lib/strerror.c, lib/vdns/asyn-base.c, hostip.c and cf-dns.c.
  /gaierror|NameResolutionError|EAI_AGAIN|ENOTFOUND|DNSError/,
  /(temporary failure|failure) (in name resolution|resolving)|name or service not known|no address associated with hostname/i,
  /(could not|couldn't|unable to|failed to) resolve (host|address|proxy)|could not resolve: [\w-]+(\.[\w-]+)+/i,
  /resolving timed out|failed to resolve '[^']+' with timeout|UnknownHostException|UnresolvedAddressException/i,
  // No route.
  /network is unreachable|no route to host|ENETUNREACH|EHOSTUNREACH/i,
  // A connection that is not made, in time or at all. Some programs have their own messages:
  // pip (src/pip/_internal/exceptions/network.py), uv and others with reqwest, R (src/modules/internet/libcurl.c),
  // libgit2 (src/libgit2/streams/socket.c).
  /ConnectTimeout|NewConnectionError|ConnectionTimeoutError|ClientConnector(DNS)?Error|CondaHTTPError: HTTP 000 CONNECTION FAILED/,
  /connect(ion)? timed out|urlopen error (\[Errno \d+\] )?timed out|timeout was reached|failed to connect to \S+(:\d+| port \d+) /i,
  /\(while establishing a connection\)|cause(d by)?: operation timed out|failed to connect to \S+: operation timed out/i,
  /(could not|couldn't) connect to server|URL '[^']+': timeout of \d+ seconds was reached/i,
  // Policies of kube-router refuse a connection to an address.
  /\[Errno 111\] Connection refused|ECONNREFUSED|ConnectException: Connection refused|failed: Connection refused/,
  // Hugging Face's libraries hide the cause.
  /we couldn't connect to '|couldn't reach .*\bHub\b|please check your (internet )?connection and try again/i,
  // The egress proxy refuses a host, in the client's message or in its own. A `tunnel error` is
  // uv's and rattler's (hyper-util, src/client/legacy/connect/proxy/tunnel.rs), an `unexpected status` libgit2's
  // (src/libgit2/transports/httpclient.c).
  /ProxyError|(tunnel|tunneling) (connection )?failed|HTTP code 403 from proxy|tunnel error: /i,
  // The proxy's own sentences (verifier/binder_egress/proxy/decide.py), with the page's address and without.
  /proxy returned unexpected status: 403|No internet access: open /i,
  /403\b.*\b(Not on the list of this server: |This server is blocked)/i,
];

// Messages that hide the cause, of R (src/modules/internet/libcurl.c, src/library/utils/R/packages.R) and mamba
// (libmamba/src/api/channel_loader.cpp). They also print this if a website answers with an error, and then say that as well.
const HIDDEN = /cannot open (URL|the connection to) 'https?:|unable to access index for repository https?:|Subdir \S+ not loaded!/i;
const ANSWERED = /: HTTP status was '\d{3} |Transfer finalized, status: \d{3} /;

// A server in the pod itself needs no network.
const LOCAL = /localhost|127\.0\.0\.\d|\[::1\]/;

/**
 * Whether a text says that something was not reached.
 *
 * @param {string} text the output of a cell
 */
export function looksLikeNoNetwork(text) {
  // Colours, as IPython writes them.
  const lines = text.slice(-LIMIT_CHARACTERS).replace(/\x1b\[[\d;]*m/g, "").split("\n");
  const signs = ANSWERED.test(text) ? SIGNS : [...SIGNS, HIDDEN];
  return lines.some((line) => !LOCAL.test(line) && signs.some((sign) => sign.test(line)));
}

/**
 * The output of a cell, with its errors.
 *
 * @param {{length: number, get(index: number): {toJSON(): object}}} outputs the model of a cell's outputs
 * @returns {string}
 */
export function textOf(outputs) {
  const texts = [];
  for (let index = 0; index < outputs.length; index++) {
    const { output_type: kind, text, ename, evalue, traceback } = outputs.get(index).toJSON();
    if (kind === "stream") texts.push([].concat(text ?? "").join(""));
    // Without the code lines that IPython prints, which may name an exception that is caught.
    if (kind === "error") texts.push(`${ename}: ${evalue}`, ...(traceback ?? []).join("\n").split("\n").slice(-1));
  }
  return texts.join("\n");
}
