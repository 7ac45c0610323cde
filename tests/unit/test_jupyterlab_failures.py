"""The messages that the JupyterLab extension takes for a lack of network, and similar messages that it does not."""

import json
import subprocess

from tests.support import TOP

UNREACHED = {
    # Seen in a network namespace without a way out, and without DNS.
    "Python, socket, other resolver": "gaierror: [Errno -2] Name or service not known",
    "Python, address": "OSError: [Errno 101] Network is unreachable",
    "Python, requests": "... (Caused by NameResolutionError(\"HTTPSConnection(host='example.org', port=443): Failed to resolve ...",
    "Python, httpx, time-out": "ConnectTimeout: ",
    "Python, aiohttp": "ClientConnectorDNSError: Cannot connect to host example.org:443 ssl:default",
    "curl": "curl: (6) Could not resolve host: example.org",
    "curl, time-out": "curl: (28) Failed to connect to example.org port 443 after 134000 ms: Couldn't connect to server",
    "wget": "wget: unable to resolve host address ‘example.org’",
    "npm": "npm error request to https://npm.example.org/left-pad failed, reason: getaddrinfo EAI_AGAIN npm.example.org",
    "apt": "W: Failed to fetch http://apt.example.org/dists/stable/InRelease  Temporary failure resolving 'apt.example.org'",
    # Newer than those above, seen the same way: pip 26.3, uv 0.13.
    "pip, an address, time-out": "╰─> index.example.org didn't respond within 15.0 seconds (while establishing a connection)",
    "uv, time-out": "  cause: operation timed out",
    "Python, aiohttp, time-out": "ConnectionTimeoutError: Connection timeout to host https://example.org/",
    # Seen in a network namespace in which 192.0.2.1 refuses connections, as a policy of kube-router does.
    "Python, refused": "ConnectionRefusedError: [Errno 111] Connection refused",
    "Node.js, refused": "Error: connect ECONNREFUSED 192.0.2.1:80",
    "wget, refused": "Connecting to 192.0.2.1:80... failed: Connection refused.",
    # Seen in a network namespace without a way out: Java 17, `java.net.URL` and `java.net.http`.
    "Java": "java.net.UnknownHostException: example.org",
    "Java, newer": "Caused by: java.nio.channels.UnresolvedAddressException",
    "Java, refused": "java.net.ConnectException: Connection refused",
    # Taken from their sources. transformers 5.24: transformers/utils/hub.py; huggingface_hub 2.4:
    # huggingface_hub/file_download.py, huggingface_hub/_snapshot_download.py; datasets 5.2: datasets/load.py.
    "Hugging Face, transformers": "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
    "Hugging Face, a model": "cannot find the appropriate snapshot folder ... Please check your internet connection and try again.",
    "Hugging Face, datasets": "ConnectionError: Couldn't reach 'imdb' on the Hub (LocalEntryNotFoundError)",
    # curl's library, whose messages conda, mamba, R and Julia print: lib/strerror.c (others
    # since 8.10), lib/vdns/asyn-base.c, hostip.c and cf-dns.c, lib/cf-ip-happy.c, lib/multi.c, of curl 8.22.
    "curl's library, name, no detail": "Could not resolve: example.org:443",
    "curl's library, name, time-out": "Resolving timed out after 5000 milliseconds",
    "curl's library, name, time-out, newer": "Failed to resolve 'example.org' with timeout after 5000 ms",
    "curl's library, time-out": "Connection timed out after 10001 milliseconds",
    # conda 26.7: conda/exceptions.py, conda/gateways/repodata/__init__.py.
    "conda": "CondaHTTPError: HTTP 000 CONNECTION FAILED for url <https://conda.example.org/conda-forge/noarch/repodata.json>",
    # mamba 2.8: libmamba/src/api/channel_loader.cpp.
    "mamba, no index": "critical libmamba Multiple errors occurred:\n    Subdir conda-forge/noarch not loaded!",
    # R 4.2 to 4.5: src/modules/internet/libcurl.c, src/library/utils/R/packages.R.
    "R, download.file": "Error in download.file(url, file): cannot open URL 'https://example.org/a.csv'",
    "R, read.csv": "Error in file(file, \"rt\"): cannot open the connection to 'https://example.org/a.csv'",
    "R, name": "Warning in file(file, \"rt\"):\n“URL 'http://example.org/': status was 'Couldn't resolve host name'”",
    "R, connection": "Warning in file(file, \"rt\"):\n“URL 'http://example.org/': status was 'Could not connect to server'”",
    "R, time-out": "Warning in file(file, \"rt\"):\n“URL 'http://example.org/': Timeout of 60 seconds was reached”",
    # Pkg.jl, src/GitTools.jl, of 1.10 and newer; libgit2, src/libgit2/streams/socket.c; stdlib/Sockets/src/addrinfo.jl.
    "Julia, Pkg, time-out": "failed to fetch from https://github.com/o/r: (failed to connect to github.com: Operation timed out)",
    "Julia, Sockets": "DNSError: example.org, temporary failure (EAI_AGAIN)",
    # Refused by the egress proxy.
    "curl, git, proxy": "fatal: unable to access 'https://github.com/a/b/': CONNECT tunnel failed, response 403",
    "curl, older, proxy": "curl: (56) Received HTTP code 403 from proxy after CONNECT",
    "wget, proxy": "Proxy tunneling failed: Not on the list of this server: example.orgUnable to establish SSL connection.",
    # A site without a host of its own has no address for the proxy's sentence; plain HTTP shows it.
    "apt, proxy": "  403  No internet access: open the address in BINDER_EGRESS_URL [IP: 10.43.0.5 3128]",
    "curl, a blocked server": "HTTP/1.1 403 This server is blocked by the operators of this site: ask help@example.org",
    "Python, requests, proxy, no https": "HTTPError: 403 Client Error: Not on the list of this server: example.org for url: ...",
    "uv, proxy": "  cause: tunnel error: unsuccessful",
    "conda, proxy": "ProxyError: Conda cannot proceed due to an error in your proxy configuration.",
    # libgit2, src/libgit2/transports/httpclient.c.
    "Julia, Pkg, proxy": "failed to clone from https://github.com/o/r.jl: (proxy returned unexpected status: 403)",
    "in colours": "\x1b[0;31mgaierror\x1b[0m: [Errno -3] Temporary failure in \x1b[1mname\x1b[0m resolution",
}
"""Program → the line of its message that has a sign, one for each sign in frontend/lab/failures.js."""

