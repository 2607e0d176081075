// The picture with its heat-map, and what both say in words.

import { byId, chosen, percent } from "./dom.js";
import { draw, field, strongestPlace } from "./heat_map.js";
import { Refusal } from "./service.js";
import { sentencesOf } from "./sentences.js";

const PATCHES = { small: "small patches", large: "large patches", both: "both scales" };
const MOSTLY_EXPLAINED = 0.5; // of what makes a logit; a map of less is to be read with care

/** A "change" event says that another map is chosen. */
export class MapView extends EventTarget {
  #classifier;
  #picture = null;
  #index = null; // of the class that is explained
  #drawn = null; // what the canvas shows: values and the picture's geometry

  constructor(classifier) {
    super();
    this.#classifier = classifier;
    for (const id of ["branch", "kind"]) byId(id).addEventListener("change", () => this.#show());
    for (const id of ["branch", "kind", "opacity"]) byId(id).addEventListener("input", () => this.dispatchEvent(new Event("change")));
    byId("opacity").addEventListener("input", () => this.#setOpacity());
    byId("picture").addEventListener("error", () => this.#preview(false));
    byId("picture").addEventListener("load", ({ target }) => {
      target.style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
      this.#preview(true);
    });
    new ResizeObserver(() => this.#redraw()).observe(byId("picture"));
    this.#setOpacity();
  }

  /** The options of POST /explain for the PNG of the chosen map; of both branches while none is shown. */
  get query() {
    const branch = chosen("branch");
    return { branch: branch === "off" ? "both" : branch, map: chosen("kind"), opacity: byId("opacity").value / 100 };
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
    this.#say(kind === "attention" ? attentionWords(grids, branch) : contributionWords(explanation), true);
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

/** A share is a map's sum by the sizes of all that makes the logit, so what both maps lack to 100 % is the rest's. */
function contributionWords({ label, logit, contributions: { small, large } }) {
  const given = Math.abs(small.share) + Math.abs(large.share);
  const care = given < MOSTLY_EXPLAINED ? ": read the map with care" : "";
  return `What speaks for “${label}”, and what against it. The last fusion's patches are ${percent(given, 0)} of all that went ` +
    `into its logit, ${logit.toFixed(1)}, for and against (small ${signed(small.share)}, large ${signed(large.share)}); ` +
    `the other ${percent(1 - given, 0)} came from elsewhere${care}.`;
}

/** A share with its sign: "+31 %". */
function signed(share) {
  return `${share < 0 ? "−" : "+"}${percent(Math.abs(share), 0)}`;
}

function attentionWords(grids, branch) {
  const sides = grids.map((grid) => `${grid.length} × ${grid.length}`).join(" and ");
  return `Where the last fusion looks with ${PATCHES[branch]} (${sides}), whatever the class.`;
}
