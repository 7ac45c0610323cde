// The unlock page: solve a proof of work in this browser and present it for the server that this page is about.
import { solve } from "./solve.js";

const [button, progress, state, why] = ["unlock", "progress", "state", "why"].map((id) => document.getElementById(id));
const say = (text) => { state.textContent = text; };

async function json(address, options) {
  let answer, body;
  try {
    // Far above the 2 s that an unlock may take; without a limit a browser waits for minutes.
    answer = await fetch(address, { ...options, signal: AbortSignal.timeout(15_000) });
    body = await answer.json();
  } catch {
    // No connection, or a proxy's error page; what the browser says about either helps nobody.
    throw new Error("The service does not answer. Check your connection and try again in a moment.");
  }
  if (!answer.ok) throw new Error(body.detail);
  return body;
}

async function unlock() {
  button.disabled = true;
  progress.hidden = false;
  say("Calculating. This takes a few seconds.");
  try {
    const { providers } = await json(`${button.dataset.base}challenge?purpose=unlock`);
    const { name, challenge } = providers[0];
    const solution = await solve(challenge, new URL(button.dataset.base, location.href).href);
    const { state: result } = await json(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ provider: name, solution }),
    });
    say(result === "granted"
      ? "Your server has internet access. Connections you open from now on work."
      : "Accepted. It takes a moment longer than usual; reload this page to see when it is done.");
    button.hidden = true;
    why.hidden = true;
  } catch (error) {
    say(`Your server has no internet access yet. ${error.message}`);
    button.disabled = false;
    button.focus(); // A disabled button loses it.
  }
  progress.hidden = true;
}

if (!globalThis.crypto?.subtle) {
  say("Your server has no internet access, and this browser cannot calculate over an insecure connection (http). Open this page with https.");
} else {
  button.hidden = false;
  button.addEventListener("click", unlock);
}