SIMILAR = {
    "nothing": "",
    "a wrong name of a package": "ERROR: No matching distribution found for sixx",
    "a missing module": "ModuleNotFoundError: No module named 'requests'",
    "an answer": "HTTPError: 404 Client Error: Not Found for url: https://example.org/a.csv",
    "a refusal by a website": "HTTPError: 403 Client Error: Forbidden for url: https://example.org/a.csv",
    "a missing file": "FileNotFoundError: [Errno 2] No such file or directory: 'a.csv'",
    "an answer, in R": "cannot open URL 'https://example.org/a'\n“cannot open URL 'https://x/a': HTTP status was '404 Not Found'”",
    "a wrong name, in a bundler": 'Could not resolve: "react"',
    "a slow download": "Operation timed out after 60000 milliseconds with 1234 out of 99999 bytes received",
    "a tunnel": "Error 403: the tunnel of this city is not on the list of this server",
    "a missing file, in R": "cannot open file 'a.csv': No such file or directory",
    "a server of the pod": "NewConnectionError(\"HTTPConnection(host='localhost', port=8000): [Errno 111] Connection refused\")",
    "a database of the pod": 'OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused',
    "an answer, in mamba": "Transfer finalized, status: 404 [https://conda.example.org/x]\nSubdir x/noarch not loaded!",
    "a server of the pod, in Node.js": "Error: connect ECONNREFUSED 127.0.0.1:8000",
    "a kernel's time-out": "TimeoutError: Cell execution timed out",
    "words on networks": "A neural network is trained; name resolution is 4 px.",
}
"""Description → text."""

SCRIPT = """
import { looksLikeNoNetwork, textOf } from "./frontend/lab/failures.js";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const outputs = (one) => ({ length: one.length, get: (index) => ({ toJSON: () => one[index] }) });
const printed = (one) => (typeof one === "string" ? one : textOf(outputs(one)));
console.log(JSON.stringify(JSON.parse(text).map((one) => looksLikeNoNetwork(printed(one)))));
"""


def judged(texts):
    """The extension's verdict on each text, or on each list of a cell's outputs."""
    command = ["node", "--input-type=module", "--eval", SCRIPT]
    done = subprocess.run(command, cwd=TOP, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_programs_without_network_are_recognised():
    assert [name for name, found in zip(UNREACHED, judged(list(UNREACHED.values())), strict=True) if not found] == []


def test_other_failures_are_not():
    assert [name for name, found in zip(SIMILAR, judged(list(SIMILAR.values())), strict=True) if found] == []


def error(value, traceback=()):
    return {"output_type": "error", "ename": "URLError", "evalue": value, "traceback": list(traceback)}


CELLS = [
    ([error("<urlopen error [Errno -3] Temporary failure in name resolution>")], True),
    ([{"output_type": "stream", "name": "stderr", "text": ["curl: (6) Could not ", "resolve host: example.org"]}], True),
    ([{"output_type": "stream", "name": "stdout", "text": "fine"}, error("Connection timed out")], True),
    # The code that IPython shows names an exception that was not raised.
    ([error("no such key", ["---> 1 except socket.gaierror:", "KeyError: 'a'"])], False),
    ([{"output_type": "execute_result", "data": {"text/plain": "gaierror"}, "metadata": {}}], False),
    ([{"output_type": "stream", "name": "stdout", "text": "gaierror" + "." * 20_001}], False),
    ([], False),
]
"""The outputs of a cell, and whether they tell of a lack of network."""


def test_output_of_a_cell_is_what_it_printed_last():
    assert judged([outputs for outputs, _ in CELLS]) == [expected for _, expected in CELLS]
