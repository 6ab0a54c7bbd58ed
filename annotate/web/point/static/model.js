// The state of the session as the server last gave it, and the requests that change it.

import { call, ServerError } from "./local.js";

/** The name of this tab: kept by a reload, not by a copy of the tab. */
function clientName() {
  const key = "annotate-client", [entry] = performance.getEntriesByType("navigation");
  try {
    const name = (entry?.type === "reload" && sessionStorage.getItem(key)) || crypto.randomUUID();
    sessionStorage.setItem(key, name);
    return name;
  } catch {
    return crypto.randomUUID(); // a private window without storage
  }
}

export class Model extends EventTarget {
  constructor() {
    super();
    this.state = null;
    this.busy = Promise.resolve();
    /** Masks by frame, as far as they are known for the present points. */
    this.masks = new Map();
    this.client = clientName();
    addEventListener("pagehide", () => call("leave", { client: this.client }, undefined, true));
    /** @type {null | {kind: string}} the last action, while the server has not taken it */
    this.unsent = null;
  }

  async load() {
    this.take(await (await call(`state?client=${this.client}`)).json());
    this.watch();
  }

  /** Take a state, unless a later one is here already. */
  take(state) {
    if (this.state && state.serial < this.state.serial) return;
    if (!this.state || state.rev !== this.state.rev) this.masks.clear();
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }

  /** Do an action; the actions are sent one after the other.
   * @param {string} kind @param {object} [fields] @returns {Promise<boolean>} whether it was done */
  act(kind, fields = {}) {
    const action = { kind, ...fields };
    this.busy = this.busy.then(() => this.send(action));
    return this.busy;
  }

  async send(action) {
    this.unsent = action;
    try {
      const answer = await call("act", { client: this.client, action });
      this.unsent = null;
      this.take(await answer.json());
      return true;
    } catch (error) {
      const lost = error instanceof ServerError && (error.status === 0 || error.status === 401);
      if (!lost) this.unsent = null;
      this.fail(error);
      return false;
    }
  }

  /** Send the action again that the server did not take. */
  retry() {
    const action = this.unsent;
    if (action) this.busy = this.busy.then(() => this.send(action));
  }

  /** Post another request: run, stop, save, dataset, take-over, outside, seen.
   * @param {string} path @param {object} [fields] */
  async post(path, fields = {}) {
    try {
      const answer = await call(path, { client: this.client, ...fields });
      const state = await answer.json();
      if (state.serial !== undefined) this.take(state);
      return state;
    } catch (error) {
      this.fail(error);
      return null;
    }
  }

  fail(error) {
    this.dispatchEvent(new CustomEvent("failure", { detail: error }));
  }

  /** Return the masks of a frame: at once if they are known, else from the server.
   * @param {number} frame @param {AbortSignal} [signal] */
  async masksOf(frame, signal) {
    const known = this.masks.get(frame);
    if (known) return known;
    const rev = this.state.rev;
    const masks = await (await call(`masks/${frame}`, undefined, signal)).json();
    if (masks.rev === rev && this.state.rev === rev && !masks.pending) this.masks.set(frame, masks);
    return masks;
  }

  /** Follow what the engine does, in this tab or another; begin again when the stream breaks. */
  async watch() {
    let after = this.state.event;
    for (;;) {
      try {
        const reader = (await call(`watch?after=${after}`)).body
          .pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          const lines = (rest + value).split("\n");
          rest = lines.pop(); // a line may be cut by the border of two chunks
          for (const line of lines) {
            if (!line) continue;
            const event = JSON.parse(line);
            after = Math.max(after, event.event ?? after);
            this.receive(event);
          }
        }
      } catch (error) {
        if (error.status === 401) { this.fail(error); return; }
        this.dispatchEvent(new CustomEvent("offline", { detail: error }));
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  receive(event) {
    if (event.settled) this.masks.clear(); // a save may have made others
    if (event.state) this.take(event.state);
    if (event.masks) {
      if (event.masks.rev === this.state.rev) this.masks.set(event.masks.frame, event.masks);
      this.dispatchEvent(new CustomEvent("masks", { detail: event.masks }));
    }
    if (event.progress) this.dispatchEvent(new CustomEvent("progress", { detail: event.progress }));
    if (event.error) this.fail(new Error(event.error));
    if (event.message) this.dispatchEvent(new CustomEvent("message", { detail: event.message }));
    if (event.online) this.dispatchEvent(new Event("online"));
  }

  /** @param {number} id */
  object(id) { return this.state.objects.find((each) => each.id === id); }

  /** The smallest number that no object has. */
  freeNumber() {
    const taken = new Set(this.state.objects.map((each) => each.id));
    let id = 1;
    while (taken.has(id)) id++;
    return id;
  }
}
