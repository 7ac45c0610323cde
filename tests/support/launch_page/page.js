// BinderHub's page without React, with the same client and the elements that tests look for. The page of a repository (/v2/…)
// launches a millisecond after it has loaded, the home page when somebody presses the button. Both leave for the server as soon as
// that is ready.
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
const BAR = '<div role="progressbar" aria-label="Progress" style="height: 32px"></div>';
const LABELS = { launching: "Launching", ready: "Launching", failed: "Failed" };

async function launch(spec, ended) {
  const image = new BinderRepository(spec, new URL("build/", base), { buildToken: window.pageConfig.buildToken });
  for await (const data of image.fetch()) {
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
  root.innerHTML = `<main>${LOADING}${BAR}</main>`;
  setTimeout(launch, 1, decodeURI(inside.slice(3)), () => {});
} else {
  root.innerHTML = `<main>${FORM}${BAR}</main>`;
  const button = document.getElementById("btn-launch");
  document.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    // As the real page: while it launches, and after it has launched, nobody can press it.
    Object.assign(button, { disabled: true, textContent: "launching..." });
    const form = new FormData(event.target);
    const spec = [provider.id, form.get("repository"), ...(provider.ref?.enabled ? [form.get("ref") || provider.ref.default] : [])];
    launch(spec.join("/"), () => { Object.assign(button, { disabled: false, textContent: "launch" }); });
  });
}
