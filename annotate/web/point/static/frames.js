// Pictures of the clip by index: fetched, kept, and fetched ahead in the direction of travel.

/** @typedef {{bitmap: ImageBitmap, seconds: number}} Picture with its exact time */

import { call } from "./local.js";

const MAX_KEPT = 200, AHEAD = 20, BEHIND = 3, MAX_REQUESTS = 3;

export class Frames {
  /** @param {number} count of the clip */
  constructor(count) {
    this.count = count;
    /** @type {Map<number, Picture>} the latest used one last */
    this.kept = new Map();
    /** @type {Map<number, {promise: Promise<Picture>, control: AbortController}>} */
    this.requests = new Map();
    this.wanted = 0;
    this.direction = 1;
  }

  /** Return a picture; requests for pictures that were passed meanwhile are dropped.
   * @param {number} index @returns {Promise<Picture>} */
  async get(index) {
    if (index !== this.wanted) this.direction = index > this.wanted ? 1 : -1;
    this.wanted = index;
    for (const [other, { control }] of this.requests) {
      if (this.isNear(other)) continue;
      control.abort();
      this.requests.delete(other); // whoever comes back to it asks again
    }
    const kept = this.kept.get(index);
    if (kept) {
      this.kept.delete(index);
      this.kept.set(index, kept);
      this.fetchAhead();
      return kept;
    }
    const picture = await this.request(index);
    this.fetchAhead();
    return picture;
  }

  /** @param {number} index */
  isKept(index) { return this.kept.has(index); }

  isNear(index) {
    const distance = (index - this.wanted) * this.direction;
    return distance >= -BEHIND && distance <= AHEAD;
  }

  request(index) {
    const running = this.requests.get(index);
    if (running) return running.promise;
    const control = new AbortController();
    const promise = this.load(index, control.signal).finally(() => {
      if (this.requests.get(index)?.control === control) this.requests.delete(index);
    });
    promise.catch(() => {}); // whoever waits for it gets the error
    this.requests.set(index, { promise, control });
    return promise;
  }

  async load(index, signal) {
    const answer = await call(`frame/${index}`, undefined, signal);
    const [over, under = 1] = answer.headers.get("X-Seconds").split("/").map(Number);
    const picture = { bitmap: await createImageBitmap(await answer.blob()), seconds: over / under };
    this.kept.set(index, picture);
    if (this.kept.size > MAX_KEPT) {
      const [oldest, { bitmap }] = this.kept.entries().next().value;
      this.kept.delete(oldest);
      bitmap.close();
    }
    return picture;
  }

  fetchAhead() {
    for (let step = 1; step <= AHEAD && this.requests.size < MAX_REQUESTS; step++) {
      const index = this.wanted + step * this.direction;
      if (index < 0 || index >= this.count || this.kept.has(index)) continue;
      this.request(index).then(() => this.fetchAhead(), () => {});
    }
  }
}
