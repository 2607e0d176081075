// The key of the service: typed once, kept in this tab, never in an address or in the text to copy.

import { byId } from "./dom.js";

const STORED_AS = "crossvit-key";

export class Keys extends EventTarget {
  declined = false; // the person has no key now: further requests do not ask again
  #asking = null; // the promise of the open dialog

  get key() {
    return sessionStorage.getItem(STORED_AS) ?? "";
  }

  /** Asks the person for a key instead of `refused`; whether there is another one now. */
  async askFor(refused, signal) {
    if (this.key !== refused) return true; // typed meanwhile
    if (this.declined) return false;
    const text = refused
      ? "The service does not know this key. Type another one; it stays in this tab until you close it."
      : "Its operator has it. The key stays in this tab until you close it.";
    this.#asking ??= this.#ask(text);
    await this.#asking;
    return !signal?.aborted && this.key !== refused;
  }

  /** Lets the person type another key. */
  change() {
    this.declined = false;
    return this.askFor(this.key);
  }

  async #ask(text) {
    const dialog = byId("key-dialog");
    const field = byId("key");
    byId("key-reason").textContent = text;
    field.value = "";
    dialog.returnValue = "cancel"; // Escape leaves it
    dialog.showModal();
    field.focus();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    this.#asking = null;
    const typed = field.value.trim();
    field.value = "";
    this.declined = dialog.returnValue === "cancel" || !typed;
    if (this.declined) return;
    sessionStorage.setItem(STORED_AS, typed);
    this.dispatchEvent(new Event("change"));
  }
}
