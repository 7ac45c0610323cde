// Bundles src/ into the folder of the first argument, web/static of the package by default. File names carry a checksum of the
// content, so that browsers may cache the files for ever. manifest.json maps each name to the current file.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { catalogues } from "./catalogues.js";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../verifier/binder_egress/web/static");
// Each ends in a file of its own. ALTCHA's workers are taken as they are: a worker is started from an address, not from a bundle.
// launch.js loads panel.css and widgets.js when it needs them, and so has to know their names.
const entries = ["src/server.js", "src/server.css", "src/panel.css", "src/widgets.js", "src/launch.js"];
// For third-party pages: a plain script and a module. Of other files they name only the workers, so that their own checksums, which
// pages carry, change only with their own code (D-147).
const thirdParty = { "third-party.js": ["src/third-party-tag.js", "iife"], "third-party.mjs": ["src/third-party.js", "esm"] };
const workers = ["pbkdf2", "sha", "scrypt", "argon2id"].map((name) => `node_modules/altcha/dist/workers/${name}.js`);

const manifest = {};
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

function keep(name, content) {
  const [stem, kind] = name.split(".");
  const checksum = createHash("sha256").update(content).digest("hex").slice(0, 12);
  manifest[name] = `${stem}-${checksum}.${kind}`;
  writeFileSync(join(out, manifest[name]), content);
}

const forThirdParties = {};
for (const worker of workers) {
  const minified = await build({ entryPoints: [join(here, worker)], minify: true, write: false, target: "es2020" });
  const { contents, text } = minified.outputFiles[0];
  const name = `worker-${basename(worker)}`;
  keep(name, contents);
  // The two that are small go into the script; the others, which carry WebAssembly, are loaded when a site asks for them.
  forThirdParties[basename(worker, ".js").toUpperCase()] =
    text.length < 5000
      ? { text }
      : { file: manifest[name], integrity: `sha384-${createHash("sha384").update(contents).digest("base64")}` };
}
for (const entry of entries) {
  const bundle = await build({
    entryPoints: [join(here, entry)], bundle: true, minify: true, write: false, target: "es2020", charset: "utf8",
    format: entry === "src/widgets.js" ? "esm" : "iife",
    // Few browsers have es2020 and no class fields, and everybody would load the bytes for them.
    supported: { "class-field": true },
    // Names of our own that no other file knows.
    mangleProps: /^_/,
    // Of the names so far those that a script needs: solve.js starts workers, launch.js loads panel.css and widgets.js.
    define: {
      MANIFEST: JSON.stringify(manifest, Object.keys(manifest).filter((name) => /^(worker|widgets|panel)/.test(name))),
      MESSAGES: catalogues("launch"),
    },
  });
  keep(basename(entry), bundle.outputFiles[0].contents);
}
for (const [name, [entry, format]] of Object.entries(thirdParty)) {
  const bundle = await build({
    entryPoints: [join(here, entry)], bundle: true, minify: true, write: false, target: "es2020", charset: "utf8", format,
    define: { WORKER_FILES: JSON.stringify(forThirdParties), MESSAGES: catalogues("third-party") },
  });
  keep(name, bundle.outputFiles[0].contents);
}
// Without one, browsers ask for /favicon.ico, which our pages may not load.
keep("icon.svg", readFileSync(join(here, "src/icon.svg")));
// Their code is in the files above, minified, without the texts that their licences want kept with it.
for (const [name, text] of [["altcha", "LICENSE.txt"], ["hash-wasm", "LICENSE"]]) {
  copyFileSync(join(here, "node_modules", name, text), join(out, `LICENSE-${name}.txt`));
}
writeFileSync(join(out, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
for (const [name, file] of Object.entries(manifest)) console.log(name, file, readFileSync(join(out, file)).length);
