"""The JupyterLab extension in the oldest Jupyter that it supports, at its place in user pods."""

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support.apps import VerifierProcess, reconciler, run_pod
from tests.support.browser import MODEST, launch
from tests.support.jupyter import FAILING, Jupyter, Lab, virtual_environment


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    made = Jupyter(virtual_environment("oldest"), tmp_path_factory.mktemp("jupyter"))
    made.start("http://127.0.0.1:9/egress/servers/alice/")
    yield made
    made.stop()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("notebook", [False, True], ids=["JupyterLab", "Notebook"])
def test_failed_cell_leads_to_access(redis_server, store, jupyter, notebook):
    verifier = VerifierProcess(redis_server, captcha_providers=MODEST, hub_url=jupyter.origin)
    run_pod(store)
    jupyter.move(f"{verifier.public}/egress/servers/alice/")
    with sync_playwright() as playwright:
        context = launch(playwright).new_context(locale="en")
        context.set_default_timeout(90_000)
        expect.set_options(timeout=90_000)
        lab = Lab(context.new_page(), jupyter, FAILING, notebook=notebook)
        lab.run()
        small = lab.press("Give it internet access")
        expect(small.locator("#unlock")).to_be_focused()
        with reconciler(store):
            small.keyboard.press("Enter")
            expect(lab.notices("Run the cell again.")).to_be_visible()
        if not small.is_closed():
            small.wait_for_event("close")
        assert lab.faults == []
        context.browser.close()
    verifier.stop()
