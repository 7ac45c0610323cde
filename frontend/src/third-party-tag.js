// The script tag for third-party pages: options are attributes of the tag, and `binderEgress` is the only global name.
import { connect } from "./third-party.js";

try {
  const { dataset, src } = document.currentScript;
  window.binderEgress ??= connect({
    // The verifier that served this, below v1/.
    verifier: dataset.verifier ?? new URL("../", src).href,
    binderhub: dataset.binderhub,
    tiers: dataset.tiers?.split(/\s+/).filter(Boolean),
    link: dataset.link,
    key: dataset.key,
  });
} catch (error) {
  console.warn("binder-egress: launches of this page get no internet access:", error);
}
