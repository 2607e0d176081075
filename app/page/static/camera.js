// The camera, offered where there is one that this page may use (a secure context: https, or this machine).

import { byId } from "./dom.js";

const JPEG_QUALITY = 0.92;

export async function offerCamera(onFiles) {
  const devices = navigator.mediaDevices;
  if (!devices?.getUserMedia) return;
  const show = async () => {
    const found = await devices.enumerateDevices().catch(() => []);
    byId("open-camera").hidden = !found.some(({ kind }) => kind === "videoinput");
  };
  devices.addEventListener?.("devicechange", show);
  byId("open-camera").addEventListener("click", () => new Session(onFiles).open());
  await show();
}

/** One opening of the camera's dialog. */
class Session {
  #dialog = byId("camera-dialog");
  #video = byId("viewfinder");
  #problem = byId("camera-problem");
  #ended = new AbortController();
  #stream = null;

  constructor(onFiles) {
    this.onFiles = onFiles;
  }

  async open() {
    const { signal } = this.#ended;
    byId("take").disabled = true;
    this.#problem.hidden = true;
    byId("take").addEventListener("click", () => this.#take(), { signal });
    byId("close-camera").addEventListener("click", () => this.#dialog.close(), { signal });
    this.#dialog.addEventListener("close", () => this.#close(), { signal });
    this.#dialog.showModal();
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
      if (signal.aborted) return this.#stop(); // closed meanwhile
      this.#video.srcObject = this.#stream;
      await this.#video.play();
      byId("take").disabled = false;
    } catch (error) {
      if (signal.aborted) return;
      this.#problem.textContent = error.name === "NotAllowedError"
        ? "The browser does not let this page use the camera: allow it in the browser's settings for this page."
        : "The camera cannot be used now; another program may have it.";
      this.#problem.hidden = false;
    }
  }

  #take() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    canvas.toBlob((blob) => {
      this.#dialog.close();
      this.onFiles([new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" })]);
    }, "image/jpeg", JPEG_QUALITY);
  }

  #close() {
    this.#ended.abort();
    this.#stop();
  }

  #stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#video.srcObject = null;
  }
}
