// The page: pictures come in, the service is asked, one picture and its answer are looked at.

import { AnswerView } from "./answer_view.js";
import { offerCamera } from "./camera.js";
import { Classifier } from "./classifier.js";
import { announce, byId, element, percent } from "./dom.js";
import { takePictures } from "./intake.js";
import { Keys } from "./key.js";
import { MapView } from "./map_view.js";
import { Options } from "./options.js";
import { PictureStrip } from "./picture_strip.js";
import { sentencesOf } from "./sentences.js";
import { Refusal, Service } from "./service.js";

const keys = new Keys();
const service = new Service(keys);
const options = new Options(service);
const classifier = new Classifier(service, () => options.query);
const strip = new PictureStrip((picture) => select(picture));
const mapView = new MapView(classifier);
const answerView = new AnswerView({
  query: () => options.query,
  keyed: () => Boolean(keys.key),
  model: () => options.model,
  loads: () => options.loads,
  map: () => mapView.query,
  onClass: explainClass,
  onRetry: retry,
});
let selected = null;

takePictures(add, (problem) => notice("intake", problem));
offerCamera(add);
options.addEventListener("change", () => {
  showService();
  classifier.renew();
});
options.addEventListener("loaded", showService);
mapView.addEventListener("change", () => answerView.showMapRequest());
keys.addEventListener("change", () => { byId("change-key").hidden = false; });
byId("change-key").hidden = !keys.key;
byId("change-key").addEventListener("click", async () => { if (await keys.change()) start(); });
byId("cancel-key").addEventListener("click", () => byId("key-dialog").close("cancel"));
byId("remove").addEventListener("click", removeSelected);
classifier.addEventListener("change", ({ detail: picture }) => changed(picture));
start();

/** Asks what the service serves; a problem is shown, and the pictures can be asked for all the same. */
async function start() {
  keys.declined = false;
  notice("service");
  try {
    await options.load();
    const { service: name, docs } = await service.links();
    byId("about").replaceChildren(`${name}. `, docs ? element("a", { href: docs, textContent: "The interface for programs" }) : "");
  } catch (error) {
    const refusal = error instanceof Refusal ? error : new Refusal({ status: 0 });
    const { first, detail } = sentencesOf(refusal);
    const again = element("button", { type: "button", class: "button", textContent: refusal.status === 401 ? "Type a key" : "Try again" });
    again.addEventListener("click", start);
    notice("service", [first, detail].join(" ").trim(), again);
  }
}

function showService() {
  const { model } = options;
  const loading = model?.state !== "READY" ? model?.reason || `${model?.name} is loading.` : "";
  const text = loading || model?.warning || "";
  if (text !== (byId("notice-model")?.textContent ?? "")) notice("model", text); // one that is read out is not repeated
}

function retry(picture) {
  keys.declined = false;
  classifier.renew([picture]);
}

function add(files) {
  keys.declined = false;
  notice("intake");
  const [first] = classifier.add(files);
  byId("workspace").hidden = false;
  document.body.classList.add("with-pictures");
  select(first);
  byId("picture-name").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function select(picture) {
  selected = picture;
  strip.show(classifier.pictures, picture);
  byId("picture-name").textContent = byId("picture-name").title = picture.name; // a long one is cut on the screen
  show(picture);
}

function show(picture) {
  answerView.show(picture);
  mapView.show(picture, picture.answer?.predictions[picture.explained]?.index ?? null);
}

function changed(picture) {
  strip.update(picture);
  if (picture.answer) options.answered(picture.answer.model);
  if (picture === selected) show(picture);
  tell(picture);
}

function tell({ name, state, answer, refusal, againAt }) {
  if (state === "answered" && !againAt) {
    const [best] = answer.predictions;
    announce(`${name}: ${best.label}, ${percent(best.score, 0)}.`);
  } else if (state === "busy") {
    announce(`${name}: ${sentencesOf(refusal).first} The page asks again.`);
  }
}

function explainClass(picture, number) {
  picture.explained = number;
  show(picture);
  answerView.showMapRequest();
}

function removeSelected() {
  const { pictures } = classifier;
  const place = pictures.indexOf(selected);
  classifier.remove(selected);
  const next = classifier.pictures[Math.min(place, classifier.pictures.length - 1)];
  if (next) {
    select(next);
    byId("picture-name").focus({ preventScroll: true });
    return;
  }
  selected = null;
  strip.show([], null);
  byId("workspace").hidden = true;
  document.body.classList.remove("with-pictures");
  byId("choose").focus();
}

/** Shows `text` as the notice of this kind, instead of an earlier one; without a text there is none. */
function notice(kind, text = "", ...more) {
  const id = `notice-${kind}`;
  byId(id)?.remove();
  if (text) byId("notices").append(element("div", { id, class: "notice", role: "alert" }, element("p", { textContent: text }), ...more));
}
