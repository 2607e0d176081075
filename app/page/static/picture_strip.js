// All pictures in a row, of which one is looked at: radio buttons, so that arrow keys go through them.

import { byId, element, percent } from "./dom.js";

const STATES = { waiting: "waits", asking: "is looked at", busy: "waits for the service", refused: "no answer" };

export class PictureStrip {
  #items = new Map(); // by the picture
  #onSelect;

  constructor(onSelect) {
    this.#onSelect = onSelect;
  }

  /** Shows `pictures`, with `selected` chosen. */
  show(pictures, selected) {
    for (const [picture, item] of this.#items) {
      if (!pictures.includes(picture)) {
        item.remove();
        this.#items.delete(picture);
      }
    }
    for (const picture of pictures) this.#item(picture).querySelector("input").checked = picture === selected;
    byId("strip").hidden = pictures.length < 2;
    this.#items.get(selected)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Shows what has changed of `picture`. */
  update(picture) {
    const item = this.#items.get(picture);
    if (!item) return;
    const [best] = picture.answer?.predictions ?? [];
    item.dataset.state = picture.state;
    item.querySelector(".of-picture").textContent = best ? best.label : STATES[picture.state] ?? "";
    item.querySelector(".score").textContent = best ? percent(best.score, 0) : "";
  }

  #item(picture) {
    if (!this.#items.has(picture)) {
      const radio = element("input", { type: "radio", name: "picture", value: picture.id });
      radio.addEventListener("change", () => this.#onSelect(picture));
      const image = element("img", { src: picture.url, alt: "" });
      image.addEventListener("error", () => image.replaceWith(tile(picture.name)));
      const item = element("label", { class: "strip-item" }, radio, image,
        element("span", { class: "visually-hidden", textContent: `${picture.name}: ` }),
        element("span", { class: "of-picture" }), element("span", { class: "score" }));
      this.#items.set(picture, item);
      byId("strip").append(item);
      this.update(picture);
    }
    return this.#items.get(picture);
  }
}

/** What stands for a picture that the browser cannot show; its name is read out anyway. */
function tile(name) {
  return element("span", { class: "tile", "aria-hidden": "true" }, element("span", { textContent: name }));
}
