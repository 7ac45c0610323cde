"""Scanners, and programs that are none, in network namespaces: what the agent finds with three settings of its limits.

Programs are the real ones, against servers in another namespace. A class is thirty pods that run them at once.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from once import unless_once

from binder_egress.agent.__main__ import SCANS_SECONDS
from binder_egress.agent.scans import Scans, Unusual
from tests.support.scan_networks import ANSWERING, CLOSED_PORT, DROPPING, PORT, Networks, networks

SETTINGS = {"early": Unusual(20, 0.5, 40, 3), "default": Unusual(), "late": Unusual(100, 0.5, 300, 3)}

STATIC_PORT = 8000
"""The port of the internet's files, at all addresses."""

SCAN_SECONDS = unless_once(6, 1)

SCANNERS = {
    "a /16 as fast as it can, hosts answer": [f"{ANSWERING}:{PORT}", f"--seconds={SCAN_SECONDS}"],
    "a /16, hosts refuse": [f"{ANSWERING}:{CLOSED_PORT}", f"--seconds={SCAN_SECONDS}"],
    "a /16, hosts drop": [f"{DROPPING}:{PORT}", f"--seconds={SCAN_SECONDS}"],
    "IPv6, hosts answer": [f"2001:db8:5::/112:{PORT}", f"--seconds={SCAN_SECONDS}"],
    "many ports of one host": ["198.18.0.0/31:1000", "--ports=30000", f"--seconds={SCAN_SECONDS}"],
}
"""Run one after the other."""

SLOW_SCANNERS = {
    "one a second, hosts answer": [f"{ANSWERING}:{PORT}", "--rate=1"],
    "one a second, hosts refuse": [f"{ANSWERING}:{CLOSED_PORT}", "--rate=1"],
    "one a second, hosts drop": [f"{DROPPING}:{PORT}", "--rate=1", "--hold=3"],
    "one in five seconds, hosts refuse": [f"{ANSWERING}:{CLOSED_PORT}", "--rate=0.2"],
}
"""Run at once, for `SLOW_SECONDS`."""

SLOW_SECONDS = unless_once(90, 3)

PACKAGES, MIRRORS, PAGE_HOSTS, CHUNKS = 30, 20, 50, 400
"""The packages that pip and npm get, the mirrors of apt, the hosts of a page, and the chunks of an array."""

HTTP = f"""
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer, test
ThreadingHTTPServer.request_queue_size = 500
test(SimpleHTTPRequestHandler, ThreadingHTTPServer, "HTTP/1.1", {STATIC_PORT})
"""

READER = """
import sys, concurrent.futures, requests
hosts, workers, chunks = map(int, sys.argv[1:])
session = requests.Session()
def read(number):
    session.get(f"http://198.18.1.{number % hosts + 1}:8000/chunk", timeout=60).raise_for_status()
with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    list(pool.map(read, range(chunks)))
"""
"""Reads chunks as fsspec and Zarr do with threads: from hosts in turn, by a pool of workers."""

CATALOGUE = """
import pystac_client, requests
found = pystac_client.Client.open("http://198.18.7.1:8000/stac/catalogue").search(method="GET", limit=10)
session = requests.Session()
for item in found.items():
    for asset in item.assets.values():
        session.get(asset.href, timeout=60).raise_for_status()
"""
"""Reads the pages of a search, and the pictures of what was found."""

CONDA = """
import asyncio, rattler
async def main():
    channel = rattler.Channel("http://198.18.8.1:8000/conda")
    names = [f"package{number}" for number in range(30)]
    records = await rattler.solve([channel], names, platforms=["linux-64", "noarch"])
    assert len(records) == len(names)
    await rattler.install(records, "made", cache_dir="cache", show_progress=False)
asyncio.run(main())
"""

DASK = """
import distributed
if __name__ == "__main__":
    cluster = distributed.LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        assert sum(client.gather(client.map(abs, range(500)))) == 124750
"""

KERNELS = """
import jupyter_client
for _ in range(3):
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    for _ in range(20): client.execute_interactive("1 + 1", output_hook=lambda _: None)
    client.stop_channels(); manager.shutdown_kernel(now=True)
"""

SOCKETS = """
import asyncio
from tornado import web, websocket, httpserver
async def main():
    kept = [await websocket.websocket_connect(f"ws://198.18.2.{number + 1}:8001/") for number in range(20)]
    for _ in range(100):
        for one in kept:
            one.write_message("x"); await one.read_message()
asyncio.run(main())
"""

