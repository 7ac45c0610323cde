"""ci/sbom lists the installed packages, and ci/scan compares them with a local database of known vulnerabilities."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from datetime import timedelta

import pytest

from tests.support import TOP


def sbom(where):
    done = subprocess.run([TOP / "ci/sbom", where], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_sbom_has_the_locked_packages_as_they_are_installed():
    installed = sbom(sys.executable)
    assert (installed["bomFormat"], installed["specVersion"]) == ("CycloneDX", "1.6")
    locked = re.findall(r"^([a-z0-9._-]+)==(\S+)( ;.*)? \\$", (TOP / "requirements/verifier.lock").read_text(), re.MULTILINE)
    found = {(one["name"], one["version"]) for one in installed["components"] if one["purl"].startswith("pkg:pypi/")}
    # Those with a marker are for some versions of Python only.
    assert {(name, version) for name, version, marker in locked if not marker} <= found <= {one[:2] for one in locked}
    assert len(found) > 30
    browsers = {one["name"] for one in installed["components"] if one["purl"].startswith("pkg:npm/")}
    assert browsers == {"altcha", "hash-wasm"}
    assert len({one["bom-ref"] for one in installed["components"]}) == len(installed["components"])
    assert [one["name"] for one in installed["components"] if "licenses" not in one] == []


def test_sbom_of_an_image_has_python_and_debian_packages_and_is_refused_without_any(tmp_path):
    package = tmp_path / "opt/venv/lib/python3.11/site-packages/Some_Thing-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.0\nLicense-Expression: MIT\n")
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u1\nDescription: x\n y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    purls = [one["purl"] for one in sbom(tmp_path)["components"] if "npm" not in one["purl"]]
    assert purls == ["pkg:pypi/some-thing@1.0", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64"]
    status.write_text("")
    shutil.rmtree(package)
    with pytest.raises(subprocess.CalledProcessError):
        sbom(tmp_path)


# -- the scan


def affected(ecosystem, name, versions=(), *events):
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    return {"package": {"ecosystem": ecosystem, "name": name}, "versions": list(versions), "ranges": ranges}


FLASK = affected("PyPI", "flask", ["3.1.1"])
RECORDS = [
    # Every spelling of a name.
    (True, affected("PyPI", "python-json-logger", ["2.0.7"])),
    (True, affected("PyPI", "Python_json.Logger", ["2.0.7"])),
    (True, affected("npm", "altcha", [], {"introduced": "0"}, {"fixed": "3.2.3"})),
    (False, affected("npm", "altcha", [], {"introduced": "0"}, {"fixed": "3.2.2"})),
    (True, affected("PyPI", "Flask", ["3.1.0", "3.1.1"])),
    (False, affected("PyPI", "flask", ["3.1.0"])),
    (False, affected("PyPI", "other", ["3.1.1"])),
    (False, affected("npm", "flask", ["3.1.1"])),
    (True, affected("PyPI", "flask", [], {"introduced": "0"})),
    (True, affected("PyPI", "flask", [], {"introduced": "0"}, {"fixed": "3.1.2"})),
    (False, affected("PyPI", "flask", [], {"introduced": "0"}, {"fixed": "3.1.1"})),
    (False, affected("PyPI", "flask", [], {"introduced": "3.2"})),
    (True, affected("PyPI", "flask", [], {"introduced": "3.0"}, {"last_affected": "3.1.1"})),
    (False, affected("PyPI", "flask", [], {"introduced": "3.0"}, {"last_affected": "3.1.0"})),
    (True, affected("PyPI", "flask", [], {"fixed": "3.0.9"}, {"introduced": "0"}, {"introduced": "3.1"})),
    (False, FLASK, {"withdrawn": "2026-01-01T00:00:00Z"}),
    (False, FLASK, {"aliases": ["CVE-ignored"]}),
]
"""Whether a record concerns the packages that are installed, what it affects, and more of it."""


def test_scan_finds_what_concerns_the_installed_versions_and_says_so_without_a_database(tmp_path, monkeypatch, capsys):
    installed = [("pypi", "flask", "3.1.1"), ("pypi", "python-json-logger", "2.0.7"), ("npm", "altcha", "3.2.2")]
    components = [{"purl": f"pkg:{kind}/{name}", "name": name, "version": version} for kind, name, version in installed]
    (tmp_path / "sbom.json").write_text(json.dumps({"components": components}))
    (tmp_path / "ignored").write_text("# why\nCVE-ignored does not concern us\n")
    main = runpy.run_path(str(TOP / "ci/scan"))["main"]
    monkeypatch.setitem(main.__globals__, "IGNORED", tmp_path / "ignored")
    monkeypatch.setattr(sys, "argv", ["ci/scan", str(tmp_path / "sbom.json"), str(tmp_path)])

    assert main() == 0
    said = capsys.readouterr()
    assert said.out == "" and "no database of PyPI and npm" in said.err and "nothing was compared" in said.err

    def scan(*records):
        for ecosystem in ("PyPI", "npm"):
            (tmp_path / ecosystem).mkdir(exist_ok=True)
            with zipfile.ZipFile(tmp_path / ecosystem / "all.zip", "w") as archive:
                for number, (_, part, *more) in enumerate(records):
                    about = {"id": f"X-{number}", "aliases": [f"CVE-{number}"], "summary": "bad", "affected": [part]}
                    archive.writestr(f"X-{number}.json", json.dumps(about | dict(*more)))
        return main(), set(re.findall(r"^\S+ \S+: (X-\d+) CVE-\d+ bad$", capsys.readouterr().out, re.MULTILINE))

    assert scan(*RECORDS) == (1, {f"X-{number}" for number, (known, *_) in enumerate(RECORDS) if known})
    assert scan(*(row for row in RECORDS if not row[0])) == (0, set())


@pytest.mark.parametrize("name", ["Python", "Node.js"])
def test_scan_warns_half_a_year_before_python_or_node_of_the_images_ends(name):
    code = runpy.run_path(str(TOP / "ci/scan"))
    file, pattern = code["BASES"][name]
    (line,) = re.findall(pattern, (TOP / file).read_text(), re.MULTILINE)
    end = code["ENDS"][name][line]

    def told(days):
        return [said for said in code["ends"](end + timedelta(days)) if f"{name} {line}, which {file} names" in said]

    assert not told(-180) and told(-179) and told(1)
    del code["ENDS"][name][line]
    assert [said for said in code["ends"](end) if f"nobody has written down when {name} {line} ends" in said]
