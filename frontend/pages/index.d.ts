/** What `connect` needs to know. */
export interface Options {
  /** The address of the verifier, `https://hub.example.org/egress/`. */
  verifier: string;
  /** The address of the BinderHub, `https://mybinder.org/`. By default what the verifier's address is below. */
  binderhub?: string;
  /** The tiers that are enough. Proof of work that earns another one is not done. By default each is enough. */
  tiers?: readonly string[];
  /** Where to show a link to the server's unlock page if this page cannot unlock it: an element, or a CSS selector. */
  link?: string | Element;
  /** An API key that the operator made for this page. It is a budget, not a secret: whoever reads the page has it. */
  key?: string;
}

export interface BinderEgress {
  /** The address of the verifier, ending in "/". */
  readonly verifier: string;
  /** The address of the BinderHub, ending in "/". */
  readonly binderhub: string;
  /**
   * Solve a challenge, and get a pass: good for one launch, as the query parameter `egress_token`, for at most five minutes.
   * Rejects if there is no pass to be had.
   */
  getPass(): Promise<string>;
  /**
   * The address of a build request with a pass. It is the same address if there is no pass to be had, if that takes too long, or if
   * the address is no build request of this BinderHub. Never rejects.
   *
   * @param timeout seconds to wait, 15 by default
   */
  withEgress(url: string | URL, how?: { timeout?: number }): Promise<string>;
}

/**
 * Watch this page's launches by `fetch` and `EventSource`, and unlock their servers. The same verifier gives the same object.
 */
export function connect(options: Options): Readonly<BinderEgress>;

/** The detail of the event `binder-egress` on `window`. */
export interface Detail {
  /**
   * - `checking`: a launch has been seen, a challenge is asked for and solved
   * - `granted`: its server has a tier
   * - `pending`: its server will have one within seconds
   * - `needed`: only a captcha that this page does not show, or no tier that is enough; a person can unlock the server at `unlock`
   * - `none`: refused, or it could not be solved
   * - `unanswered`: the verifier does not answer this page
   */
  state: "checking" | "granted" | "pending" | "needed" | "none" | "unanswered";
  /** The address of the build request. */
  build: string;
  /** The server, once it is ready. */
  server: string | null;
  /** Its unlock page, where it may help. */
  unlock: string | null;
}

declare global {
  interface Window {
    /** What the plain script defines. */
    readonly binderEgress?: Readonly<BinderEgress>;
  }
  interface WindowEventMap {
    "binder-egress": CustomEvent<Detail>;
  }
}
