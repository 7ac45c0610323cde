// The file that JupyterLab loads: a container of module federation, written by hand (D-300). JupyterLab hands it the modules that
// it shares (`init`), and requests the extension (`get`).
// https://webpack.js.org/concepts/module-federation/#dynamic-remote-containers
import { plugin } from "./plugin.js";

const NAME = "binder-egress";
// A file beside package.json: the address of the server's page. The start guard writes it.
const ADDRESS = new URL("../address.json", document.currentScript.src);
// The modules of JupyterLab that the extension uses. Notebook 7 has no status bar.
const MODULES = ["apputils", "mainmenu", "notebook", "statusbar", "translation"].map((name) => `@jupyterlab/${name}`);

let shared = {};

// A module of JupyterLab, or nothing if it has none of this name. Other extensions may share their own copies: the application's
// copy comes first, as does one that is in use.
async function load(name) {
  const copies = Object.values(shared[name] ?? {});
  const [best] = copies.sort((a, b) => rank(b) - rank(a));
  return best ? (await best.get())() : {};
}

const APPLICATIONS = ["@jupyterlab/application-top", "_JUPYTERLAB.CORE_OUTPUT"]; // JupyterLab, Notebook 7
const rank = ({ loaded, from }) => (APPLICATIONS.includes(from) ? 2 : 0) + (loaded ? 1 : 0);

(globalThis._JUPYTERLAB ??= {})[NAME] = {
  init(modules) {
    shared = modules;
  },
  async get() {
    const [apputils, mainmenu, notebook, statusbar, translation, { Widget }] =
      await Promise.all([...MODULES, "@lumino/widgets"].map(load));
    const jupyter = { ...apputils, ...mainmenu, ...notebook, ...statusbar, ...translation, Widget };
    return () => ({ __esModule: true, default: plugin(NAME, jupyter, ADDRESS) });
  },
};
