"""What third-party pages load: the tag as the verifier lists it, the module, and the npm package, with the documented examples."""

import fcntl
import json
import os
import re
import subprocess
from functools import partial

import pytest

from binder_egress.model.records import Server
from tests.support import TOP
from tests.support.apps import reconciler
from tests.support.launch_page import MODULES
from tests.support.third_party_site import CLIENTS
from tests.support.waiting import eventually

# --- the tag, the module, the package ---------------------------------------------------------------------------------


def test_tag_listed_by_the_verifier_works_unless_the_script_was_changed_in_transit(site, hub, store, tab):
    page = tab(site.page(""))
    listed = page.page.evaluate("(url) => fetch(url).then((answer) => answer.json())", f"{hub.url}egress/v1/third-party.json")
    opened = tab(site.page(CLIENTS["EventSource"], listed["tag"]))
    opened.page.wait_for_function("Boolean(window.binderEgress)")
    opened.launch_granted(hub, store)
    headers = {"access-control-allow-origin": "*", "content-type": "text/javascript"}
    opened.page.route(
        "**/v1/third-party-*.js",
        lambda route: route.fulfill(body=route.fetch().text() + ";window.changed = true;", headers=headers),
    )
    opened.page.reload()
    opened.launch(hub)
    assert opened.page.evaluate("[Boolean(window.changed), Boolean(window.binderEgress)]") == [False, False]


def test_module_unlocks_without_a_global_name(site, hub, store, tab):
    module = f"""<script type="module">
      import {{ connect }} from "{hub.url}egress/v1/third-party.mjs";
      window.egress = connect({{ verifier: "{hub.url}egress" }});
      window.same = connect({{ verifier: "{hub.url}egress/" }}) === egress;
    </script>"""
    opened = tab(site.page(CLIENTS["EventSource"] + module))
    opened.page.wait_for_function("window.same === true")
    assert opened.page.evaluate("typeof binderEgress") == "undefined"
    opened.launch_granted(hub, store)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of the npm package, packed and then installed into an empty project. The package has no dependencies."""
    project = tmp_path_factory.mktemp("project")
    run = partial(subprocess.run, check=True, stdout=subprocess.PIPE, text=True)
    source = TOP / "frontend/pages"
    # One process at a time: packing writes the package's files, which another one may just be reading.
    with (source / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive = run(["npm", "pack", "--silent", "--pack-destination", project], cwd=source).stdout.split()[-1]
    run(["npm", "init", "--yes", "--silent"], cwd=project)
    run(["npm", "install", "--offline", "--no-audit", "--no-fund", "--silent", project / archive], cwd=project)
    assert [path.name for path in (project / "node_modules").iterdir() if path.name[0] != "."] == ["binder-egress-pages"]
    # The TypeScript example also imports the client.
    (project / "node_modules/@jupyterhub").symlink_to(MODULES / "@jupyterhub")
    return project / "node_modules/binder-egress-pages"


def blocks(language):
    """The examples of docs/third-party-pages.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (TOP / "docs/third-party-pages.md").read_text(), re.MULTILINE | re.DOTALL)


def with_addresses(example, hub):
    """An example with the addresses of this test."""
    return (
        example.replace("https://hub.example.org", hub.url.rstrip("/"))
        .replace("https://unpkg.com/thebe@0.9.3/", "/npm/thebe/")
        .replace("https://unpkg.com/thebe-core@0.5.0/", "/npm/thebe-core/")
        .replace('src="tag.js"', 'src="/tag.js"')
    )


