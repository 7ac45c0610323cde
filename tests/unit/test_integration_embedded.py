"""The code that BinderHub, JupyterHub and user servers run: files in chart/integration, and texts in the chart's values."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).parents[2]
FILES = TOP / "chart/integration"
INTEGRATION = yaml.safe_load((TOP / "chart/values.yaml").read_text())["integration"]
SERVERS = INTEGRATION["hint"]["jupyterhub"]["singleuser"]["extraFiles"]
PAGE = INTEGRATION["binderhub"]["config"]["BinderHub"]["extra_header_html"]["zz-binder-egress"]
PYTHON = {
    "launch_hook.py": INTEGRATION["binderhub"]["extraConfig"]["zz-binder-egress"],
    "hub_close_ping.py": INTEGRATION["binderhub"]["jupyterhub"]["hub"]["extraConfig"]["zz-binder-egress-close-ping"],
    "hub_add_start_guard.py": INTEGRATION["binderhub"]["jupyterhub"]["hub"]["extraConfig"]["zz-binder-egress-start-guard"],
    "hint_ipython.py": SERVERS["binder-egress-ipython"]["stringData"],
}
ESBUILD = TOP / "frontend/node_modules/.bin/esbuild"


def test_each_file_has_a_place(tmp_path):
    """The check names each file that has changed. All are then written."""
    for path in ("ci/embed-integration", "chart/values.yaml", "chart/integration"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (shutil.copytree if (TOP / path).is_dir() else shutil.copy)(TOP / path, tmp_path / path)
    embed = [sys.executable, tmp_path / "ci/embed-integration"]
    files = [file for file in (tmp_path / "chart/integration").iterdir() if file.suffix in (".py", ".sh", ".js", ".html")]
    for file in files:
        text = file.read_text()
        file.write_text(text.replace("<p>", "<p>Sorry. ") if file.suffix == ".html" else f"{text}true\n")
    changed = subprocess.run([*embed, "--check"], capture_output=True, text=True)
    named = re.findall(r" is not chart/integration/(.*); run ci/embed-integration$", changed.stderr, re.M)
    assert changed.returncode == 1 and sorted(named) == sorted(file.name for file in files if file.suffix != ".js")
    subprocess.run(embed, check=True)
    subprocess.run([*embed, "--check"], check=True)
    values = (tmp_path / "chart/values.yaml").read_text()
    assert "Sorry. " in values and len(re.findall("^ *true$", values, re.M)) == len(files) - sum(f.suffix == ".html" for f in files)


def test_code_in_the_values_is_that_of_the_files():
    """Only comments are missing. The JavaScript is ES5, as old browsers parse it."""

    def minified(text):
        command = [ESBUILD, "--minify", "--target=es5", "--log-level=error"]
        return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout

    def parsed(text):
        return subprocess.run(["bash", "-c", f"f() {{\n{text}\n}}\ndeclare -f f"], check=True, capture_output=True).stdout

    for name, text in PYTHON.items():
        assert ast.dump(ast.parse(text)) == ast.dump(ast.parse((FILES / name).read_text())), name
    script = PAGE[PAGE.index("<script>") + len("<script>") : PAGE.index("</script>")]
    assert "binderEgress" in minified(script)
    assert minified(script) == minified((FILES / "launch_page.js").read_text())
    with pytest.raises(subprocess.CalledProcessError):
        minified("const f = async () => 1;")
    assert parsed(SERVERS["binder-egress-terminal"]["stringData"]) == parsed((FILES / "hint_terminal.sh").read_text())
