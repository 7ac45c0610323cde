// The JupyterLab extension: it shows what this server may reach, and opens the server's page if that can change it.
import { chooseLanguage, direction, fill } from "../src/language.js";
import { looksLikeNoNetwork, textOf } from "./failures.js";
import { differ, follow } from "./state.js";
import styles from "./style.css";

const UNVERIFIED = "unverified";

// The server's page: a small window of this size, in pixels.
const WINDOW = "popup,width=520,height=640";
// Milliseconds: how long that window stays open when it is done, so that it can be read; between two looks at the time left; and
// between two notifications of a failed cell.
const [READ_MS, TICK_MS, QUIET_MS] = [3_000, 5_000, 600_000];
// The item's place in the menu bar.
const MENU_RANK = 9_000;
// Seconds before the end of a lease at which a person is asked whether they are still there.
const NEAR_END_SECONDS = 300;

// Line drawings, 16 by 16, in the colour of the text. Each has its own shape: a crossed circle, a box, half a globe, a globe.
const CIRCLE = "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13";
const ICONS = {
  none: `${CIRCLE}M3.4 3.4l9.2 9.2`,
  packages: "M2 4.5l6-3 6 3v7l-6 3-6-3zM2 4.5l6 3 6-3M8 7.5v7",
  hosts: `${CIRCLE}M8 1.5v13M8 8h6.5`,
  network: `${CIRCLE}M1.5 8h13M8 1.5c-4.5 3.5-4.5 9.5 0 13M8 1.5c4.5 3.5 4.5 9.5 0 13`,
  unknown: `${CIRCLE}M6 6.2c0-2.7 4-2.7 4 0c0 1.6-2 1.6-2 3.3M8 11.4v.6`,
};

/**
 * Make the plugin.
 *
 * @param {string} name of the extension
 * @param {object} jupyter the modules of JupyterLab that it uses; a feature whose module is missing is left out
 * @param {URL} file with the address of the server's page
 * @returns {object} a plugin, as JupyterLab registers it
 */
export function plugin(name, jupyter, file) {
  const { ICommandPalette, IMainMenu, IStatusBar, ITranslator } = jupyter;
  const services = [ICommandPalette, IMainMenu, IStatusBar, ITranslator];
  const there = services.filter(Boolean);
  return {
    id: `${name}:plugin`,
    description: "Shows what this server may reach.",
    autoStart: true,
    optional: there,
    activate(app, ...given) {
      const [palette, menu, statusBar, translator] = services.map((service) => (service ? given[there.indexOf(service)] : null));
      // JupyterLab waits for its plugins, and this one may be slow.
      const all = { ...jupyter, palette, menu, statusBar, translator };
      read(file).then((address) => address && start(address, app, all)).catch(() => {});
    },
  };
}

async function read(file) {
  const answer = await fetch(file, { credentials: "same-origin" });
  return answer.ok ? new URL((await answer.json()).url).href : null;
}

