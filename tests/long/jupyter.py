"""Jupyter's own traffic where variables name a proxy. Runs with the real packages. Argument: the pod's address."""

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import requests
import websocket
from distributed import Client, LocalCluster

TOKEN = "token"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def serve(address: str) -> int:
    """A web server of the user. Yields its port."""
    server = http.server.ThreadingHTTPServer((address, 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def start_jupyter(folder: str) -> str:
    """A Jupyter server. Yields its address."""
    port = free_port()
    options = [
        f"--port={port}",
        f"--IdentityProvider.token={TOKEN}",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={folder}",
    ]
    command = [sys.executable, "-m", "jupyter_server", *options]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    address = f"http://localhost:{port}"
    for _ in range(600):
        try:
            assert requests.get(f"{address}/api", timeout=5).ok
            return address
        except (OSError, AssertionError):
            time.sleep(0.1)
    raise TimeoutError


def run_in_kernel(address: str, code: str) -> str:
    """Start a kernel, run code in it, and return what it prints."""
    headers = {"Authorization": f"token {TOKEN}"}
    kernel = requests.post(f"{address}/api/kernels", headers=headers, json={}, timeout=60).json()["id"]
    channel = f"{address.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
    # As a browser outside the pod, without such variables.
    socket = websocket.create_connection(channel, header=headers, timeout=60, http_no_proxy=["*"])
    message = {"header": {"msg_id": "1", "msg_type": "execute_request", "session": "s", "username": "", "version": "5.3"}}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    socket.send(json.dumps(message | {"content": content, "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": []}))
    said = ""
    while True:
        got = json.loads(socket.recv())
        if got["parent_header"].get("msg_id") == "1":
            said += got["content"].get("text", "") + "".join(got["content"].get("traceback", []))
            if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
                return said


def dask(host: str) -> bool:
    """Sends work to worker processes and back, and opens the page of the scheduler."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host=host, dashboard_address=f"{host}:0") as cluster,
        Client(cluster) as client,
    ):
        done = client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
        # The requests of programs in the pod, and the proxy's for the dashboard.
        return done and urllib.request.urlopen(cluster.dashboard_link.replace("/status", "/health"), timeout=30).status == 200


def main() -> None:
    """Try everything, and print JSON: what → whether it worked."""
    own = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        address = start_jupyter(folder)
        local, mine = serve("127.0.0.1"), serve(own)
        ask = "import urllib.request as u; print(u.urlopen('http://{}:{}/', timeout=10).status)"
        outside = "import urllib.request as u\ntry: u.urlopen('http://198.51.100.1/', timeout=10)\nexcept Exception as e: print(e)"
        through = f"{address}/proxy/{local}/"
        tried = {
            "kernel": lambda: run_in_kernel(address, "print(6 * 7)") == "42\n",
            "kernel asks localhost": lambda: run_in_kernel(address, ask.format("localhost", local)) == "200\n",
            "kernel asks the pod's address": lambda: run_in_kernel(address, ask.format(own, mine)) == "200\n",
            "kernel asks outside, and the variables count": lambda: "refused" in run_in_kernel(address, outside),
            "jupyter-server-proxy": lambda: requests.get(through, params={"token": TOKEN}, timeout=30).status_code == 200,
            "Dask on localhost": lambda: dask("127.0.0.1"),
            "Dask by the pod's address": lambda: dask(own),
        }
        found = {}
        for name, attempt in tried.items():
            try:
                found[name] = attempt()
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
        print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
