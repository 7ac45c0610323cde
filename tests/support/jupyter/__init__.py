"""A real Jupyter with the extension where the start guard puts it, and the actions of people in it."""

import json
import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, TimeoutError, expect

from binder_egress.pods.start_guard import ADDRESS_VARIABLE, ISOLATED_VARIABLE, LAB_VARIABLE, lay_lab
from tests.support import TOP
from tests.support.apps import DIRECT
from tests.support.ports import free_port
from tests.support.waiting import eventually

FAILING = "import socket\nsocket.getaddrinfo('nowhere.invalid', 80)"
"""A cell that fails as without network."""

FINE = "6 * 7"
"""A cell that works."""


def notebook_of(*cells: str) -> str:
    """The text of a notebook with code cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [
        {"cell_type": "code", "id": f"c{index}", "execution_count": None, "metadata": {}, "outputs": [], "source": cell}
        for index, cell in enumerate(cells)
    ]
    return json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


class Jupyter:
    """The newest Jupyter on loopback, with its files in an empty folder, and with the extension and the address of a server's page,
    as in a user's container."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, port = folder, free_port()
        # Not 127.0.0.1, where the verifier is: like JupyterHub's host, it is another site.
        self.origin = f"http://localhost:{port}"
        (folder / "files").mkdir()
        target = folder / "prefix/labextensions/binder-egress"
        target.mkdir(parents=True)
        laid = lay_lab({LAB_VARIABLE: str(target), ISOLATED_VARIABLE: "true", ADDRESS_VARIABLE: address})
        assert laid == "laid", laid
        options = [f"--port={port}", "--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.password="]
        options += [f"--ServerApp.root_dir={folder / 'files'}"]
        variables = {**os.environ, "HOME": str(folder), "JUPYTER_PATH": str(folder / "prefix")}
        made = subprocess.run([TOP / "ci/jupyter/venv", "newest"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        with (folder / "log").open("w") as log:
            command = [f"{made}/bin/jupyter", "lab", *options]
            self._process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=folder)

        def said() -> str:
            return (folder / "log").read_text()[-3000:]

        def answers() -> bool:
            assert self._process.poll() is None, said()
            DIRECT.open(f"{self.origin}/api", timeout=10).close()
            return True

        eventually(answers, 180, said, no_answer=(OSError,))

    def move(self, address: str) -> None:
        """Give the extension another address from now on."""
        (self._folder / "prefix/labextensions/binder-egress/address.json").write_text(json.dumps({"url": address}))

    def wear(self, theme: str) -> None:
        """Choose a theme of JupyterLab, for the next tabs."""
        file = self._folder / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"theme": theme}))

    def notebook(self, *cells: str) -> str:
        """Write a notebook with cells of code: its name."""
        number = len(list((self._folder / "files").iterdir()))
        name = f"{number}.ipynb"
        (self._folder / "files" / name).write_text(notebook_of(*cells))
        return name

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


class Lab:
    """A tab with JupyterLab, or with Notebook 7, and a notebook in it. `jupyter` has the `origin` and `notebook` of `Jupyter`."""

    def __init__(self, page: Page, jupyter: Any, *cells: str, notebook: bool = False) -> None:
        self.page = page
        self.faults: list[str] = []
        """The messages and errors of the extension. Jupyter's own faults do not name it."""
        page.on("console", lambda message: self._note(message.type, f"{message.text} {message.location.get('url', '')}"))
        page.on("pageerror", lambda error: self._note("error", f"{error} {error.stack or ''}"))
        # `reset`: without the documents that an earlier tab left open.
        page.goto(f"{jupyter.origin}/{'notebooks' if notebook else 'lab/tree'}/{jupyter.notebook(*cells)}?reset")
        self.cells = page.locator(".jp-Notebook .jp-CodeCell")
        self.item = page.locator("button.binder-egress-item")
        self.dialog = page.locator(".jp-Dialog")
        expect(self.cells).to_have_count(len(cells), timeout=90_000)

    def _note(self, kind: str, text: str) -> None:
        # The browser reports that an address does not answer. That cannot be prevented.
        if kind in ("error", "warning") and "extensions/binder-egress" in text and "Failed to load" not in text:
            self.faults.append(text)

    def run(self, number: int = 0) -> None:
        """Run a cell, and wait until it has run."""
        prompt = self.cells.nth(number).locator(".jp-InputPrompt")
        before = prompt.inner_text()

        def has_run() -> bool:
            # Before it begins to connect, Jupyter asks for the kernel.
            if self.dialog.is_visible():
                self.page.keyboard.press("Enter")
            # The dialog may appear now, too. Until the kernel is connected, Jupyter ignores the key.
            with suppress(AssertionError, TimeoutError):
                self.cells.nth(number).locator(".cm-content").click(timeout=5_000)
                self.page.keyboard.press("Control+Enter")
                expect(prompt).not_to_have_text(before, timeout=5_000)
            # Jupyter may connect to the kernel once more, and then forgets that the cell was running: `[*]:` is `[ ]:` again.
            expect(prompt).to_have_text(re.compile(r"\[[\d ]+\]:"), timeout=90_000)
            return prompt.inner_text() not in (before, "[ ]:")

        eventually(has_run, 180, lambda: f"the cell has not run: {prompt.inner_text()}")

    def notices(self, text: str) -> Locator:
        return self.page.locator(".Toastify__toast").filter(has_text=text)

    def press(self, button: str) -> Page:
        """Press a button, and return the small window that opens."""
        with self.page.context.expect_page() as opened:
            self.page.get_by_role("button", name=button).last.click()
        return opened.value