function start(address, app, jupyter) {
  const { Dialog, Notification, NotebookActions, Widget, menu, palette, statusBar, translator } = jupyter;
  // Jupyter's language if somebody chose one, for which the image must have a package; otherwise the browser's, as on the page.
  const chosen = translator?.languageCode;
  const languages = !chosen || /^(default|en)/.test(chosen) ? navigator.languages : [chosen];
  const lang = chooseLanguage(languages, Object.keys(MESSAGES));
  const dir = direction(lang);
  const text = (key, values) => fill(MESSAGES[lang][key], values);
  // Notifications are plain text, in the direction of the interface.
  const plain = (words) => (dir === "rtl" ? `\u2067${words}\u2069` : words);

  let small = null; // the small window
  let placed = false; // whether the item is in its place: JupyterLab accepts it once
  let last = null; // the last answer of the verifier
  const notices = { failed: null, ending: null, ended: null, blocked: null }; // notifications that do not end by themselves
  let asked; // the end of the lease for which `ending` was shown
  let over; // the end of the lease after which the verifier was asked
  let opening = false; // whether the panel is open, or about to be
  let ranCell = false; // whether a cell failed since the server last had access

  const server = follow(address, lang, changed);
  const state = () => (server.now ? server.now.access : "unknown");
  const renewable = () => server.now?.tier !== UNVERIFIED && server.now?.renewable_in === 0;
  const useful = () => server.now && (server.now.unlockable || renewable() || server.now.larger.length > 0);
  const minutesLeft = () => (server.now?.tier === UNVERIFIED ? null : server.secondsLeft() && Math.ceil(server.secondsLeft() / 60));

  const style = document.createElement("style");
  style.textContent = styles;
  document.head.append(style);

  function icon(what) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("d", ICONS[what]);
    svg.append(path);
    return svg;
  }

  function element(tag, content, more) {
    const made = Object.assign(document.createElement(tag), more);
    made.append(...[].concat(content));
    return made;
  }

  // -- the status bar

  const item = element("button", [], { type: "button", className: "binder-egress-item", lang, dir });
  item.setAttribute("aria-haspopup", "dialog");
  item.addEventListener("click", showPanel);

  function show() {
    const words = text(state());
    const minutes = minutesLeft();
    const shown = minutes ? text("left", { state: words, minutes }) : words;
    if (item.textContent === shown && item.dataset.state === state()) return;
    item.dataset.state = state();
    item.replaceChildren(icon(state()), element("span", shown));
    item.title = `${text("title")}: ${shown}`;
  }

  // In mode `observe` nothing is closed, so there is nothing to say: null.
  const silent = () => (server.now ?? last)?.access === null;

  function place() {
    if (placed) return;
    placed = true;
    const widget = new Widget({ node: element("div", item, { className: "binder-egress" }) });
    widget.id = "binder-egress:item";
    // Notebook 7 has no status bar. Its menu bar ends with the kernel, whose rank is 10,000.
    if (statusBar) statusBar.registerStatusItem(widget.id, { item: widget, align: "left", rank: 5 });
    else app.shell.add(widget, "menu", { rank: MENU_RANK });
  }

  // -- the panel

  const label = () => text(
    server.now.unlockable && server.now.why ? "again"
      : server.now.unlockable && state() === "none" ? "give" : renewable() ? "keep" : "more",
  );

  async function showPanel() {
    // A second click comes while the first one waits for the verifier. JupyterLab would show two panels, one after the other.
    if (opening) return;
    opening = true;
    try {
      await server.refresh();
      if (await choosesPage()) openPage();
    } finally {
      opening = false;
    }
  }

  // Show the panel until it is closed. Returns whether somebody wants the page.
  async function choosesPage() {
    const closed = server.now?.tier === UNVERIFIED && !useful();
    const minutes = minutesLeft();
    const expiry = minutes && text(server.now.on_expiry === "stop" ? "lease-stop" : "lease-end", { minutes });
    const link = (words, href) => element("a", words, { href, target: "_blank", rel: "noopener noreferrer" });
    const { why, contact } = server.now ?? {};
    const mail = contact && !/^https?:/.test(contact);
    const whom = closed && contact && [`${text("contact")} `, link(contact, mail ? `mailto:${contact}` : contact)];
    const words = element("strong", text(state() ?? "observe"));
    const body = element("div", [
      element("p", [icon(state() ?? "unknown"), words], { className: "binder-egress-state" }),
      element("p", server.now ? server.now.reach ?? "" : text("reach-unknown")),
      ...[why, expiry, whom].filter(Boolean).map((each) => element("p", each)),
      element("p", useful() ? text("how") : link(text("page"), address)),
    ], { className: "binder-egress", lang, dir });
    const buttons = [Dialog.cancelButton({ label: text("close") })];
    if (useful()) buttons.push(Dialog.okButton({ label: label() }));
    const dialog = new Dialog({ title: text("title"), body: new Widget({ node: body }), buttons });
    Object.assign(dialog.node, { lang, dir });
    const { button } = await dialog.launch();
    return button.accept;
  }

  // The page requires a click, since another page sent the visitor there. Only the opener may close the window, so it keeps its
  // opener (D-304).
  function openPage() {
    dismiss();
    small = window.open(`${address}#unlock`, "binder-egress", WINDOW);
    if (!small) {
      notify("blocked", text("blocked", { address }));
      return;
    }
    small.focus();
    server.hurry();
  }

  // One notification of each kind: an earlier one is removed.
  function notify(kind, words, actions = []) {
    dismiss(kind);
    notices[kind] = Notification?.warning(plain(words), { autoClose: false, actions });
  }

  function dismiss(...kinds) {
    for (const kind of kinds.length ? kinds : Object.keys(notices)) {
      if (notices[kind]) Notification.dismiss(notices[kind]);
      notices[kind] = null;
    }
  }

  // -- changes

  function changed(now) {
    const { access } = now ?? {};
    // Also access that grew while the verifier did not answer.
    const was = last;
    last = now ?? last;
    if (access !== null) place();
    item.parentElement?.classList.toggle("binder-egress-silent", silent());
    if (!silent()) show();
    if (was && now && differ(was, now) && more(now, was)) {
      if (notices.failed || notices.ended || small) {
        const renewed = now.tier === was.tier;
        Notification?.success(plain(text(renewed ? "renewed" : ranCell ? "run-again" : "given")), { autoClose: 10_000 });
        if (!renewed) ranCell = false;
      }
      dismiss();
      const done = small;
      small = null;
      if (done) setTimeout(() => done.close(), READ_MS);
    }
    if (was && now && rank(now) < rank(was)) {
      dismiss();
      const actions = useful() ? [{ label: label(), displayType: "accent", callback: openPage }] : [];
      // JupyterLab cuts notifications after 140 characters.
      const rest = now.access === "none" ? [now.why || now.reach] : [now.why, now.reach];
      notify("ended", [text("ended"), ...rest].filter(Boolean).join(" "), actions);
    }
    if (now && (now.until !== asked || server.secondsLeft() === 0)) dismiss("ending");
    remind();
  }

  // In mode `observe`, null, nothing is closed.
  const rank = ({ access }) => ["none", "packages", "hosts", "network"].indexOf(access ?? "network");
  const more = (now, was) =>
    rank(now) > rank(was) ||
    (now.tier === was.tier ? now.until > was.until : now.tier !== UNVERIFIED);

  // -- still there?

  function remind() {
    const seconds = server.secondsLeft();
    if (!server.now?.until || !seconds || seconds > NEAR_END_SECONDS || !renewable() || asked === server.now.until) return;
    asked = server.now.until;
    const when = new Intl.RelativeTimeFormat(lang).format(Math.ceil(seconds / 60), "minute");
    const actions = [{ label: text("keep"), displayType: "accent", callback: openPage }];
    notify("ending", text("ending", { when }), actions);
  }

  setInterval(() => {
    if (!server.now) return;
    if (!silent()) show();
    remind();
    if (document.visibilityState !== "visible") return;
    const ended = server.secondsLeft() === 0 && over !== server.now.until;
    if (ended) over = server.now.until;
    if (ended || server.renewableNow()) server.soon();
  }, TICK_MS);

  // -- cells that fail

  const key = `binder-egress:${address}`;
  const recently = () => {
    try {
      // A clock that was ahead may have left a time to come.
      return Math.abs(Date.now() - Number(localStorage.getItem(key))) < QUIET_MS;
    } catch {
      return false;
    }
  };
  const remember = () => {
    try {
      localStorage.setItem(key, Date.now());
    } catch {
      // A browser without storage.
    }
  };
  let told = -QUIET_MS;

  async function looked(cell) {
    if (!cell?.model?.outputs || !looksLikeNoNetwork(textOf(cell.model.outputs))) return;
    if (server.now && state() !== "network" && !silent()) ranCell = true;
    if (recently() || performance.now() - told < QUIET_MS) return;
    await server.refresh();
    // It has access by now, or had it when the verifier last answered; or another cell was quicker.
    const known = server.now ?? last;
    if ((known && rank(known) === rank({ access: "network" })) || performance.now() - told < QUIET_MS) return;
    told = performance.now();
    ranCell = true;
    remember();
    const actions = useful() ? [{ label: label(), displayType: "accent", callback: openPage }] : [];
    const failed = { none: "failed-none", unknown: "failed-unknown" }[state()] ?? "failed-some";
    const message = [text(failed), server.now?.why];
    notify("failed", message.filter(Boolean).join(" "), actions);
  }

  NotebookActions?.executed.connect((_, { cell }) => { looked(cell).catch(() => {}); });

  // -- commands

  const command = "binder-egress:show";
  app.commands.addCommand(command, { label: text("command"), execute: showPanel, isVisible: () => !silent() });
  menu?.helpMenu.addGroup([{ command }], 0);
  palette?.addItem({ command, category: text("category") });
}
