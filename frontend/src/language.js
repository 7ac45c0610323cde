// Which language to speak, and how. verifier/web/pages.py has the same rules on the server.

/**
 * Choose a language.
 *
 * @param {readonly string[]} languages what the person reads, best first, as `navigator.languages`: "de-CH", "en"
 * @param {readonly string[]} available what there is, as primary tags: "de", "en"; the first is taken where nothing fits
 * @returns {string} one of `available`
 */
export function chooseLanguage(languages, available) {
  for (const language of languages ?? []) {
    const primary = String(language).toLowerCase().split(/[-_]/)[0];
    if (available.includes(primary)) return primary;
  }
  return available[0];
}

/**
 * The direction a language is written in.
 *
 * @param {string} language one of those that there are messages in: "ar", "de"
 * @returns {"ltr"|"rtl"} for the attribute `dir`
 */
export function direction(language) {
  return language === "ar" ? "rtl" : "ltr";
}

/**
 * Fill in a message.
 *
 * @param {string} message with placeholders, "Try again in {seconds} s."
 * @param {Record<string, string|number>} [values] by the names of the placeholders; one that has none stays as it is
 * @returns {string} plain text, for `textContent`
 */
export function fill(message, values = {}) {
  return message.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}
