// The answer for one picture: bars, what they mean in words, where the time went, and the request to copy.

import { announce, byId, element, milliseconds, percent } from "./dom.js";
import { listed, sentencesOf } from "./sentences.js";
import { curl, curlMap, python } from "./snippets.js";

const MOST_NAMED = 10; // classes of a set
const STAGES = [["decode", "decoding"], ["queue", "waiting"], ["inference", "inference"]];

export class AnswerView {
  #context; // {query, keyed, model, loads, map, onClass, onRetry}
  #countdown = 0;
  #shown = null; // [picture, state, answer]
  #mapCode = null; // with the command for the heat-map

  constructor(context) {
    this.#context = context;
  }

  /** Shows what there is for `picture`; nothing changes if that is there already. */
  show(picture) {
    const { state, answer, refusal } = picture;
    const now = [picture, state, answer, state === "answered" ? null : refusal]; // a map may be refused then
    if (this.#shown?.every((value, index) => value === now[index])) return;
    this.#shown = now;
    clearInterval(this.#countdown);
    byId("answer").setAttribute("aria-busy", String(picture.state === "asking" || picture.state === "waiting"));
    byId("answer").replaceChildren(...this.#content(picture));
  }

  /** Has the request for the heat-map ask for the one that is on the screen. */
  showMapRequest() {
    const [picture, state] = this.#shown ?? [];
    if (state === "answered") this.#mapCode.querySelector("code").textContent = this.#mapCommand(picture);
  }

  #content(picture) {
    if (picture.state === "answered") return this.#answered(picture);
    if (picture.state === "refused") return [this.#refused(picture)];
    if (picture.state === "busy") return [this.#busy(picture)];
    return [waiting(this.#context.loads())];
  }

  #answered(picture) {
    const { answer } = picture;
    const [best] = answer.predictions;
    return [
      element("p", { class: "best" }, element("strong", { textContent: best.label }),
        element("span", { textContent: percent(best.score) })),
      this.#bars(picture),
      element("ul", { class: "words" }, ...words(answer, this.#context.model()).map((text) => element("li", { textContent: text }))),
      timings(answer.timing_ms, picture.seconds),
      this.#request(picture),
      details("The answer as JSON", code(JSON.stringify(answer, null, 2), "JSON")),
    ];
  }

  #bars(picture) {
    const rows = picture.answer.predictions.map((prediction, number) => {
      const radio = element("input", {
        type: "radio", name: "class", value: prediction.index, class: "visually-hidden",
        checked: picture.explained === number,
      });
      radio.addEventListener("change", () => this.#context.onClass(picture, number));
      const fill = element("i");
      fill.style.width = `${100 * prediction.score}%`; // of certainty, so that bars of several pictures compare
      return element("label", { class: "bar", title: prediction.wnid ?? "" }, radio,
        element("span", { class: "bar-label", textContent: prediction.label }),
        element("span", { class: "bar-score", textContent: percent(prediction.score) }),
        element("span", { class: "track", "aria-hidden": "true" }, fill));
    });
    return element("fieldset", { class: "bars" }, element("legend", { class: "visually-hidden", textContent: "Classes; the heat-map is of the chosen one" }), ...rows);
  }

  #request(picture) {
    const { query, keyed } = this.#context;
    const asked = [query(), picture.name, keyed()];
    this.#mapCode = code(this.#mapCommand(picture), "curl, for the heat-map");
    return details("The same request from a program",
      code(curl(...asked), "curl"), code(python(...asked), "Python"),
      this.#mapCode);
  }

  #mapCommand(picture) {
    const { name: model, resolution } = picture.answer.model; // /explain knows no resolution=auto
    const { index } = picture.answer.predictions[picture.explained];
    const query = { model, resolution, class: index, ...this.#context.map() };
    return curlMap(query, picture.name, this.#context.keyed());
  }

  #refused(picture) {
    const { first, detail } = sentencesOf(picture.refusal);
    const again = element("button", { type: "button", class: "button", textContent: "Try again" });
    again.addEventListener("click", () => this.#context.onRetry(picture));
    return element("div", { class: "problem", role: "alert" },
      element("p", {}, element("strong", { textContent: first })),
      detail && element("p", { textContent: detail }), again);
  }

  #busy(picture) {
    const { first, detail } = sentencesOf(picture.refusal);
    const when = element("p", { class: "when" });
    const tell = () => {
      const seconds = Math.max(0, Math.ceil((picture.againAt - Date.now()) / 1000));
      when.textContent = `The page asks again in ${seconds} s.`;
    };
    tell();
    this.#countdown = setInterval(tell, 500);
    const now = element("button", { type: "button", class: "button", textContent: "Ask now" });
    now.addEventListener("click", () => picture.again?.());
    return element("div", { class: "problem busy" },
      element("p", {}, element("strong", { textContent: first })), detail && element("p", { textContent: detail }), when, now);
  }
}

/** Bars to come; `loads` says that what is asked for loads first. */
function waiting(loads) {
  return element("div", { class: "skeleton" },
    element("p", { class: loads ? "small" : "visually-hidden", textContent: loads
      ? "This resolution loads at its first request, which takes a while."
      : "The service looks at the picture." }),
    ...Array.from({ length: 5 }, () => element("i", { "aria-hidden": "true" })));
}

/** What the answer means, as sentences. */
function words(answer, model) {
  const found = [];
  const [best] = answer.predictions;
  if (answer.prediction_set) found.push(setWords(answer.prediction_set));
  if (answer.model.calibrated) {
    found.push(`Calibrated: of answers with a score like this one, about ${percent(best.score, 0)} are right, on pictures like those of the calibration.`);
  } else if (answer.model.calibrated === false) {
    found.push(`Not calibrated: scores rank the classes, but ${percent(best.score, 0)} does not mean that answers with such a score are right that often. The operator of the service can calibrate it with crossvit calibrate.`);
  }
  if (model?.activation === "sigmoid") found.push("Each class has a score of its own: they do not add up to 100 %.");
  if (answer.branches) found.push(branchWords(answer.branches));
  if (answer.step) found.push(`Answered by step ${answer.step.number} of ${answer.step.of} of a cascade.`);
  const { name, resolution, engine, precision } = answer.model;
  found.push(`${name} at ${resolution}, ${engine} in ${precision}.`);
  return found;
}

function setWords({ coverage, classes }) {
  const names = classes.slice(0, MOST_NAMED).map(({ label }) => label);
  const more = classes.length - names.length;
  const set = classes.length === 1 ? `only ${names[0]}` : `${classes.length} classes: ${listed(more ? [...names, `${more} more`] : names)}`;
  return `Sets made like this one hold the right class of ${percent(coverage, 0)} of pictures like those of the calibration. This one has ${set}.`;
}

function branchWords({ small, large, disagreement }) {
  const bits = `${disagreement.toFixed(2)} of 1 bit apart`;
  return small.index === large.index
    ? `Both scales say ${small.label} (${bits}).`
    : `Small patches alone say ${small.label}, large ones ${large.label} (${bits}).`;
}

function timings(timing, seconds) {
  const known = STAGES.map(([key, name]) => [key, name, timing[key] ?? 0]);
  const rest = Math.max(0, timing.total - known.reduce((sum, [, , value]) => sum + value, 0));
  const parts = [...known, ["rest", "the rest", rest]];
  const strip = element("div", { class: "time-strip", "aria-hidden": "true" }, ...parts.map(([key, , value]) => {
    const part = element("i", { class: `of-${key}` });
    part.style.flexGrow = Math.max(value, 0.001);
    return part;
  }));
  const list = element("ul", {}, ...parts.map(([key, name, value]) =>
    element("li", {}, element("i", { class: `dot of-${key}`, "aria-hidden": "true" }), `${name} ${milliseconds(value)}`)));
  return element("section", { class: "timings", "aria-label": "Time" },
    element("p", { textContent: `Answered in ${milliseconds(timing.total)}; ${milliseconds(1000 * seconds)} with the way there and back` }), strip, list);
}

function details(summary, ...content) {
  return element("details", {}, element("summary", { textContent: summary }), ...content);
}

function code(text, name) {
  const shown = element("code", { textContent: text });
  const copy = element("button", { type: "button", class: "quiet copy", textContent: "Copy", "aria-label": `Copy ${name}` });
  copy.addEventListener("click", async () => {
    await copied(shown.textContent);
    copy.textContent = "Copied";
    announce(`${name} is in the clipboard.`);
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  return element("div", { class: "code" }, element("p", { class: "code-name", textContent: name }), copy,
    element("pre", { tabIndex: 0, role: "region", "aria-label": name }, shown));
}

/** Puts `text` into the clipboard; by a selection where the API is missing (outside of secure contexts) or closed. */
async function copied(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch { /* as below */ }
  const field = element("textarea", { value: text, class: "visually-hidden" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
