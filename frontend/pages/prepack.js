// Fills dist/ with the verifier's files for third-party pages, under names without checksums. Run `npm ci` in ../ first.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const built = mkdtempSync(join(tmpdir(), "binder-egress-"));
try {
  execFileSync(process.execPath, [join(here, "../build.js"), built]);
  const manifest = JSON.parse(readFileSync(join(built, "manifest.json"), "utf8"));
  mkdirSync(join(here, "dist"), { recursive: true });
  copyFileSync(join(built, manifest["third-party.mjs"]), join(here, "dist/index.js"));
  copyFileSync(join(built, manifest["third-party.js"]), join(here, "dist/tag.js"));
  copyFileSync(join(here, "../../LICENSE"), join(here, "LICENSE"));
  // Both files contain ALTCHA's solver and workers.
  copyFileSync(join(here, "../node_modules/altcha/LICENSE.txt"), join(here, "LICENSE-altcha"));
} finally {
  rmSync(built, { recursive: true });
}
