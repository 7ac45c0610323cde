// In place of the script of the provider NAME: defines its documented names, and shows a widget with buttons.
const encode = (claims) => btoa(JSON.stringify(claims)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const token = (sitekey, action, right = true) => encode({
  provider: NAME, right, site_key: sitekey, action, host: location.hostname, time: Date.now() / 1000,
  id: Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
});

// Put a frame of the double's own origin into `element`. `on` has what its buttons do.
function frame(element, on) {
  const shown = document.createElement("iframe");
  shown.src = `${BASE}/${NAME.startsWith("recaptcha") ? "recaptcha/" : ""}frame`;
  shown.title = `double of ${NAME}`;
  shown.width = 300;
  shown.height = 78;
  const listen = ({ source, data }) => source === shown.contentWindow && on[data.button]?.();
  addEventListener("message", listen);
  element.append(shown);
  return () => {
    removeEventListener("message", listen);
    shown.remove();
  };
}

// Buttons in the page itself.
function buttons(root, on) {
  for (const [name, text] of [["person", "I am a person"], ["wrong", "Wrong"], ["expire", "Expire"], ["break", "Break"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => on[name]?.());
    root.append(button);
  }
}

const widgets = [];
const find = (element) => (typeof element === "string" ? document.querySelector(element) : element);

function render(element, options) {
  if ((options.sitekey ?? options.siteKey) !== SITE_KEY) throw new Error(`${NAME}: unknown site key`);
  const { action, callback } = options;
  widgets.push(frame(find(element), {
    person: () => callback(token(SITE_KEY, action)),
    wrong: () => callback(token(SITE_KEY, action, false)),
    expire: () => options["expired-callback"]?.(),
    break: () => options["error-callback"]?.("double-broken"),
  }));
  return `${NAME}-${widgets.length - 1}`;
}

const classic = { render, reset() {}, remove: (id) => widgets[id.split("-")[1]]() };

if (NAME === "hcaptcha") window.hcaptcha = classic;
if (NAME === "turnstile") window.turnstile = classic;
if (NAME === "recaptchaV2") window.grecaptcha = { ...classic, ready: (callback) => callback() };
if (NAME === "recaptchaV3") {
  window.grecaptcha = {
    ready: (callback) => callback(),
    execute: async (sitekey, { action }) => {
      if (sitekey !== SITE_KEY) throw new Error("Invalid site key");
      return token(sitekey, action);
    },
  };
}
if (NAME === "friendlyCaptcha") {
  window.frcaptcha = {
    createWidget({ element, sitekey }) {
      const tell = (name, detail) => element.dispatchEvent(new CustomEvent(`frc:widget.${name}`, { bubbles: true, detail }));
      const destroy = frame(element, {
        person: () => tell("complete", { response: token(sitekey) }),
        wrong: () => tell("complete", { response: token(sitekey, undefined, false) }),
        expire: () => tell("expire", {}),
        break: () => tell("error", { error: { code: "network_error", detail: "double" } }),
      });
      return { addEventListener: element.addEventListener.bind(element), reset() {}, start() {}, destroy };
    },
  };
}
if (NAME === "prosopo") {
  window.procaptcha = {
    async render(element, options) {
      if (options.siteKey !== SITE_KEY) throw new Error("prosopo: unknown site key");
      buttons(find(element), {
        person: () => options.callback(token(SITE_KEY)),
        wrong: () => options.callback(token(SITE_KEY, undefined, false)),
        expire: () => options["expired-callback"]?.(),
        break: () => (options["error-callback"] ?? options["failed-callback"])?.(),
      });
    },
  };
}
if (NAME === "cap") {
  customElements.define("cap-widget", class extends HTMLElement {
    connectedCallback() {
      const redeem = async (right) => {
        const endpoint = this.getAttribute("data-cap-api-endpoint");
        const post = async (path, body) => (await fetch(endpoint + path, {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
        })).json();
        try {
          const { token: asked } = await post("challenge", {});
          const { token: redeemed } = await post("redeem", { token: asked, right });
          this.dispatchEvent(new CustomEvent("solve", { detail: { token: redeemed } }));
        } catch (error) {
          this.dispatchEvent(new CustomEvent("error", { detail: { message: String(error) } }));
        }
      };
      buttons(this.attachShadow({ mode: "open" }), {
        person: () => redeem(true),
        wrong: () => redeem(false),
        expire: () => this.dispatchEvent(new CustomEvent("reset")),
        break: () => this.dispatchEvent(new CustomEvent("error", { detail: { message: "double" } })),
      });
    }
  });
}
