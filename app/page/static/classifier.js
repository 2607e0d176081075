// The pictures of the page and their answers: a few requests at once, and again later where the service is busy.

import { Refusal } from "./service.js";

const AT_ONCE = 4; // requests under way
const MOST_ATTEMPTS = 6; // of a request that the service has no room for
const USUAL_WAIT_SECONDS = 2; // where the service does not say

/** A picture: `state` is waiting, asking, busy (asked again at `againAt`), answered or refused. */
export class Picture {
  static #count = 0;

  constructor(file) {
    this.id = ++Picture.#count;
    this.file = file;
    this.url = URL.createObjectURL(file);
    this.reset();
  }

  get name() {
    return this.file.name || "picture";
  }

  reset() {
    this.cancel?.abort();
    Object.assign(this, {
      state: "waiting", answer: null, refusal: null, seconds: null, againAt: null, cancel: null, again: null,
      explanations: new Map(), explained: 0,
    });
  }

  /** Forgets the file; the picture is not used any more. */
  discard() {
    this.reset();
    this.state = "discarded";
    URL.revokeObjectURL(this.url);
  }
}

/** Classifies pictures; a "change" event carries the picture whose state is another. */
export class Classifier extends EventTarget {
  pictures = [];
  #service;
  #query;
  #asking = 0;

  /** `query` gives the options of a request. */
  constructor(service, query) {
    super();
    this.#service = service;
    this.#query = query;
  }

  add(files) {
    const added = [...files].map((file) => new Picture(file));
    this.pictures.push(...added);
    this.#fill();
    return added;
  }

  remove(picture) {
    picture.discard();
    this.pictures = this.pictures.filter((other) => other !== picture);
    this.#fill();
  }

  /** Asks for these pictures again, at once. */
  renew(pictures = this.pictures) {
    for (const picture of pictures) {
      picture.reset();
      this.#changed(picture);
    }
    this.#fill();
  }

  /** The promise of the explanation of one class, asked for once. */
  explain(picture, index) {
    if (!picture.explanations.has(index)) {
      const { name: model, resolution } = picture.answer.model; // what answered, whatever was asked for
      const query = { model, resolution, class: index };
      const asked = this.#patiently(picture, () => this.#service.explain(picture.file, query, picture.cancel?.signal));
      asked.catch(() => picture.explanations.delete(index)); // the next look asks again
      picture.explanations.set(index, asked);
    }
    return picture.explanations.get(index);
  }

  #fill() {
    for (const picture of this.pictures) {
      if (this.#asking >= AT_ONCE) return;
      if (picture.state === "waiting") this.#classify(picture);
    }
  }

  async #classify(picture) {
    const cancel = new AbortController();
    Object.assign(picture, { cancel, state: "asking" });
    this.#asking += 1;
    this.#changed(picture);
    try {
      const began = performance.now();
      const answer = await this.#patiently(picture, () => {
        picture.began = performance.now();
        return this.#service.classify(picture.file, this.#query(), cancel.signal);
      });
      this.#settle(picture, cancel, { state: "answered", answer, seconds: (performance.now() - (picture.began ?? began)) / 1000 });
    } catch (error) {
      const refusal = error instanceof Refusal ? error : new Refusal({ status: 0, detail: String(error) });
      this.#settle(picture, cancel, { state: "refused", refusal });
    } finally {
      this.#asking -= 1;
      this.#fill();
    }
  }

  #settle(picture, cancel, outcome) {
    if (cancel.signal.aborted || picture.cancel !== cancel) return; // removed, or asked again with other options
    Object.assign(picture, outcome, { againAt: null });
    this.#changed(picture);
  }

  /** The result of `ask`, which is repeated after the time that the service names while it is busy. */
  async #patiently(picture, ask) {
    for (let attempt = 1; ; attempt++) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof Refusal) || !error.passes || attempt === MOST_ATTEMPTS) throw error;
        await this.#wait(picture, error);
      }
    }
  }

  async #wait(picture, refusal) {
    const before = picture.state;
    const seconds = refusal.retryAfter ?? USUAL_WAIT_SECONDS;
    const { signal } = picture.cancel;
    Object.assign(picture, { refusal, againAt: Date.now() + 1000 * seconds });
    if (before === "asking") picture.state = "busy";
    this.#changed(picture);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      picture.again = () => { clearTimeout(timer); resolve(); };
      signal.addEventListener("abort", picture.again, { once: true });
    });
    signal.throwIfAborted();
    Object.assign(picture, { state: before, refusal: null, againAt: null });
    this.#changed(picture);
  }

  #changed(picture) {
    this.dispatchEvent(new CustomEvent("change", { detail: picture }));
  }
}
