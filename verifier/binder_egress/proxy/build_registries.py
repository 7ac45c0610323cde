"""Writes the hosts of pip's index, npm's registry and Debian's packages into `hosts.REGISTRIES`. The image's build runs it with
npm's default address, which is in npm's own table of settings:

    python3 verifier/binder_egress/proxy/build_registries.py ADDRESS > verifier/binder_egress/proxy/registries.json

The hosts come from the tools themselves, so they are the ones that the tools use unless somebody configured another address.
"""

import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

DEBIAN = "Debian, Ubuntu: apt"


def python_hosts() -> dict[str, str]:
    """The hosts of pip's index and of the files on it, from constants in pip."""
    from pip._internal.models.index import PyPI

    found = {urlsplit(PyPI.url).hostname: "pip, uv: the index", PyPI.file_storage_domain: "pip, uv: files of packages"}
    return {host: tool for host, tool in found.items() if host}


def node_hosts(registry: str) -> dict[str, str]:
    """The host in the address of npm's registry; none without an address."""
    host = urlsplit(registry.strip()).hostname
    return {host: "npm: packages"} if host else {}


def debian_hosts(sources: str) -> dict[str, str]:
    """The hosts in the text of apt's lists of sources."""
    return {host: DEBIAN for host in sorted(set(re.findall(r"^[^#\n]*\bhttps?://([a-z0-9.-]+)", sources, re.MULTILINE)))}


if __name__ == "__main__":
    files = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*.*")]
    debian = debian_hosts("\n".join(file.read_text() for file in sorted(files)))
    json.dump({"python": python_hosts(), "node": node_hosts(" ".join(sys.argv[1:])), "debian": debian}, sys.stdout, indent=1)
