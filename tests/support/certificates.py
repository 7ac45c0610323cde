"""Certificates for servers on loopback."""

import shutil
import subprocess
from pathlib import Path


def certificate(folder: Path, name: str, *more: str) -> None:
    """Write a certificate for 127.0.0.1 and its key, as PEM: self-signed unless `more`, options of openssl, says otherwise."""
    openssl = shutil.which("openssl")
    assert openssl, "the tests need openssl: apt-get install openssl"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", f"{name}.key"]
    about = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1", "-out", f"{name}.crt"]
    subprocess.run([openssl, "req", "-x509", *key, *about, *more], cwd=folder, check=True, capture_output=True)
