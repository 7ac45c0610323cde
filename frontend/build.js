// Bundles src/ into the folder that is the first argument, verifier/static by default. Names carry a checksum of the content, so
// that browsers may keep the files for ever; manifest.json says which name a file has now.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../verifier/static");
// Each ends in a file of its own. ALTCHA's workers are taken as they are: a worker is started from an address, not from a bundle.
const entries = ["src/server.js", "src/server.css"];
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

for (const worker of workers) {
  const minified = await build({ entryPoints: [join(here, worker)], minify: true, write: false, target: "es2020" });
  keep(`worker-${basename(worker)}`, minified.outputFiles[0].contents);
}
for (const entry of entries) {
  const bundle = await build({
    entryPoints: [join(here, entry)], bundle: true, minify: true, write: false, format: "iife", target: "es2020", charset: "utf8",
    // The workers' names, for solve.js.
    define: { MANIFEST: JSON.stringify(manifest) },
  });
  keep(basename(entry), bundle.outputFiles[0].contents);
}
writeFileSync(join(out, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
for (const [name, file] of Object.entries(manifest)) console.log(name, file, readFileSync(join(out, file)).length);
