"""Lets a pod of ci/demo use the egress proxy: the pod installs a package with pip, and downloads something.

The local internet gets one more server, with TLS and two names: a host that is listed for everybody, and one that is not.
"""

import io
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.cluster.commands import egress
from tests.support.cluster.packets import python_in
from tests.support.cluster.stage import Failed, Stage
from tests.support.cluster.timeouts import TIER_SECONDS

ADDRESS = "203.0.113.20"
"""The server's address, and its names, which ci/cluster/up gives to the outside DNS."""
PACKAGES, DATA = "packages.example", "data.example"

HUB = "https://hub.example.org"

VALUES = (
    "--set=proxy.enabled=true",
    f"--set=unverified.hosts.{PACKAGES.replace('.', chr(92) + '.')}=true",
    "--set=tiers.verified.hosts.\\*=true",
    f"--set=publicUrl={HUB}",
)
"""The chart's values: every server reaches the package server, and verified servers reach every public host."""

EXPECTED = {"pip install, from a listed host": ["yes", "yes", "–"], "download, from another host": ["–", "yes", "cut"]}
"""The expected results: of a server without a pass, of the same server unlocked, and revoked in the middle of the download."""

CERTIFICATE = "/tmp/packages.crt"

DOWNLOAD = f"""
import sys, time, urllib.request
end, size = time.monotonic() + {TIER_SECONDS}, 0
while True:
    try:
        answer = urllib.request.urlopen("https://{DATA}/data", timeout=15)
        break
    except OSError as error:
        # What the proxy knows of a server that was just unlocked may be a moment old.
        if time.monotonic() > end:
            sys.exit(str(error))
        time.sleep(0.2)
try:
    while block := answer.read(65536):
        size += len(block)
        print(size, flush=True)
except OSError:
    pass
print("ended", time.time(), flush=True)
"""
"""Runs in the pod: an endless download, until it is cut."""


class _Server(BaseHTTPRequestHandler):
    """An index with one package, and a file of a terabyte that comes at 640 kB a second."""

    def do_GET(self) -> None:
        if self.path == "/data":
            self._begin(10**12, "application/octet-stream")
            try:
                while True:
                    self.wfile.write(bytes(65536))
                    time.sleep(0.1)
            except OSError:
                return
        found = {
            "/simple/demo-package/": (f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode(), "text/html"),
            f"/files/{WHEEL}": (_wheel(), "application/octet-stream"),
        }
        content, kind = found.get(self.path, (b"", "text/plain"))
        self._begin(len(content), kind, 200 if content else 404)
        self.wfile.write(content)

    def _begin(self, length: int, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


WHEEL = "demo_package-1.0-py3-none-any.whl"


def _wheel() -> bytes:
    """A package with one module, as pip takes it."""
    made, about = io.BytesIO(), "demo_package-1.0.dist-info"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("demo_package.py", "version = '1.0'\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: demo-package\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: demo\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"demo_package.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return made.getvalue()


@contextmanager
def server() -> Iterator[str]:
    """Run the server in the local internet. Yields its certificate as PEM."""
    with tempfile.TemporaryDirectory() as folder:
        names = f"subjectAltName=DNS:{PACKAGES},DNS:{DATA}"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", "key", "-out", "crt", "-days", "1")
        command = ["openssl", "req", "-x509", *key, "-subj", "/CN=demo", "-addext", names]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        inside = ["nsenter", f"--net=/run/netns/{os.environ['CLUSTER_NAME']}-internet", "--"]
        running = subprocess.Popen([*inside, sys.executable, __file__, folder])
        try:
            yield (Path(folder) / "crt").read_text()
        finally:
            running.kill()
            running.wait()


class Visitor:
    """Programs in a user's pod.

    Args:
        stage: the cluster.
        user: the JupyterHub user.
        certificate: the package server's, which the pod is to trust.
    """

    def __init__(self, stage: Stage, user: str, certificate: str):
        self.stage, self.user = stage, user
        self._pod = stage.pod(user)["metadata"]["name"]
        stage.kubectl("exec", "-i", self._pod, "--", "sh", "-c", f"cat > {CERTIFICATE}", stdin=certificate)

    def pip(self, host: str, retries: int = 5) -> str:
        """`pip install demo-package` from a host: empty if it worked, else what the egress proxy said."""
        settings = (f"PIP_CERT={CERTIFICATE}", f"PIP_INDEX_URL=https://{host}/simple/", "PIP_DISABLE_PIP_VERSION_CHECK=1")
        pip = ("pip", "install", f"--retries={retries}", "--no-cache-dir", "--force-reinstall", "--target=/tmp/packages")
        command = ("exec", self._pod, "--", "env", *settings, *pip, "demo-package")
        try:
            self.stage.kubectl(*command)
            self.stage.kubectl("exec", self._pod, "--", "env", "PYTHONPATH=/tmp/packages", "python3", "-c", "import demo_package")
        except Failed as failed:
            if not (said := re.search(r"Tunnel connection failed: (.+?)'", str(failed))):
                raise
            return said[1]
        return ""

    @contextmanager
    def download(self) -> Iterator[subprocess.Popen[str]]:
        """A download from the other host, which has begun. Each line of its output is the number of bytes so far."""
        code = f"import os; os.environ['SSL_CERT_FILE'] = '{CERTIFICATE}'\n{DOWNLOAD}"
        with python_in(self.stage, self.user, code) as running:
            assert running.stdout
            if not running.stdout.readline():
                raise Failed(f"no download from {DATA}")
            yield running

    def revoke(self, running: subprocess.Popen[str]) -> float:
        """Run `egress revoke` in the middle of a download. Returns the seconds from the command to the end of the download."""
        began = time.time()
        egress(self.stage, "revoke", self.user, "--why", "the demo")
        assert running.stdout
        *_, last = running.stdout
        return float(last.split()[1]) - began


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    listener = ThreadingHTTPServer((ADDRESS, 443), _Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("crt", "key")
    listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    listener.serve_forever()
