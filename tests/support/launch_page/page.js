// BinderHub's page without React, with the same client. It launches a millisecond after it has loaded (/v2/…), or when somebody
// presses the button (home page), and leaves for the server as soon as that is ready.
import { BinderRepository } from "@jupyterhub/binderhub-client/client.js";
import { LaunchSpec } from "@jupyterhub/binderhub-client/spec.js";

const [provider] = window.pageConfig.repoProviders;
const base = new URL(window.pageConfig.baseUrl, location.href);
const root = document.getElementById("root");
root.innerHTML = `
  <main>
    <h1>Binder</h1>
    <form><label>Repository <input name="repository" value="o/cached/HEAD"></label> <button>launch</button></form>
    <h2 id="phase">idle</h2>
    <pre id="log" style="white-space: pre-wrap; overflow-wrap: anywhere"></pre>
  </main>`;
const phase = document.getElementById("phase");
const log = document.getElementById("log");

async function launch(spec) {
  const image = new BinderRepository(spec, new URL("build/", base), { buildToken: window.pageConfig.buildToken });
  for await (const data of image.fetch()) {
    if (data.message !== undefined) log.textContent += data.message;
    phase.textContent = data.phase;
    if (data.phase === "failed") {
      image.close();
      break;
    }
    if (data.phase === "ready") {
      image.close();
      const url = LaunchSpec.fromSearchParams(new URLSearchParams(location.search))
        .getJupyterServerRedirectUrl(new URL(data.url), data.token);
      // `stay` is for tests that check the page after the launch.
      if (!window.pageConfig.stay) window.location.href = url.href;
      break;
    }
  }
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  launch(`${provider.id}/${new FormData(event.target).get("repository")}`);
});
const at = location.pathname.indexOf("/v2/");
if (at >= 0) setTimeout(launch, 1, decodeURI(location.pathname.slice(at + 4)));
