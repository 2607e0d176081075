// Model, resolution, number of classes and coverage: what the service offers, and what the person has chosen.

import { byId, element } from "./dom.js";

const LOADING_POLL_SECONDS = 2;

export class Options extends EventTarget {
  models = [];
  #service;

  constructor(service) {
    super();
    this.#service = service;
    for (const id of ["model", "resolution", "top-k", "coverage"]) {
      byId(id).addEventListener("change", () => this.#chosen(id));
    }
    byId("options").addEventListener("submit", (event) => event.preventDefault());
  }

  /** The chosen model as /models describes it. */
  get model() {
    return this.models.find((model) => model.name === byId("model").value) ?? this.models.find((model) => model.default);
  }

  /** The options of POST /classify; what is the default is left out. */
  get query() {
    const { model } = this;
    const topK = byId("top-k");
    const resolution = byId("resolution").value;
    return {
      top_k: topK.validity.valid ? topK.value : 5,
      model: model && !model.default ? model.name : "",
      resolution: model && resolution !== String(model.default_resolution) ? resolution : "",
      coverage: this.coverage ?? "",
      details: "branches",
    };
  }

  /** Whether the chosen resolution loads at its first request, and has not answered yet. */
  get loads() {
    const { loaded_resolutions: loaded = [] } = this.model ?? {};
    const resolution = Number(byId("resolution").value);
    return loaded.length > 0 && resolution > 0 && !loaded.includes(resolution);
  }

  /** Takes note that this resolution of a model is loaded. */
  answered({ name, resolution }) {
    this.models.find((model) => model.name === name)?.loaded_resolutions.push(resolution);
  }

  /** The coverage of the set of classes that is wanted, null for none. */
  get coverage() {
    return byId("coverage-option").hidden ? null : Number(byId("coverage").value) || null;
  }

  /** Fetches the models, again while one is loading. */
  async load() {
    const { models } = await this.#service.models();
    this.models = models;
    this.#showModels();
    this.#showResolutions();
    this.dispatchEvent(new Event("loaded"));
    if (models.some(({ state }) => state === "LOADING")) {
      setTimeout(() => this.load().catch(() => undefined), 1000 * LOADING_POLL_SECONDS);
    }
  }

  #chosen(id) {
    if (id === "model") this.#showResolutions();
    this.#offerCoverage();
    if (id === "top-k" && !byId(id).reportValidity()) return;
    this.dispatchEvent(new Event("change"));
  }

  #showModels() {
    const select = byId("model");
    const before = this.model?.name;
    select.replaceChildren(...this.models.map(({ name, state, reason }) => element("option", {
      value: name,
      textContent: state === "READY" ? name : `${name} (${state === "LOADING" ? "loading" : "not ready"})`,
      title: reason,
      disabled: state === "UNAVAILABLE",
      selected: name === before,
    })));
    byId("model-option").hidden = this.models.length < 2;
  }

  #showResolutions() {
    const { resolutions = [], default_resolution: usual, cascades = [] } = this.model ?? {};
    const select = byId("resolution");
    const offered = [...resolutions, ...(cascades.length ? ["auto"] : [])].map(String);
    const selected = offered.includes(select.value) ? select.value : String(usual);
    select.replaceChildren(...offered.map((side) => element("option", {
      value: side, textContent: side, selected: side === selected,
    })));
    select.disabled = offered.length < 2;
    byId("top-k").max = Math.min(50, this.model?.classes ?? 50);
    this.#offerCoverage();
  }

  /** Sets of classes are there where scores are calibrated for what answers, up to the largest fitted coverage. */
  #offerCoverage() {
    const { calibrations = [], precision } = this.model ?? {};
    const resolution = Number(byId("resolution").value);
    const fitted = calibrations.find((each) => each.resolution === resolution && each.precision === precision);
    const [least, most] = fitted?.coverages ?? [];
    byId("coverage-option").hidden = most === undefined;
    for (const option of byId("coverage").options) {
      option.disabled = option.value !== "" && !(option.value >= least && option.value <= most);
    }
    if (byId("coverage").selectedOptions[0]?.disabled) byId("coverage").value = "";
  }
}
