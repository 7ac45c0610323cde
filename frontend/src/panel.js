// The panel: one line at the lower edge of BinderHub's page. It lies over the page and moves nothing in it. People can scroll the
// page far enough for the panel to hide nothing.
import { chooseLanguage, direction, fill } from "./language.js";

// Milliseconds after which the panel no longer waits for its style sheet, which comes from the host of launch.js and is small: a
// server may wait for a person, who must see what to do.
const SHEET_MS = 2_000;
// The icon of a state: a globe, with a tick or a stroke, or alone while nothing is decided. Its shape shows it, as does its colour.
const GLOBE = "M3 12a9 9 0 1018 0 9 9 0 10-18 0h18M12 3c4 4 4 14 0 18M12 3c-4 4-4 14 0 18";
const ICONS = {
  good: "M4 12l5 6L20 5",
  none: `${GLOBE}M4 4l16 16`,
  some: "M12 3l8 4v10l-8 4-8-4V7zM4 7l8 4 8-4M12 11v10",
  wait: GLOBE,
};

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

  /**
   * Make a panel. It appears on the page with its first message, as soon as its style sheet has loaded, and without it if that
   * fails or takes longer than two seconds.
   *
   * @param {string} sheet the address of the style sheet
   */
  constructor(sheet) {
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
    this.progress = make("span", { className: "progress" });
    this.progress.setAttribute("aria-hidden", "true");
    this.text = make("p", { className: "text" });
    this.text.setAttribute("role", "status");
    this.text.setAttribute("aria-live", "polite");
    this.reason = make("p", { className: "reason", id: "reason", hidden: true });
    this.why = button("why", () => {
      section.toggleAttribute("data-open", this.reason.hidden);
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
    const draw = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    const picture = draw("svg");
    picture.setAttribute("viewBox", "0 0 24 24");
    picture.setAttribute("aria-hidden", "true");
    this.path = draw("path");
    picture.append(this.path);
    this.link = make("a", { target: "_blank", rel: "noopener", textContent: this._messages.get });
    const section = this.section = make("section", { lang: this.language, dir: direction(this.language), hidden: true },
      this.progress, make("div", { className: "line" }, picture, this.text, this.link, this.why, close),
      make("slot", { name: "widget" }), buttons, this.reason);
    section.setAttribute("aria-label", this._messages.label);
    // Room at the end of the page, so that nothing that is scrolled to or focused is behind the panel.
    const room = make("div");
    // Without its style sheet it is text at the end of the page.
    const appear = this._appear = () => {
      clearTimeout(this._late);
      section.hidden = false;
      this._renderSoon();
    };
    root.append(make("link", { rel: "stylesheet", href: sheet, onload: appear, onerror: appear }), section, room);
    new ResizeObserver(() => {
      document.documentElement.style.scrollPaddingBottom = room.style.height = `${section.offsetHeight + 16}px`;
    }).observe(section);
    const paint = () => { this.host.dataset.theme = this.theme = pageTheme(); };
    paint();
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
      this._late = setTimeout(this._appear, SHEET_MS);
      this._renderSoon();
    }
    return this.widget;
  }

  // Screen readers announce only changes of a live region that is there and visible.
  _renderSoon() {
    setTimeout(() => this._render(), 50);
  }

  /**
   * Show a message.
   *
   * @param {object} what
   * @param {string} what.state the key of a message
   * @param {?string} [what.access] what a server without a pass reaches: "packages", "hosts"; null: the site closes nothing, and
   *   internet access is not mentioned; by default nothing
   * @param {string} [what.reach] the same as a sentence; empty: not known
   * @param {boolean} [what.busy] whether the page is calculating
   * @param {boolean} [what.carryOn] whether to offer to continue without internet access, because a person has to do something, or
   *   the launch waits
   * @param {boolean} [what.another] whether to offer another way
   * @param {?string} [what.page] the address of the server's page, on which access is possible later
   */
  show(what) {
    this._shown = what;
    if (this.host.isConnected) this._render();
    else if (!this._closed) this.attach().catch(() => {});
  }

  /** Close the panel. Only a widget opens it again. A launch that waits continues without access. */
  close() {
    this._closed = true;
    if (this._shown?.carryOn) this.onCarryOn();
    this.host.remove();
  }

  _render() {
    const { state, access, reach, busy, carryOn, another, page } = this._shown;
    const messages = this._messages;
    const some = { packages: messages.packages, hosts: messages.hosts }[access];
    const text = fill(messages[some && state === "without" ? "none" : state],
      { access: some ?? messages.nothing, later: messages.later });
    // Screen readers would repeat a text if it were set again.
    if (this.host.isConnected && !this.section.hidden && this.text.textContent !== text) this.text.textContent = text;
    this.reason.textContent = [some ? reach : messages.without_access, messages.reason].join(" ").trim();
    this.host.dataset.state = state;
    const look = state === "has" ? "good" : /^(checking|holding|confirm.*|checked)$/.test(state) ? "wait" : some ? "some" : "none";
    this.host.dataset.look = look;
    this.path.setAttribute("d", ICONS[look]);
    this.section.toggleAttribute("data-asks", carryOn);
    this.link.hidden = !page;
    this.link.href = page ?? "";
    this.progress.hidden = !busy;
    this.carryOn.hidden = !carryOn || access === null;
    this.why.hidden = access === null;
    this.another.hidden = !another;
  }
}

// The page's Bootstrap theme. BinderHub's page sets none, and is light no matter what the browser prefers.
const pageTheme = () => (document.documentElement.dataset.bsTheme === "dark" ? "dark" : "light");
