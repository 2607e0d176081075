// How pictures come in: dropped, pasted, chosen, or one of those that ship with the service.

import { byId } from "./dom.js";

/** Calls `onFiles` with the pictures that the person gives, and `onProblem` with a sentence where there are none. */
export function takePictures(onFiles, onProblem) {
  byId("choose").addEventListener("change", ({ target }) => {
    if (target.files.length) onFiles(target.files);
    target.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea, dialog")) return;
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) onFiles(files.map((file, number) => named(file, "pasted", number)));
    else if (event.clipboardData?.types.length) onProblem("There is no picture in the clipboard: copy one first.");
  });
  byId("samples").addEventListener("click", (event) => takeSample(event, onFiles, onProblem));
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("paste-keys").textContent = "⌘ V";
  takeDropped(onFiles, onProblem);
}

async function takeSample(event, onFiles, onProblem) {
  const button = event.target.closest("button[data-file]");
  if (!button) return;
  try {
    const response = await fetch(button.querySelector("img").src);
    const picture = await response.blob();
    onFiles([new File([picture], button.dataset.file, { type: "image/jpeg" })]);
  } catch {
    onProblem("The picture could not be fetched: the service does not answer. It may have been stopped.");
  }
}

function takeDropped(onFiles, onProblem) {
  const veil = byId("drop-veil");
  const show = (shown) => { veil.hidden = !shown; };
  addEventListener("dragenter", (event) => show(event.dataTransfer?.types.length > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) show(false); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    show(false);
    const items = [...event.dataTransfer.items];
    const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
    const files = [...event.dataTransfer.files].filter((file) => !folders.some((item) => item.getAsFile()?.name === file.name));
    if (files.length) onFiles(files);
    else if (folders.length) onProblem("This is a folder: open it, and drop the pictures in it.");
    else onProblem("This is an address and not a file: copy the picture itself and paste it, or save it and drop the file.");
  });
}

/** A pasted file with a name of its own; browsers call all of them image.png. */
function named(file, name, number) {
  const suffix = file.name.includes(".") ? file.name.split(".").at(-1) : "png";
  return new File([file], `${name}${number ? `-${number + 1}` : ""}.${suffix}`, { type: file.type });
}
