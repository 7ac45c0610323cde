// Bundles the JupyterLab extension into the folder of the first argument, pods/lab of the package by default. The start guard
// copies that folder into user pods. package.json tells JupyterLab what to load; the checksum in the name is for browsers that keep
// files.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { catalogues } from "../catalogues.js";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../../verifier/binder_egress/pods/lab");
const bundle = await build({
  entryPoints: [join(here, "container.js")], bundle: true, minify: true, write: false, target: "es2020", charset: "utf8",
  format: "iife", loader: { ".css": "text" }, define: { MESSAGES: catalogues("lab") },
});
const [{ contents }] = bundle.outputFiles;
const load = `static/remoteEntry.${createHash("sha256").update(contents).digest("hex").slice(0, 12)}.js`;
// One release has one version.
const { version } = JSON.parse(readFileSync(join(here, "../pages/package.json"), "utf8"));
const described = {
  name: "binder-egress", version, description: "Shows what this server may reach", license: "BSD-3-Clause",
  jupyterlab: { extension: true, _build: { load, extension: "./extension" } },
};

rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "static"), { recursive: true });
writeFileSync(join(out, load), contents);
writeFileSync(join(out, "package.json"), `${JSON.stringify(described, null, 2)}\n`);
console.log(join(out, load), contents.length);
