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


def check(top):
    """Run `ci/embed-integration --check` in a copy of the project. Returns exit code and message."""
    done = subprocess.run([sys.executable, top / "ci/embed-integration", "--check"], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that `ci/embed-integration` reads and writes."""
    for path in ("ci/embed-integration", "chart/values.yaml", "chart/integration"):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (TOP / path).is_dir() else shutil.copy)(TOP / path, target)
    return tmp_path


def test_values_have_the_files():
    assert check(TOP) == (0, "")


def test_each_file_has_a_place(copy):
    """The check names each file that has changed. All are then written."""
    files = [file for file in (copy / "chart/integration").iterdir() if file.suffix in (".py", ".sh", ".js", ".html")]
    for file in files:
        text = file.read_text()
        file.write_text(text.replace("<p>", "<p>Sorry. ") if file.suffix == ".html" else f"{text}true\n")
    code, message = check(copy)
    named = re.findall(r" is not chart/integration/(.*); run ci/embed-integration$", message, re.M)
    assert code == 1 and sorted(named) == sorted(file.name for file in files if file.suffix != ".js")
    subprocess.run([sys.executable, copy / "ci/embed-integration"], check=True)
    assert check(copy) == (0, "")
    values = (copy / "chart/values.yaml").read_text()
    assert "Sorry. " in values and len(re.findall("^ *true$", values, re.M)) == len(files) - sum(f.suffix == ".html" for f in files)


def test_values_are_short():
    """The lines that an operator has to read, without the embedded code: 744, and those that later parts added, each named here."""
    embedded = [*PYTHON.values(), PAGE, *(server["stringData"] for name, server in SERVERS.items() if "terminal" in name)]
    lines = len((TOP / "chart/values.yaml").read_text().splitlines()) - sum(text.count("\n") for text in embedded)
    later = {"proxy": 58, "JupyterLab": 5, "branding": 10, "detections": 11, "agent": 23}
    assert 700 < lines <= 744 + sum(later.values())


def test_edited_values_are_noticed(copy):
    values = copy / "chart/values.yaml"
    values.write_text(values.read_text().replace("limit_seconds = 1.0\n", "limit_seconds = 9.0\n"))
    code, message = check(copy)
    assert code == 1 and "extraConfig.zz-binder-egress is not chart/integration/launch_hook.py" in message


@pytest.mark.parametrize("name", PYTHON)
def test_python_in_the_values_is_that_of_the_file(name):
    """Only comments are missing."""
    assert ast.dump(ast.parse(PYTHON[name])) == ast.dump(ast.parse((FILES / name).read_text()))


def minified(text):
    """JavaScript without comments and white space. ES5, as old browsers parse it."""
    command = [ESBUILD, "--minify", "--target=es5", "--log-level=error"]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def test_javascript_in_the_values_is_that_of_the_file():
    script = PAGE[PAGE.index("<script>") + len("<script>") : PAGE.index("</script>")]
    assert "binderEgress" in minified(script)
    assert minified(script) == minified((FILES / "launch_page.js").read_text())
    with pytest.raises(subprocess.CalledProcessError):
        minified("const f = async () => 1;")


def test_shell_in_the_values_is_that_of_the_file():
    def parsed(text):
        return subprocess.run(["bash", "-c", f"f() {{\n{text}\n}}\ndeclare -f f"], check=True, capture_output=True).stdout

    assert parsed(SERVERS["binder-egress-terminal"]["stringData"]) == parsed((FILES / "hint_terminal.sh").read_text())


def test_headers_are_at_most_three_lines(copy):
    file = copy / "chart/integration/hint_terminal.sh"
    file.write_text("# a\n# b\n# c\n" + file.read_text())
    done = subprocess.run([sys.executable, copy / "ci/embed-integration"], capture_output=True, text=True)
    assert done.returncode != 0 and "begins with 4 lines of comments, and 3 are embedded" in done.stderr
    for text in [*PYTHON.values(), PAGE, SERVERS["binder-egress-terminal"]["stringData"]]:
        assert 1 <= sum(line.strip().startswith(("#", "//")) for line in text.splitlines()) <= 3
