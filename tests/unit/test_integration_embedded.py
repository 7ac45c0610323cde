"""The code that BinderHub, JupyterHub and user servers run: files in chart/integration, and texts in the chart's values."""

import ast
import subprocess

import pytest

from tests.support import TOP
from tests.support.charts import VALUES

FILES = TOP / "chart/integration"
INTEGRATION = VALUES["integration"]
SERVERS = INTEGRATION["hint"]["jupyterhub"]["singleuser"]["extraFiles"]
PAGE = INTEGRATION["binderhub"]["config"]["BinderHub"]["extra_header_html"]["zz-binder-egress"]
PYTHON = {
    "launch_hook.py": INTEGRATION["binderhub"]["extraConfig"]["zz-binder-egress"],
    "hub_close_ping.py": INTEGRATION["binderhub"]["jupyterhub"]["hub"]["extraConfig"]["zz-binder-egress-close-ping"],
    "hub_add_start_guard.py": INTEGRATION["binderhub"]["jupyterhub"]["hub"]["extraConfig"]["zz-binder-egress-start-guard"],
    "hint_ipython.py": SERVERS["binder-egress-ipython"]["stringData"],
}
ESBUILD = TOP / "frontend/node_modules/.bin/esbuild"


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