ECHO = """
import asyncio
from tornado import web, websocket
class Echo(websocket.WebSocketHandler):
    def on_message(self, message): self.write_message(message)
async def main():
    web.Application([("/", Echo)]).listen(8001); await asyncio.Event().wait()
asyncio.run(main())
"""

WAITS = "import socket, time\nfor _ in range(300): socket.socket().connect_ex(('127.0.0.1', 9)); time.sleep(0.1)"
"""Waits for a server of its own that does not start."""


def internet(folder: Path) -> None:
    """The files that programs fetch."""
    (folder / "chunk").write_bytes(bytes(65536))
    for number in range(PACKAGES):
        name = f"package{number}"
        (folder / "simple" / name).mkdir(parents=True)
        wheel = folder / "simple" / name / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}.py", "")
            archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
        (folder / "simple" / name / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
        (folder / "npm").mkdir(exist_ok=True)
        told = {"name": name, "version": "1.0.0"}
        with tarfile.open(folder / "npm" / f"{name}.tgz", "w:gz") as archive:
            content = json.dumps(told).encode()
            entry = tarfile.TarInfo("package/package.json")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
        address = f"http://198.18.3.1:{STATIC_PORT}/npm/{name}.tgz"
        versions = {"1.0.0": told | {"dist": {"tarball": address}}}
        (folder / "npm" / name).write_text(json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": versions}))
    _channel(folder / "conda")
    _catalogue(folder / "stac")
    (folder / "apt").mkdir()
    (folder / "apt/Packages").write_text("")
    _repositories(folder)


def _channel(folder: Path) -> None:
    """A channel of conda."""
    packages = {}
    (folder / "linux-64").mkdir(parents=True)
    (folder / "noarch").mkdir()
    for number in range(PACKAGES):
        name = f"package{number}"
        told: dict[str, object] = {
            "name": name,
            "version": "1.0",
            "build": "0",
            "build_number": 0,
            "depends": [],
            "subdir": "noarch",
        }
        file = folder / "noarch" / f"{name}-1.0-0.tar.bz2"
        with tarfile.open(file, "w:bz2") as archive:
            for path, content in (("info/index.json", told), ("info/paths.json", {"paths": [], "paths_version": 1})):
                text = json.dumps(content).encode()
                entry = tarfile.TarInfo(path)
                entry.size = len(text)
                archive.addfile(entry, BytesIO(text))
        sums = {kind: hashlib.new(kind, file.read_bytes()).hexdigest() for kind in ("md5", "sha256")}
        packages[file.name] = told | sums | {"size": file.stat().st_size, "noarch": "generic"}
    for subdir, content in (("noarch", packages), ("linux-64", {})):
        index = {"info": {"subdir": subdir}, "packages": content, "packages.conda": {}, "repodata_version": 1}
        (folder / subdir / "repodata.json").write_text(json.dumps(index))


def _catalogue(folder: Path) -> None:
    """A STAC catalogue: ten pages of ten items, whose pictures are on ten hosts."""
    folder.mkdir()
    base = f"http://198.18.7.1:{STATIC_PORT}/stac"
    kinds = ("core", "item-search")
    links = [
        {"rel": "root", "href": f"{base}/catalogue"},
        {"rel": "search", "href": f"{base}/page0", "type": "application/geo+json"},
    ]
    about = {"type": "Catalog", "stac_version": "1.0.0", "id": "catalogue", "description": "-", "links": links}
    conforms = [f"https://api.stacspec.org/v1.0.0/{kind}" for kind in kinds]
    (folder / "catalogue").write_text(json.dumps(about | {"conformsTo": conforms}))
    for page in range(10):
        items = [
            {
                "type": "Feature", "stac_version": "1.0.0", "id": f"item{page}-{number}", "geometry": None, "links": [],
                "properties": {"datetime": "2026-01-01T00:00:00Z"},
                "assets": {"picture": {"href": f"http://198.18.7.{number + 2}:{STATIC_PORT}/chunk"}},
            }
            for number in range(10)
        ]  # fmt: skip
        more = [{"rel": "next", "href": f"{base}/page{page + 1}", "method": "GET"}] if page < 9 else []
        (folder / f"page{page}").write_text(json.dumps({"type": "FeatureCollection", "features": items, "links": more}))


def _repositories(folder: Path) -> None:
    """A repository with eight submodules, each on another host."""

    def git(where: Path, *words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always")
        subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True)

    made = folder / "git"
    made.mkdir()
    for name in (*(f"part{number}" for number in range(8)), "whole"):
        git(made, "init", "-q", "-b", "main", name)
        (made / name / "file").write_text(name)
        if name == "whole":
            for number in range(8):
                git(made / name, "submodule", "add", "-q", str(made / f"part{number}"), f"part{number}")
                address = f"http://198.18.4.{number + 1}:{STATIC_PORT}/git/part{number}/.git"
                git(made / name, "config", "-f", ".gitmodules", f"submodule.part{number}.url", address)
        git(made / name, "add", ".")
        git(made / name, "commit", "-q", "-m", "first")
        git(made / name, "update-server-info")


def programs(folder: Path) -> dict[str, list[str]]:
    """The programs, each a shell command. They write to a folder of their own, the current one."""
    python, index = sys.executable, f"http://198.18.3.1:{STATIC_PORT}"
    names = " ".join(f"package{number}" for number in range(PACKAGES))
    pip = f"{python} -m pip download -q --no-cache-dir --disable-pip-version-check --trusted-host 198.18.3.1 -i {index}/simple -d"
    apt = "-o Dir::State=$PWD/state -o Dir::Cache=$PWD/cache -o Dir::Etc::sourcelist=$PWD/list -o Dir::Etc::sourceparts=-"
    source = f"deb [trusted=yes allow-insecure=yes] http://198.18.5.{{}}:{STATIC_PORT}/apt ./"
    mirrors, folders = "\\n".join(map(source.format, range(1, MIRRORS + 1))), "mkdir -p state/lists/partial cache/archives/partial"
    page = " ".join(f"http://198.18.6.{number + 1}:{STATIC_PORT}/chunk -o /dev/null" for number in range(PAGE_HOSTS))
    more = os.environ.get("BENCH_PYTHON", python)
    return {
        "`pip`, four at once, 30 packages each": f"for n in 1 2 3 4; do {pip} $n {names} & done; wait",
        "`npm`, 30 packages": f"npm install --silent --no-audit --no-fund --cache $PWD/cache --registry {index}/npm/ {names}",
        "`git`, eight submodules on eight hosts": f"git clone -q --recurse-submodules {index}/git/whole/.git whole",
        f"`apt-get update`, {MIRRORS} mirrors": f"{folders}; printf '{mirrors}\\n' > list; apt-get {apt} -qq update",
        f"{CHUNKS} chunks of an array, one host": f"{python} -c '{READER}' 1 16 {CHUNKS}",
        f"{CHUNKS} chunks, twenty hosts": f"{python} -c '{READER}' 20 16 {CHUNKS}",
        "a page of fifty hosts (`curl --parallel`)": f"curl -s --parallel {page} 2>/dev/null",
        "a STAC catalogue: ten pages, 100 pictures on ten hosts (`pystac-client`)": f"{more} -c '{CATALOGUE}'",
        "`conda`'s engine, 30 packages (`py-rattler`)": f"{more} -c '{CONDA}'",
        "a dask cluster of four workers": f"printf '%s' '{DASK}' > dask_program.py; {more} dask_program.py",
        "20 websockets (tornado)": f"{python} -c '{SOCKETS}'",
        "a server of its own that never answers, asked 10 times a second": f'{python} -c "{WAITS}"',
        "three kernels (ipykernel)": f"{more} -c '{KERNELS}'",
    }  # fmt: skip


@dataclass
class Row:
    """What was seen of a scanner or a program: when each setting found it, and when its packets arrived, and where."""

    found: dict[str, float] = field(default_factory=dict)
    knocked: list[float] = field(default_factory=list)
    ended: int | None = None


class Study:
    """Pods with scanners and programs, an agent for each setting, and what arrives at the internet."""

    def __init__(self, made: Networks, folder: Path):
        self.made, self.folder, self.number = made, folder, 0
        self.rows: dict[int, Row] = {}
        (folder / "proc").mkdir()
        agents = {name: Scans(unusual, folder / "proc") for name, unusual in SETTINGS.items()}
        for name, agent in agents.items():
            threading.Thread(target=self._watch, args=(name, agent), daemon=True).start()
        sniffer = made.start(made.internet, sys.executable, "-m", "tests.support.scan_networks", "knocks", stdout=subprocess.PIPE)
        threading.Thread(target=self._note, args=(sniffer,), daemon=True).start()

    def pod(self) -> tuple[int, str]:
        """Another pod, that the agents have found and counted once."""
        self.number += 1
        pod, pause = self.made.pod(self.number)
        own = self.folder / "proc" / f".{pause}"
        own.mkdir()
        (own / "cgroup").write_text(f"0::/kubepods/pod{self.number:08d}-0000-0000-0000-000000000000/c\n")
        for name in ("stat", "status", "net"):
            (own / name).symlink_to(f"/proc/{pause}/{name}")
        own.rename(own.with_name(str(pause)))
        self.rows[self.number] = Row()
        time.sleep(3 * SCANS_SECONDS)
        return self.number, pod

    def _watch(self, name: str, agent: Scans) -> None:
        while (self.folder / "proc").is_dir():
            for uid, _ in agent.round():
                self.rows[int(uid[:8])].found.setdefault(name, time.monotonic())
            time.sleep(SCANS_SECONDS)

    def _note(self, sniffer: "subprocess.Popen[str]") -> None:
        assert sniffer.stdout
        for line in sniffer.stdout:
            at, source, _ = line.split()
            # Pods are 10.77.N.2 and fd77:N::2.
            pod = source.split(":")[1] if ":" in source else source.split(".")[2]
            self.rows[int(pod)].knocked.append(float(at))


def row(name: str, seen: Row) -> str:
    """A row of the table: seconds after the first packet, and destinations by then."""
    cells = []
    for setting in SETTINGS:
        at = seen.found.get(setting)
        if at is None:
            cells.append("–")
        else:
            cells.append(f"{at - seen.knocked[0]:.0f} s, {sum(knocked <= at for knocked in seen.knocked):,}")
    return f"| {name} | {len(seen.knocked):,} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as name, networks() as made:
        folder = Path(name)
        (folder / "files").mkdir()
        internet(folder / "files")
        made.start(
            made.internet, sys.executable, "-c", f"import os; os.chdir({str(folder / 'files')!r})\n{HTTP}", stderr=-3, stdout=-3
        )
        made.start(made.internet, sys.executable, "-c", ECHO)
        study = Study(made, folder)
        print("| | destinations | " + " | ".join(SETTINGS) + " |\n|---|---|" + "---|" * len(SETTINGS), flush=True)
        slow = []
        for what, told in SLOW_SCANNERS.items():
            number, pod = study.pod()
            slow.append((what, number, made.scan(pod, *told, f"--seconds={SLOW_SECONDS}")))
        for what, told in SCANNERS.items():
            number, pod = study.pod()
            made.scan(pod, *told).wait()
            time.sleep(2 * SCANS_SECONDS)
            print(row(what, study.rows[number]), flush=True)
        number, pod = study.pod()
        made.scan(pod, f"{ANSWERING}:{PORT}", "--rate=40", "--processes=8", f"--seconds={unless_once(30, 2)}").wait()
        print(row("eight processes, five a second each, hosts answer", study.rows[number]), flush=True)
        for what, number, process in slow:
            process.wait()
            print(row(what, study.rows[number]), flush=True)
        _programs(study, made, folder)


def _programs(study: Study, made: Networks, folder: Path) -> None:
    def start(what: str, command: str) -> tuple[str, int, "subprocess.Popen[str]"]:
        number, pod = study.pod()
        own = folder / f"pod{number}"
        own.mkdir()
        process = made.start(pod, "sh", "-c", f"cd {own} && export HOME=$PWD && {{ {command}\n}} 2>/dev/null", stdout=-3)
        return what, number, process

    def wait(started: list[tuple[str, int, "subprocess.Popen[str]"]]) -> Iterator[tuple[str, Row]]:
        for what, number, process in started:
            code = process.wait()
            yield what if not code else f"{what} (exit code {code})", study.rows[number]

    for what, command in programs(folder).items():
        for line in wait([start(what, command)]):
            time.sleep(2 * SCANS_SECONDS)
            print(row(*line), flush=True)
    commands = list(itertools.islice(itertools.cycle(programs(folder).values()), unless_once(30, 3)))
    seen = [one for _, one in wait([start("", command) for command in commands])]
    found = [sum(name in one.found for one in seen) for name in SETTINGS]
    most = max(len(one.knocked) for one in seen)
    print(f"| a class of {len(commands)} with these | {most} each at most | {' | '.join(f'{number} pods' for number in found)} |")


if __name__ == "__main__":
    main()
