// The widgets of remote captcha providers: one row each in a table, based on the providers' documentation.
//
// A provider's script is loaded only to show its widget, from the address in the verifier's offer. If the script loads while its
// frame is blocked, the widget's place stays empty: browsers tell no page whether a frame of another site has loaded.

// The longest wait for a provider's script, and for a check without a click, in seconds. A person has no limit except `signal`.
const LOADING_SECONDS = 15;

/** An unusable widget. `reason`: `script` (missing or silent), `widget` (it reports an error), `unknown` (no such provider). */
export class WidgetError extends Error {
  constructor(reason, detail) {
    super(`${reason}: ${detail}`);
    this.reason = reason;
  }
}

/**
 * Show a remote provider's widget and wait until it is solved.
 *
 * @param {{name: string, challenge: object}} offer an offer of `GET challenge` that is `interactive` or `automatic`
 * @param {HTMLElement} element the place of the widget; it is emptied first
 * @param {object} [options]
 * @param {AbortSignal} [options.signal] removes the widget; the promise then rejects with the signal's reason
 * @param {string} [options.language] "de"; by default the widget chooses
 * @param {"light"|"dark"} [options.theme] by default the browser's theme
 * @param {() => void} [options.onShown] called when the widget can be clicked
 * @returns {Promise<string>} the provider's token, which is valid for a minute or two: present it immediately
 * @throws {WidgetError}
 */
export async function mountWidget(offer, element, { signal, language, theme, onShown } = {}) {
  signal?.throwIfAborted();
  const row = ROWS[offer.name];
  if (!row) throw new WidgetError("unknown", offer.name);
  const place = document.createElement("div");
  element.replaceChildren(place);
  // Not AbortSignal.timeout: iOS 15 lacks it, and some phones get no newer version.
  const late = new AbortController();
  const limit = late.signal;
  setTimeout(() => late.abort(), LOADING_SECONDS * 1000);
  const dark = globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches;
  const what = { ...offer.challenge, language, theme: theme ?? (dark ? "dark" : "light") };
  let remove;
  try {
    return await new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      const on = {
        solved: (token) => (token ? resolve(String(token)) : on.failed("no token")),
        failed: (detail) => reject(new WidgetError("widget", `${offer.name}: ${detail}`)),
        // The provider sent nothing in time.
        absent: () => reject(new WidgetError("script", offer.name)),
      };
      const show = async () => {
        if (row.script !== false) {
          const query = Object.entries(row.query?.(what) ?? {}).filter(([, value]) => value);
          await load(what.script, query, row.module, limit);
        }
        const api = row.ready && (await until(row.ready, limit, what.script));
        if (signal?.aborted) return;
        remove = row.show(place, what, on, api, limit);
        onShown?.();
      };
      show().catch((error) => reject(error instanceof WidgetError ? error : new WidgetError("widget", error)));
    });
  } catch (error) {
    try { remove?.(); } catch { /* The next line removes it from the page. */ }
    place.remove();
    throw error;
  }
}

/** The display name of a provider. */
export const title = (name) => ROWS[name]?.title ?? name;

// The `render` of hCaptcha, Turnstile and reCAPTCHA v2 takes nearly the same options.
const classic = (what, on, more) => ({
  sitekey: what.site_key,
  theme: what.theme,
  callback: on.solved,
  "error-callback": (code) => {
    // hCaptcha reports these when a person closes its window or takes too long. The box can be ticked again.
    if (code !== "challenge-closed" && code !== "challenge-expired") on.failed(code);
    return true; // tells Turnstile that the error is handled
  },
  ...more,
});

