// The unlock page: solve a proof of work in this browser and present it for the server that this page is about.
"use strict";

(() => {
  const [button, progress, state, why] = ["unlock", "progress", "state", "why"].map((id) => document.getElementById(id));
  const say = (text) => { state.textContent = text; };

  const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

  // ALTCHA's deterministic mode: try counters from 0 until the derived key begins with the prefix.
  async function solve({ parameters, signature }) {
    const { algorithm, cost, keyLength, keyPrefix } = parameters;
    const salt = bytes(parameters.salt);
    const nonce = bytes(parameters.nonce);
    const password = new Uint8Array(nonce.length + 4);
    password.set(nonce);
    const began = performance.now();
    let rested = began;
    for (let counter = 0; ; counter++) {
      if (performance.now() - rested > 30) {
        await rest();
        rested = performance.now();
      }
      new DataView(password.buffer).setUint32(nonce.length, counter);
      const derivedKey = hex(await derive(algorithm, password, salt, cost, keyLength));
      if (derivedKey.startsWith(keyPrefix)) {
        return { challenge: { parameters, signature }, solution: { counter, derivedKey, time: performance.now() - began } };
      }
    }
  }

  // Browsers may compute a short digest at once, and awaiting it then lets nothing else run: the page would stand still. Messages,
  // unlike timers, are as quick in a tab that is not looked at.
  function rest() {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => { port1.close(); resolve(); };
      port2.postMessage(null);
    });
  }

  async function derive(algorithm, password, salt, cost, keyLength) {
    if (algorithm.startsWith("PBKDF2/")) {
      const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
      return crypto.subtle.deriveBits({ name: "PBKDF2", hash: algorithm.slice(7), salt, iterations: cost }, key, keyLength * 8);
    }
    let data = new Uint8Array([...salt, ...password]);
    for (let round = 0; round < Math.max(1, cost); round++) data = new Uint8Array(await crypto.subtle.digest(algorithm, data));
    return data.slice(0, keyLength);
  }

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
      const solution = btoa(JSON.stringify(await solve(challenge)));
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

  // Browsers offer crypto.subtle on https and localhost only.
  if (!globalThis.crypto?.subtle) {
    say("Your server has no internet access, and this browser cannot calculate over an insecure connection (http). Open this page with https.");
    return;
  }
  button.hidden = false;
  button.addEventListener("click", unlock);
})();
