"""What the JupyterLab extension takes for a lack of network: messages of programs, and messages that look similar."""

import json
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

UNREACHED = {
    # Seen in a network namespace without a way out, and without DNS.
    "Python, socket": "gaierror: [Errno -3] Temporary failure in name resolution",
    "Python, socket, other resolver": "gaierror: [Errno -2] Name or service not known",
    "Python, address": "OSError: [Errno 101] Network is unreachable",
    "Python, urllib": "URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
    "Python, urllib, time-out": "URLError: <urlopen error [Errno 110] Connection timed out>",
    "Python, requests": (
        "ConnectionError: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: / (Caused by"
        " NameResolutionError(\"HTTPSConnection(host='example.org', port=443): Failed to resolve 'example.org' ([Errno -3]"
        ' Temporary failure in name resolution)"))'
    ),
    "Python, requests, address": (
        "ConnectionError: HTTPConnectionPool(host='192.0.2.1', port=80): Max retries exceeded with url: / (Caused by"
        " NewConnectionError(\"HTTPConnection(host='192.0.2.1', port=80): Failed to establish a new connection: [Errno 101]"
        ' Network is unreachable"))'
    ),
    "Python, requests, time-out": (
        "ConnectTimeout: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: / (Caused by"
        " ConnectTimeoutError(<HTTPSConnection(host='example.org', port=443)>, 'Connection to"
        " example.org timed out. (connect timeout=5)'))"
    ),
    "Python, httpx": "ConnectError: [Errno -3] Temporary failure in name resolution",
    "Python, httpx, time-out": "ConnectTimeout: ",
    "Python, aiohttp": (
        "ClientConnectorDNSError: Cannot connect to host example.org:443 ssl:default [Temporary failure in name resolution]"
    ),
    "pip": (
        "WARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) after connection broken by"
        " 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new"
        " connection: [Errno -3] Temporary failure in name resolution')': /simple/six/"
    ),
    "curl": "curl: (6) Could not resolve host: example.org",
    "curl, time-out": "curl: (28) Failed to connect to example.org port 443 after 134000 ms: Couldn't connect to server",
    "wget": "wget: unable to resolve host address ‘example.org’",
    "git": "fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com",
    "git, ssh": "ssh: Could not resolve hostname github.com: Temporary failure in name resolution",
    "npm": "npm error request to https://npm.example.org/left-pad failed, reason: getaddrinfo EAI_AGAIN npm.example.org",
    "apt": "W: Failed to fetch http://apt.example.org/dists/stable/InRelease  Temporary failure resolving 'apt.example.org'",
    # Written from memory of these programs: they were not run.
    "conda": "CondaHTTPError: HTTP 000 CONNECTION FAILED for url <https://conda.anaconda.org/conda-forge/linux-64/repodata.json>",
    "conda, newer": "NewConnectionError('<urllib3.connection.HTTPSConnection object>: Failed to establish a new connection')",
    "mamba": (
        "error    libmamba Download error (6) Could not resolve hostname"
        " [https://conda.anaconda.org/conda-forge/noarch/repodata.json.zst]"
    ),
    "mamba, older": "Download error (6) Couldn't resolve host name [https://conda.anaconda.org/conda-forge/noarch/repodata.json]",
    "mamba, time-out": "Download error (28) Timeout was reached [https://conda.anaconda.org/conda-forge/noarch/repodata.json]",
    "R, install.packages": (
        "Warning: unable to access index for repository https://cloud.r-project.org/src/contrib:\n"
        "  cannot open URL 'https://cloud.r-project.org/src/contrib/PACKAGES'"
    ),
    "R, download.file": "Error in download.file(url, file): cannot open URL 'https://example.org/a.csv'",
    "R, read.csv": "Error in file(file, \"rt\"): cannot open the connection to 'https://example.org/a.csv'",
    "R, curl": (
        "Error in curl::curl_fetch_memory(url): Could not resolve hostname [example.org]: Could not resolve host: example.org"
    ),
    "R, httr": "Error in curl::curl_fetch_memory(url, handle = handle): Timeout was reached: [example.org] Connection timed out",
    "Julia, Downloads": "RequestError: Could not resolve host: pkg.julialang.org while requesting https://pkg.julialang.org/meta",
    "Julia, Pkg": (
        "failed to clone from https://github.com/JuliaLang/Example.jl.git, error: GitError(Code:ERROR, Class:Net, failed to resolve"
        " address for github.com: Temporary failure in name resolution)"
    ),
    "Julia, Sockets": "DNSError: example.org, temporary failure (EAI_AGAIN)",
    # Refused by the egress proxy.
    "Python, urllib, proxy": (
        "URLError: <urlopen error Tunnel connection failed: 403 No internet access: open https://hub.example.org/egress/servers/a/>"
    ),
    "Python, requests, proxy": (
        "ProxyError: HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: / (Caused by"
        " ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 403 Not on the list of this"
        " server: example.org')))"
    ),
    "Python, httpx, proxy": "ProxyError: 403 Not on the list of this server: example.org",
    "curl, git, proxy": "fatal: unable to access 'https://github.com/a/b/': CONNECT tunnel failed, response 403",
    "curl, older, proxy": "curl: (56) Received HTTP code 403 from proxy after CONNECT",
    "wget, proxy": "Proxy tunneling failed: Not on the list of this server: example.orgUnable to establish SSL connection.",
    "npm, proxy": (
        "npm error 403 403 No internet access: open https://hub.example.org/egress/servers/alice/ - GET https://r.npmjs.org/"
    ),
    "conda, proxy": "ProxyError: Conda cannot proceed due to an error in your proxy configuration.",
    "in colours": "\x1b[0;31mgaierror\x1b[0m: [Errno -3] Temporary failure in \x1b[1mname\x1b[0m resolution",
}
"""Program → what it prints."""

