// The picture with its heat-map, and what both say in words.

import { byId, chosen, percent } from "./dom.js";
import { draw, field, strongestPlace } from "./heat_map.js";
import { Refusal } from "./service.js";
import { sentencesOf } from "./sentences.js";

const PATCHES = { small: "small patches", large: "large patches", both: "both scales" };

export class MapView {
  #classifier;
  #picture = null;
  #index = null; // of the class that is explained
  #drawn = null; // what the canvas shows: values and the picture's geometry

  constructor(classifier) {
    this.#classifier = classifier;
    for (const id of ["branch", "kind"]) byId(id).addEventListener("change", () => this.#show());
    byId("opacity").addEventListener("input", () => this.#setOpacity());
    byId("picture").addEventListener("error", () => this.#preview(false));
    byId("picture").addEventListener("load", ({ target }) => {
      target.style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
      this.#preview(true);
    });
    new ResizeObserver(() => this.#redraw()).observe(byId("picture"));
    this.#setOpacity();
  }

  /** Shows `picture`, with the map of the class called `index` once it has an answer. */
  show(picture, index) {
    if (picture !== this.#picture) {
      byId("picture").src = picture.url;
      byId("picture").alt = picture.name;
      byId("no-preview").hidden = true;
    }
    this.#picture = picture;
    this.#index = index;
    this.#show();
  }

  async #show() {
    const branch = chosen("branch");
    const picture = this.#picture;
    byId("map-controls").hidden = picture?.state === "refused";
    const off = branch === "off" || picture?.state !== "answered";
    byId("kind").hidden = byId("opacity-option").hidden = branch === "off";
    if (off) {
      byId("map-words").hidden = true;
      return this.#clear();
    }
    const index = this.#index;
    const current = () => picture === this.#picture && index === this.#index && chosen("branch") !== "off";
    const late = setTimeout(() => current() && this.#say("The service makes the map…", false), 250);
    try {
      const explained = await this.#classifier.explain(picture, index);
      clearTimeout(late);
      if (current()) this.#draw(explained);
    } catch (error) {
      clearTimeout(late);
      if (!current()) return;
      this.#clear();
      const { first, detail } = sentencesOf(error instanceof Refusal ? error : new Refusal({ status: 0 }));
      const missing = error.status === 404 || error.status === 405;
      this.#say(missing ? "This service makes no heat-maps: it has no /explain." : `No heat-map: ${detail || first}`, false);
    }
  }

  #draw(explained) {
    const branch = chosen("branch");
    const kind = chosen("kind");
    const [explanation] = explained.explanations;
    const branches = branch === "both" ? ["small", "large"] : [branch];
    const grids = branches.map((name) => kind === "attention" ? explained.attention[name] : explanation.contributions[name].grid);
    this.#drawn = { values: field(grids), picture: explained.picture };
    byId("picture").classList.add("under-map");
    byId("overlay").hidden = false;
    byId("overlay").setAttribute("role", "img");
    byId("overlay").setAttribute("aria-label",
      `Heat-map of ${PATCHES[branch]} for ${explanation.label}: strongest ${strongestPlace(this.#drawn.values)}`);
    this.#redraw();
    byId("legend").classList.toggle("of-attention", kind === "attention");
    this.#say(kind === "attention" ? attentionWords(grids, branch) : contributionWords(explanation, branches), true);
  }

  #say(text, legend) {
    byId("map-words").hidden = false;
    byId("legend").hidden = !legend;
    if (byId("map-sentence").textContent !== text) byId("map-sentence").textContent = text;
  }

  #clear() {
    this.#drawn = null;
    byId("overlay").hidden = true;
    byId("picture").classList.remove("under-map");
  }

  #redraw() {
    if (!this.#drawn) return;
    const image = byId("picture");
    const canvas = byId("overlay");
    const ratio = Math.min(devicePixelRatio || 1, 2);
    for (const [side, length] of [["width", image.clientWidth], ["height", image.clientHeight]]) {
      canvas[side] = Math.max(1, Math.round(length * ratio));
      canvas.style[side] = `${length}px`;
    }
    draw(canvas, this.#drawn.values, this.#drawn.picture);
  }

  #setOpacity() {
    byId("overlay").style.opacity = byId("opacity").value / 100;
  }

  #preview(shown) {
    byId("picture").classList.toggle("broken", !shown);
    byId("no-preview").hidden = shown;
  }
}

function contributionWords({ label, logit, contributions }, branches) {
  const parts = branches.map((name) => `${PATCHES[name]} give ${signed(contributions[name].share)}`);
  return `What speaks for “${label}”, and what against it. Of its logit, ${logit.toFixed(1)}, ${parts.join(" and ")}.`;
}

/** A share with its sign: "+31 %". */
function signed(share) {
  return `${share < 0 ? "−" : "+"}${percent(Math.abs(share), 0)}`;
}

function attentionWords(grids, branch) {
  const sides = grids.map((grid) => `${grid.length} × ${grid.length}`).join(" and ");
  return `Where the last fusion looks with ${PATCHES[branch]} (${sides}), whatever the class.`;
}