def test_npm_package_holds_exactly_the_named_files(package):
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    named = {"dist/index.js", "dist/tag.js", "index.d.ts", "package.json", "README.md", "LICENSE", "LICENSE-altcha"}
    assert files == named
    version = json.loads((package / "package.json").read_text())["version"]
    assert f'\nversion = "{version}"\n' in (TOP / "pyproject.toml").read_text()
    # It can be imported outside a page, as bundlers and servers that render pages do.
    code = "import * as all from 'binder-egress-pages'; console.log(Object.keys(all).join(), typeof all.connect)"
    command = ["node", "--input-type=module", "-e", code]
    said = subprocess.run(command, cwd=package.parents[1], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said == "connect function\n"


def test_typescript_example_compiles_and_runs(package, site, hub, store, tab):
    (example,) = blocks("ts")
    project = package.parents[1]
    (project / "page.ts").write_text(with_addresses(example, hub))
    # The client has no types.
    (project / "client.d.ts").write_text('declare module "@jupyterhub/binderhub-client/client.js";\n')
    command = ["node", MODULES / "typescript/bin/tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "esnext"]
    command += ["--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"]
    checked = subprocess.run([*command, "client.d.ts", "page.ts"], cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
    (project / "wrong.ts").write_text('import { connect } from "binder-egress-pages";\nconnect({ verifier: 1 }).getPass("x");\n')
    refused = subprocess.run([*command, "wrong.ts"], cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    assert refused.stdout.count("error TS") == 2
    bundled = subprocess.run(
        [MODULES / ".bin/esbuild", "page.ts", "--bundle", "--format=esm"],
        cwd=project, check=True, stdout=subprocess.PIPE, env={**os.environ, "NODE_PATH": str(MODULES)},
    ).stdout  # fmt: skip
    site.pages["/page.mjs"] = bundled
    use = '<script type=module>import * as page from "/page.mjs"; window.page = page;</script>'
    opened = tab(site.page(use))
    opened.page.wait_for_function("Boolean(window.page)")
    assert "egress_token=" in opened.page.evaluate("page.address")
    with reconciler(store, Server("user-1")):
        assert opened.page.evaluate("page.launch('gh/o/cached/HEAD')") == f"{hub.url}user/user-1/"
        opened.state("granted")


@pytest.mark.parametrize("number", range(6))
def test_documented_examples_launch_with_egress(number, package, site, hub, store, tab):
    assert len(blocks("html")) == 6, "say above how many there are"
    example = blocks("html")[number]
    site.pages["/tag.js"] = (package / "dist/tag.js").read_bytes()
    # Where an example is the tag alone, the page's own code launches.
    own = CLIENTS["EventSource"] + f"<button onclick=\"launch('{hub.url}build/gh/owner/repo/HEAD')\">Run</button>"
    opened = tab(site.page("" if "<button" in example else own, with_addresses(example, hub)))
    # The script is there when it has put its global name, or the module its proxy, into the page.
    opened.page.wait_for_function("window.binderEgress || !String(fetch).includes('fetch')")
    with reconciler(store, Server("user-1")):
        opened.page.get_by_role("button").first.click()
        eventually(lambda: hub.builds, what="not launched")
        if "withEgress" in example:
            eventually(lambda: hub.builds and hub.builds[0].tier, what="not announced")
            assert hub.builds[0].tier == "verified"
        else:
            opened.state("granted")
            assert hub.builds[0].token is None


@pytest.mark.parametrize("what", ["down", "hang", "not listed"])
def test_documented_module_launches_if_the_verifier_cannot_help(what, site, hub, start, tab):
    (example,) = (each for each in blocks("html") if 'type="module"' in each)
    if what == "not listed":
        hub = start()
    else:
        hub.fault = what
    opened = tab("about:blank")
    # The module has run then. A page that is still loading a script has not been loaded.
    opened.page.goto(site.page("", with_addresses(example, hub)), wait_until="domcontentloaded")
    opened.page.get_by_role("button").click()
    eventually(lambda: hub.builds, what="not launched")
    assert hub.builds[0].token is None


def test_documented_command_prints_the_tag(hub):
    (command,) = re.findall(r"^curl .*$", (TOP / "docs/third-party-pages.md").read_text(), re.MULTILINE)
    printed = subprocess.run(["bash", "-c", with_addresses(command, hub)], check=True, stdout=subprocess.PIPE, text=True).stdout
    address = rf"{hub.url}egress/v1/third-party-\w+\.js"
    assert re.fullmatch(rf'<script async src="{address}" integrity="sha384-\S+" crossorigin="anonymous"></script>\n', printed)