// In each row, `query` is added to the script's address; `ready` returns the object that the script defines, as soon as it exists;
// `show` renders the widget and returns a function that removes it. A challenge that is not answered in time starts again.
const ROWS = {
  hcaptcha: {
    title: "hCaptcha",
    query: ({ language }) => ({ render: "explicit", hl: language }),
    ready: () => globalThis.hcaptcha?.render && globalThis.hcaptcha,
    show(place, what, on, api) {
      const again = () => api.reset(id);
      const id = api.render(place, classic(what, on, { "expired-callback": again, "chalexpired-callback": again }));
      return () => api.remove(id);
    },
  },
  turnstile: {
    title: "Cloudflare Turnstile",
    query: () => ({ render: "explicit" }),
    ready: () => globalThis.turnstile?.render && globalThis.turnstile,
    show(place, what, on, api) {
      const again = () => api.reset(id);
      const id = api.render(place, classic(what, on, {
        action: what.action,
        language: what.language,
        size: "flexible",
        "expired-callback": again,
        "timeout-callback": again,
        "unsupported-callback": () => on.failed("unsupported browser"),
      }));
      return () => api.remove(id);
    },
  },
  recaptchaV2: {
    title: "reCAPTCHA",
    query: ({ language }) => ({ render: "explicit", hl: language }),
    ready: () => globalThis.grecaptcha?.render && globalThis.grecaptcha,
    show(place, what, on, api) {
      const id = api.render(place, classic(what, on, { "expired-callback": () => api.reset(id) }));
      return () => api.reset(id);
    },
  },
  recaptchaV3: {
    title: "reCAPTCHA",
    query: ({ site_key: render, language }) => ({ render, hl: language }),
    ready: () => globalThis.grecaptcha?.execute && globalThis.grecaptcha,
    show(place, what, on, api, limit) {
      // It may never settle if the script's own requests are blocked. No person is waited for, so a time limit fits.
      limit.addEventListener("abort", on.absent);
      api.execute(what.site_key, { action: what.action }).then(on.solved, on.failed);
    },
  },
  friendlyCaptcha: {
    title: "Friendly Captcha",
    module: true,
    ready: () => globalThis.frcaptcha,
    show(place, what, on, api) {
      const widget = api.createWidget({
        element: place,
        sitekey: what.site_key,
        apiEndpoint: what.endpoint,
        language: what.language,
        theme: what.theme,
        startMode: "none",
        formFieldName: null,
      });
      widget.addEventListener("frc:widget.complete", (event) => on.solved(event.detail.response));
      widget.addEventListener("frc:widget.error", (event) => on.failed(event.detail.error?.code));
      widget.addEventListener("frc:widget.expire", () => widget.reset());
      return () => widget.destroy();
    },
  },
  cap: {
    title: "Cap",
    ready: () => globalThis.customElements.get("cap-widget"),
    show(place, what, on) {
      const widget = document.createElement("cap-widget");
      widget.setAttribute("data-cap-api-endpoint", what.endpoint);
      widget.addEventListener("solve", (event) => on.solved(event.detail.token));
      widget.addEventListener("error", (event) => on.failed(event.detail?.message));
      place.append(widget);
    },
  },
  mcaptcha: {
    // A frame from the instance, which posts the token as a message. None of its scripts runs in our page.
    title: "mCaptcha",
    script: false,
    show(place, what, on, api, limit) {
      const frame = document.createElement("iframe");
      const address = new URL(what.script);
      address.searchParams.set("sitekey", what.site_key);
      const listen = ({ origin, source, data }) => {
        if (origin !== address.origin || source !== frame.contentWindow || !data?.token) return;
        removeEventListener("message", listen);
        on.solved(data.token);
      };
      addEventListener("message", listen);
      limit.addEventListener("abort", on.absent);
      frame.addEventListener("load", () => limit.removeEventListener("abort", on.absent));
      frame.src = address.href;
      frame.title = "mCaptcha";
      frame.width = 304;
      frame.height = 78;
      place.append(frame);
      return () => removeEventListener("message", listen);
    },
  },
  prosopo: {
    title: "Prosopo",
    module: true,
    query: () => ({ render: "explicit" }),
    ready: () => globalThis.procaptcha?.render && globalThis.procaptcha,
    show(place, what, on, api) {
      api.render(place, {
        siteKey: what.site_key,
        theme: what.theme,
        language: what.language,
        callback: on.solved,
        "error-callback": on.failed,
        "failed-callback": () => on.failed("not solved"),
      });
    },
  },
};

const loaded = new Map();

// Load a script once. A script that failed to load may be tried again.
function load(address, query, module, limit) {
  const url = new URL(address);
  for (const [name, value] of query) url.searchParams.set(name, value);
  if (!loaded.has(url.href)) {
    const script = document.createElement("script");
    loaded.set(url.href, new Promise((resolve, reject) => {
      script.addEventListener("load", resolve);
      script.addEventListener("error", reject);
      limit.addEventListener("abort", reject);
    }).catch(() => {
      loaded.delete(url.href);
      script.remove();
      throw new WidgetError("script", url.origin);
    }));
    if (module) script.type = "module";
    script.async = true;
    script.src = url.href;
    document.head.append(script);
  }
  return loaded.get(url.href);
}

// Some scripts define their object only after they have loaded further scripts.
async function until(ready, limit, address) {
  for (;;) {
    const api = ready();
    if (api) return api;
    if (limit.aborted) throw new WidgetError("script", `${address} loaded, but defines nothing`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}
