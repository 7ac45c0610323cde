// The unlock page: solve a proof of work in this browser and present it for the server that this page is about.
"use strict";

(() => {
  const button = document.getElementById("unlock");
  const state = document.getElementById("state");
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
    for (let counter = 0; ; counter++) {
      new DataView(password.buffer).setUint32(nonce.length, counter);
      const derivedKey = hex(await derive(algorithm, password, salt, cost, keyLength));
      if (derivedKey.startsWith(keyPrefix)) {
        return { challenge: { parameters, signature }, solution: { counter, derivedKey, time: performance.now() - began } };
      }
      if (counter % 50 === 0) say(`Calculating … (${counter} tries)`);
    }
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
    const answer = await fetch(address, options);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    return body;
  }

  async function unlock() {
    button.disabled = true;
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
      document.getElementById("why").hidden = true;
    } catch (error) {
      say(`Your server has no internet access yet. ${error.message}`);
      button.disabled = false;
    }
  }

  // Browsers offer crypto.subtle on https and localhost only.
  if (!globalThis.crypto?.subtle) {
    say("Your server has no internet access, and this browser cannot calculate over an insecure connection (http). Open this page with https.");
    return;
  }
  button.hidden = false;
  button.addEventListener("click", unlock);
})();
