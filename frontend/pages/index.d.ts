/** Options of `connect`. */
export interface Options {
  /** The address of the verifier, `https://hub.example.org/egress/`. */
  verifier: string;
  /** The address of the BinderHub, `https://mybinder.org/`. By default the parent of the verifier's address. */
  binderhub?: string;
  /** The tiers that are enough. Proof of work for another tier is not done. By default every tier is enough. */
  tiers?: readonly string[];
  /** Where to show a link to the server's unlock page if this page cannot unlock it: an element, or a CSS selector. */
  link?: string | Element;
  /** An API key that the operator made for this page. It is a budget, not a secret: every reader of the page can see it. */
  key?: string;
}

export interface BinderEgress {
  /** The address of the verifier, ending in "/". */
  readonly verifier: string;
  /** The address of the BinderHub, ending in "/". */
  readonly binderhub: string;
  /**
   * Solve a challenge and get a pass. It is valid for one launch, as the query parameter `egress_token`, for at most five minutes.
   * Rejects if the verifier gives no pass; the message ends with its reason.
   */
  getPass(): Promise<string>;
  /**
   * The address of a build request with a pass. The address stays the same if the verifier gives no pass, if that takes too long,
   * or if the address is no build request of this BinderHub. Never rejects.
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
   * - `checking`: a launch has begun, and a challenge is being solved
   * - `granted`: its server has a tier
   * - `pending`: its server will have one within seconds
   * - `needed`: the verifier offers only captchas that this page does not show, or no tier that is enough; a person can unlock the
   *   server at `unlock`
   * - `none`: the verifier refused, or the challenge could not be solved
   * - `failed`: no server came of the launch: the build failed, or its connection ended
   * - `unanswered`: the verifier does not answer this page
   */
  state: "checking" | "granted" | "pending" | "failed" | "needed" | "none" | "unanswered";
  /** The address of the build request. */
  build: string;
  /** The server, once it is ready. */
  server: string | null;
  /** The address of its unlock page, if a person can do something there. */
  unlock: string | null;
}

declare global {
  interface Window {
    /** The object that the plain script defines. */
    readonly binderEgress?: Readonly<BinderEgress>;
  }
  interface WindowEventMap {
    "binder-egress": CustomEvent<Detail>;
  }
}
