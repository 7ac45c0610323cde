"""The scripts that the verifier serves for launch pages and for third-party pages."""

import base64
import hashlib
import json
from dataclasses import replace

import pytest

from binder_egress.web.assets import Assets
from tests.support import TOP
from tests.support.apps import public_client
from tests.support.public_port import LISTED, assert_problem

SCRIPT = b"export const checksum = 'of this';"

BUILT = {
    "launch.js": "launch-0123456789ab.js",
    "third-party.js": "third-party-0123456789ab.js",
    "third-party.mjs": "third-party-ba9876543210.mjs",
    "x.js": "x-1.js",
}
"""Names of scripts, and of their files, which contain a checksum of the content."""


@pytest.fixture
def scripts(make_services, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(BUILT))
    for file in BUILT.values():
        (tmp_path / file).write_bytes(SCRIPT)
    services = make_services(allowed_origins=json.dumps([LISTED]), public_url="https://hub.example.org")
    return public_client(replace(services, assets=Assets(tmp_path)))


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("launch.js", "no-cache"),
        ("v1/third-party.js", "no-cache"),
        ("v1/third-party.mjs", "no-cache"),
        ("v1/third-party-0123456789ab.js", "public, max-age=31536000, immutable"),
        ("v1/third-party-ba9876543210.mjs", "public, max-age=31536000, immutable"),
    ],
)
def test_script_is_stable_or_immutable_and_can_be_loaded_with_integrity_by_listed_pages(scripts, file, kept):
    answer = scripts.get(f"/egress/{file}", headers={"Origin": LISTED})
    assert (answer.status_code, answer.data, answer.content_type) == (200, SCRIPT, "text/javascript; charset=utf-8")
    assert answer.headers["Access-Control-Allow-Origin"] == LISTED
    name = file.removeprefix("v1/")
    assert answer.headers["ETag"] == f'"{BUILT.get(name, name)}"'
    stranger = scripts.get(f"/egress/{file}", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in stranger.headers and "Origin" in stranger.headers["Vary"]
    again = scripts.get(f"/egress/{file}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    for told in (answer, again):
        assert told.headers["Cache-Control"] == kept
        assert told.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "Access-Control-Allow-Origin" not in again.headers


def test_static_files_can_be_loaded_by_launch_pages_of_another_host_and_have_licences(public, services):
    answer = public.get(f"/egress/static/{services.assets.file('server.js')}")
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    lock = json.loads((TOP / "frontend/package-lock.json").read_text())["packages"]
    used = {path.removeprefix("node_modules/") for path, about in lock.items() if not (about.get("dev") or about.get("optional"))}
    for name in used - {"", "esbuild"}:
        (text,) = (TOP / "frontend/node_modules" / name).glob("LICENSE*")
        assert public.get(f"/egress/static/LICENSE-{name}.txt").data == text.read_bytes()


@pytest.mark.parametrize(
    "file", ["third-party-000000000000.js", "x.js", "x-1.js", "manifest.json", "..%2fmanifest.json", "third-party"]
)
def test_third_party_folder_has_nothing_else(scripts, file):
    answer = scripts.get(f"/egress/v1/{file}")
    assert_problem(answer, "not-found")
    assert answer.headers["Cache-Control"] == "no-store"


def test_list_of_third_party_scripts_has_their_integrity(scripts):
    listed = scripts.get("/egress/v1/third-party.json")
    integrity = f"sha384-{base64.b64encode(hashlib.sha384(SCRIPT).digest()).decode()}"
    address = "https://hub.example.org/egress/v1/third-party-0123456789ab.js"
    assert listed.json == {
        "tag": f'<script async src="{address}" integrity="{integrity}" crossorigin="anonymous"></script>',
        "scripts": {
            "third-party.js": {"address": address, "integrity": integrity},
            "third-party.mjs": {
                "address": "https://hub.example.org/egress/v1/third-party-ba9876543210.mjs",
                "integrity": integrity,
            },
        },
    }
    assert listed.headers["Cache-Control"] == "no-store"
