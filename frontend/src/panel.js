// The panel: one line at the lower edge of BinderHub's page. It lies over the page and moves nothing in it. People can scroll the
// page far enough that the panel hides nothing.
import ar from "../../verifier/web/messages/launch/ar.json";
import de from "../../verifier/web/messages/launch/de.json";
import en from "../../verifier/web/messages/launch/en.json";
import es from "../../verifier/web/messages/launch/es.json";
import fr from "../../verifier/web/messages/launch/fr.json";
import ja from "../../verifier/web/messages/launch/ja.json";
import { chooseLanguage, direction, fill } from "./language.js";
import style from "./panel.css";

const MESSAGES = { en, de, fr, es, ja, ar };

export class Panel {
  /** The language of its messages: "de". */
  language = chooseLanguage(navigator.languages ?? [navigator.language], Object.keys(MESSAGES));
  /** @type {() => void} the action of the button *continue without internet access* */
  onCarryOn = () => {};
  /** @type {() => void} the action of the button *another way* */
  onAnother = () => {};
  _messages = MESSAGES[this.language];
  _shown = null;
  _closed = false;

  /** Make a panel. It appears on the page with its first message. */
  constructor() {
    const make = (name, properties, ...children) => {
      const element = Object.assign(document.createElement(name), properties);
      element.append(...children);
      return element;
    };
    const button = (name, onclick) =>
      make("button", { type: "button", className: name, textContent: this._messages[name], onclick });
    // A shadow root separates the page's style sheets from ours. Only the widget is in the page's own tree, where the providers'
    // scripts expect it.
    this.host = make("div", { id: "binder-egress" });
    this.widget = make("div", { slot: "widget" });
    this.host.append(this.widget);
    const root = this.host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    root.adoptedStyleSheets = [sheet];
    this.progress = make("span", { className: "progress" });
    this.progress.setAttribute("aria-hidden", "true");
    this.text = make("p", { className: "text" });
    this.text.setAttribute("role", "status");
    this.text.setAttribute("aria-live", "polite");
    this.reason = make("p", { className: "reason", id: "reason", textContent: this._messages.reason, hidden: true });
    this.why = button("why", () => {
      this.reason.hidden = !this.reason.hidden;
      this.why.setAttribute("aria-expanded", String(!this.reason.hidden));
    });
    this.why.setAttribute("aria-expanded", "false");
    this.why.setAttribute("aria-controls", "reason");
    this.carryOn = button("carry_on", () => this.onCarryOn());
    this.another = button("another", () => this.onAnother());
    const close = make("button", { type: "button", className: "close", textContent: "×", onclick: () => this.close() });
    close.setAttribute("aria-label", this._messages.close);
    const buttons = make("div", { className: "buttons" }, this.carryOn, this.another);
    const section = make("section", { lang: this.language, dir: direction(this.language) },
      make("div", { className: "line" }, this.progress, this.text, this.why, close),
      make("slot", { name: "widget" }), buttons, this.reason);
    section.setAttribute("aria-label", this._messages.label);
    // Room at the end of the page, so that nothing that is scrolled to or focused lies behind the panel.
    const room = make("div");
    root.append(section, room);
    new ResizeObserver(() => {
      document.documentElement.style.scrollPaddingBottom = room.style.height = `${section.offsetHeight + 16}px`;
    }).observe(section);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const paint = () => { this.host.dataset.theme = this.theme = pageTheme() ?? (dark.matches ? "dark" : "light"); };
    paint();
    dark.addEventListener("change", paint);
    new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  }

  /**
   * Put the panel into the page, as soon as the page has a body.
   *
   * @returns {Promise<HTMLElement>} the panel's element for a provider's widget
   */
  async attach() {
    if (!document.body) await new Promise((resolve) => { document.addEventListener("DOMContentLoaded", resolve); });
    this._closed = false;
    if (!this.host.isConnected) {
      document.body.append(this.host);
      // Screen readers announce only changes of an existing live region.
      setTimeout(() => this._render(), 50);
    }
    return this.widget;
  }

  /**
   * Show a message.
   *
   * @param {object} what
   * @param {string} what.state the key of a message
   * @param {string} [what.access] what a server without a pass reaches: "packages", "hosts"; by default nothing
   * @param {?string} [what.provider] the display name of the provider in the message
   * @param {boolean} [what.busy] whether the page is calculating
   * @param {boolean} [what.carryOn] whether to offer to continue without internet access
   * @param {boolean} [what.another] whether to offer another way
   */
  show(what) {
    this._shown = what;
    if (this.host.isConnected) this._render();
    else if (!this._closed) this.attach().catch(() => {});
  }

  /** Close the panel. Only a widget opens it again. A launch that waits for the person continues without access. */
  close() {
    this._closed = true;
    if (this._shown?.carryOn) this.onCarryOn();
    this.host.remove();
  }

  _render() {
    const { state, access, provider, busy, carryOn, another } = this._shown;
    const messages = this._messages;
    const some = { packages: messages.packages, hosts: messages.hosts }[access];
    const text = fill(messages[some && state === "without" ? "none" : state],
      { access: some ?? messages.nothing, provider: provider ?? "", later: messages.later });
    // Screen readers would repeat a text that is set again.
    if (this.host.isConnected && this.text.textContent !== text) this.text.textContent = text;
    this.host.dataset.state = state;
    this.progress.hidden = !busy;
    this.carryOn.hidden = !carryOn;
    this.another.hidden = !another;
  }
}

// The page's Bootstrap theme. BinderHub's page uses Bootstrap, but sets no theme by itself.
function pageTheme() {
  const theme = document.documentElement.dataset.bsTheme;
  return theme === "dark" || theme === "light" ? theme : null;
}
