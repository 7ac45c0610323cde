// The language of messages, its direction and its placeholders. web/pages.py of the verifier has the same rules on the server.

/**
 * Choose a language.
 *
 * @param {readonly string[]} languages the person's languages, best first, as in `navigator.languages`: "de-CH", "en"
 * @param {readonly string[]} available the languages of the messages, as primary tags: "de", "en"; the first one is the default
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
 * The direction in which a language is written.
 *
 * @param {string} language a language with messages: "ar", "de"
 * @returns {"ltr"|"rtl"} for the attribute `dir`
 */
export function direction(language) {
  return language === "ar" ? "rtl" : "ltr";
}

/**
 * Fill in a message.
 *
 * @param {string} message with placeholders, "Try again in {seconds} s."
 * @param {Record<string, string|number>} [values] by the names of the placeholders; a placeholder without a value stays
 * @returns {string} plain text, for `textContent`
 */
export function fill(message, values = {}) {
  return message.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}
