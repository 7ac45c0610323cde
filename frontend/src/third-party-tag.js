// The script tag for third-party pages: options are attributes of the tag, and `binderEgress` is the only global name.
import { connect } from "./third-party.js";

try {
  const { dataset, src } = document.currentScript;
  window.binderEgress ??= connect({
    // By default the verifier that served this script, from v1/ below it.
    verifier: dataset.verifier ?? new URL("../", src).href,
    binderhub: dataset.binderhub,
    tiers: dataset.tiers?.split(/\s+/).filter(Boolean),
    link: dataset.link,
    key: dataset.key,
  });
} catch (error) {
  console.warn("binder-egress: launches of this page get no internet access:", error);
}
