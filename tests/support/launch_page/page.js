// BinderHub's page without React, with the same client and the elements that tests look for. The page of a repository (/v2/…)
// launches a millisecond after it has loaded, the home page when somebody presses the button. Both leave for the server as soon as
// that is ready. tests/browser/launch_page/test_double.py holds it to the real page.
import { BinderRepository } from "@jupyterhub/binderhub-client/client.js";
import { LaunchSpec } from "@jupyterhub/binderhub-client/spec.js";

const [provider] = window.pageConfig.repoProviders;
const base = new URL(window.pageConfig.baseUrl, location.href);
const root = document.getElementById("root");
const inside = location.pathname.slice(base.pathname.length);
const FORM = `
  <form>
    <h4>Build and launch a repository</h4>
    <input name="repository" aria-label="Enter repository URL">
    <label for="ref">Git ref (branch, tag, or commit)</label> <input id="ref" name="ref">
    <button id="btn-launch">launch</button>
  </form>`;
const LOADING = '<div id="loader"></div> <h4>Launching your Binder...</h4>';
const LOG = `
  <div role="progressbar" aria-label="Progress" style="height: 32px"></div>
  <p>Build Logs <button id="btn-show-log" type="button">show</button>
    <button id="btn-view-raw-log" type="button">view raw</button></p>
  <div id="terminal-container" hidden><pre id="terminal"></pre></div>`;
// The real page shows the repository at nbviewer.jupyter.org meanwhile.
const PREVIEW = '<div><iframe data-testid="nbviewer-iframe" title="preview" srcdoc="<!doctype html>"></iframe></div>';
const LABELS = {
  waiting: "Waiting",
  building: "Building",
  pushing: "Pushing",
  built: "Pushing",
  launching: "Launching",
  ready: "Launching",
  failed: "Failed",
};

async function launch(spec, ended) {
  const image = new BinderRepository(spec, new URL("build/", base), { buildToken: window.pageConfig.buildToken });
  const log = document.getElementById("terminal");
  for await (const data of image.fetch()) {
    if (data.message !== undefined) log.textContent += data.message;
    const label = LABELS[data.phase];
    if (label) {
      const bar = Object.assign(document.createElement("div"), { className: "progress-bar" });
      bar.append(Object.assign(document.createElement("strong"), { textContent: label }));
      root.querySelector("[role=progressbar]").replaceChildren(bar);
    }
    if (data.phase === "failed") {
      image.close();
      ended();
    }
    if (data.phase === "ready") {
      image.close();
      const url = LaunchSpec.fromSearchParams(new URLSearchParams(location.search))
        .getJupyterServerRedirectUrl(new URL(data.url), data.token);
      window.location.href = url.href;
    }
  }
}

if (inside.startsWith("v2/")) {
  root.innerHTML = `<main>${LOADING}${LOG}${PREVIEW}</main>`;
  setTimeout(launch, 1, decodeURI(inside.slice(3)), () => {
    root.querySelector("h4").textContent = "Launching your Binder failed! See the logs below for more information.";
  });
} else if (inside === "") {
  root.innerHTML = `<main>${FORM}${LOG}</main>`;
  const button = document.getElementById("btn-launch");
  document.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    // As the real page: while it launches, and after it has launched, nobody can press it.
    Object.assign(button, { disabled: true, textContent: "launching..." });
    const form = new FormData(event.target);
    const spec = [provider.id, form.get("repository"), ...(provider.ref?.enabled ? [form.get("ref") || provider.ref.default] : [])];
    launch(spec.join("/"), () => { Object.assign(button, { disabled: false, textContent: "launch" }); });
  });
} else {
  root.innerHTML = "<main><h1>404: Not Found</h1></main>";
}
