// What JupyterLab loads: a container of module federation, written by hand (D-300). JupyterLab hands it the modules that it shares
// (`init`), and asks for the extension (`get`). https://webpack.js.org/concepts/module-federation/#dynamic-remote-containers
import { plugin } from "./plugin.js";

const NAME = "binder-egress";
// Beside package.json: the address of the server's page. The start guard writes it.
const ADDRESS = new URL("../address.json", document.currentScript.src);
// What the extension uses of JupyterLab. Notebook 7 has no status bar.
const MODULES = ["apputils", "mainmenu", "notebook", "statusbar", "translation"].map((name) => `@jupyterlab/${name}`);

let shared = {};

// A module of JupyterLab, or nothing where it has none of this name. Other extensions may share copies of their own: that of the
// application comes first, as does one that is in use.
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
