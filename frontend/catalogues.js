// The texts of a folder of messages, for esbuild's `define`: language → key → text. The first is for readers of all others.
import { readdirSync, readFileSync } from "node:fs";

export function catalogues(folder) {
  const where = new URL(`../verifier/binder_egress/web/messages/${folder}/`, import.meta.url);
  const languages = readdirSync(where).map((file) => file.slice(0, -".json".length));
  const others = languages.filter((name) => name !== "en");
  const read = (name) => [name, JSON.parse(readFileSync(new URL(`${name}.json`, where)))];
  return JSON.stringify(Object.fromEntries(["en", ...others].map(read)));
}
