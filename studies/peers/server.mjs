// The npm libraries of Cap and ALTCHA behind node:http, with their widgets, for ci/bench peers. What was used is kept in the memory
// of the process, as in their examples.
//
//   node server.mjs cap|altcha PORT [quick]    quick: a challenge costs the server as much as ever, its solver next to nothing
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { json } from "node:stream/consumers";
import Cap from "@cap.js/server";
import { createChallenge } from "altcha-lib";
import { deriveKey } from "altcha-lib/algorithms/pbkdf2";
import { CappedMap, create, randomInt } from "altcha-lib/frameworks/express";

const [kind, port, quick] = process.argv.slice(2);
const file = (type, path) => async () => ({ type, content: await readFile(new URL(`node_modules/${path}`, import.meta.url)) });
const page = (head) => () => ({ type: "text/html", content: `<!doctype html><title>peer</title>${head}` });

const peers = {
  cap() {
    const cap = new Cap({ noFSState: true });
    return {
      "/": page('<script>CAP_CUSTOM_WASM_URL = "/cap.wasm"</script><script src="/cap.js"></script>'),
      "/cap.js": file("text/javascript", "@cap.js/widget/cap.min.js"),
      "/cap.wasm": file("application/wasm", "@cap.js/wasm/browser/cap_wasm_bg.wasm"),
      "/challenge": () => cap.createChallenge(quick && { challengeDifficulty: 1 }),
      "/redeem": (body) => cap.redeemChallenge(body),
    };
  },
  altcha() {
    const secrets = { hmacSignatureSecret: "of challenges", hmacKeySignatureSecret: "of derived keys" };
    const used = new CappedMap({ maxSize: 100_000 });
    const { verify } = create({});
    // Algorithm, cost and counters of the README of altcha-lib.
    const counter = quick ? [0, 2] : [5_000, 10_000];
    return {
      "/": page('<script type="module" src="/altcha.js"></script>'),
      "/altcha.js": file("text/javascript", "altcha/dist/main/altcha.min.js"),
      "/challenge": () =>
        createChallenge({
          algorithm: "PBKDF2/SHA-256",
          cost: 5_000,
          counter: randomInt(...counter),
          expiresAt: Math.floor(Date.now() / 1000) + 600,
          deriveKey,
          ...secrets,
        }),
      "/redeem": async ({ payload }) => {
        const { hmacSignatureSecret, hmacKeySignatureSecret } = secrets;
        const { error } = await verify(payload, deriveKey, hmacSignatureSecret, hmacKeySignatureSecret, used);
        return { success: !error };
      },
    };
  },
};

const routes = peers[kind]();
createServer(async (request, response) => {
  const route = routes[request.url];
  const answer = route ? await route(request.url === "/redeem" && (await json(request))) : { success: false };
  response.statusCode = answer.success === false ? 403 : 200;
  response.setHeader("Content-Type", answer.type ?? "application/json");
  response.end(answer.content ?? JSON.stringify(answer));
}).listen(Number(port), "127.0.0.1");
