"""Time on a page that passes only when a test says so.

The events of one second on a page must not depend on how many seconds the machine takes for them.
"""

from playwright.sync_api import Page

STILL = """{
  const [timer, clear] = [setTimeout, clearTimeout];
  const waiting = new Map();
  let [now, last] = [1000, 1e9];
  performance.now = () => now;
  setTimeout = (call, ms, ...args) => {
    if (!(ms >= 1000)) return timer(call, ms, ...args);
    waiting.set(last += 1, { due: now + ms, call: () => call(...args) });
    return last;
  };
  clearTimeout = (id) => { if (!waiting.delete(id)) clear(id); };
  globalThis.timersLeft = () => Array.from(waiting.values(), ({ due }) => (due - now) / 1000);
  globalThis.passTime = (seconds) => {
    now += seconds * 1000;
    for (const [id, { due, call }] of [...waiting].sort(([, one], [, other]) => one.due - other.due)) {
      if (due <= now && waiting.delete(id)) call();
    }
  };
}"""
"""`performance.now` stands still, and so do timers of a second and more. No test is about shorter waits."""


class PageTime:
    """The time on a page and on the pages that follow it in its tab. Each page begins at the same moment."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.add_init_script(STILL)

    @property
    def timers(self) -> list[float]:
        """Seconds until each of the page's timers."""
        return list(map(float, self._page.evaluate("timersLeft()")))

    def let_pass(self, seconds: float) -> None:
        """Let time pass, and run the timers that become due."""
        self._page.evaluate("(seconds) => passTime(seconds)", seconds)