SIMILAR = {
    "nothing": "",
    "a wrong name of a package": "ERROR: No matching distribution found for sixx",
    "a missing module": "ModuleNotFoundError: No module named 'requests'",
    "an answer": "HTTPError: 404 Client Error: Not Found for url: https://example.org/a.csv",
    "a refusal by a website": "HTTPError: 403 Client Error: Forbidden for url: https://example.org/a.csv",
    "a missing file": "FileNotFoundError: [Errno 2] No such file or directory: 'a.csv'",
    "a missing file, in R": "cannot open file 'a.csv': No such file or directory",
    "a server of the pod": (
        "ConnectionError: HTTPConnectionPool(host='localhost', port=8000): Max retries exceeded with url: / (Caused by"
        " NewConnectionError(\"HTTPConnection(host='localhost', port=8000): Failed to establish a new connection: [Errno 111]"
        ' Connection refused"))'
    ),
    "a database of the pod": 'OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused',
    "a kernel's time-out": "TimeoutError: Cell execution timed out",
    "words on networks": "A neural network is trained; name resolution is 4 px.",
}
"""What it is → text."""

SCRIPT = """
import { looksLikeNoNetwork, textOf } from "./frontend/lab/failures.js";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const outputs = (one) => ({ length: one.length, get: (index) => ({ toJSON: () => one[index] }) });
const printed = (one) => (typeof one === "string" ? one : textOf(outputs(one)));
console.log(JSON.stringify(JSON.parse(text).map((one) => looksLikeNoNetwork(printed(one)))));
"""


def judged(texts):
    """What the extension thinks of each text, or of each list of a cell's outputs."""
    command = ["node", "--input-type=module", "--eval", SCRIPT]
    done = subprocess.run(command, cwd=TOP, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_programs_without_network_are_recognized():
    assert [name for name, found in zip(UNREACHED, judged(list(UNREACHED.values())), strict=True) if not found] == []


def test_other_failures_are_not():
    assert [name for name, found in zip(SIMILAR, judged(list(SIMILAR.values())), strict=True) if found] == []


def error(value, traceback=()):
    return {"output_type": "error", "ename": "URLError", "evalue": value, "traceback": list(traceback)}


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([error("<urlopen error [Errno -3] Temporary failure in name resolution>")], True),
        ([{"output_type": "stream", "name": "stderr", "text": ["curl: (6) Could not ", "resolve host: example.org"]}], True),
        ([{"output_type": "stream", "name": "stdout", "text": "fine"}, error("Connection timed out")], True),
        # The code that IPython shows names an exception that was not raised.
        ([error("no such key", ["---> 1 except socket.gaierror:", "KeyError: 'a'"])], False),
        ([{"output_type": "execute_result", "data": {"text/plain": "gaierror"}, "metadata": {}}], False),
        ([{"output_type": "stream", "name": "stdout", "text": "gaierror" + "." * 20_001}], False),
        ([], False),
    ],
)
def test_output_of_a_cell_is_what_it_printed_last(outputs, expected):
    assert judged([outputs]) == [expected]
