// What went wrong, and what would help, as sentences.

const BY_STATUS = {
  0: "The service does not answer. It may have been stopped, or the connection to it is gone.",
  400: "The service could not read the request.",
  401: "The service needs a key that it knows.",
  403: "The service does not allow this.",
  404: "The service does not have this.",
  408: "The picture took too long to arrive.",
  413: "The picture is larger than the service takes.",
  415: "This is not a picture that the service can read.",
  422: "The service could not use this.",
  429: "The service is busy.",
  500: "The service failed.",
  503: "The service is not ready.",
  504: "The answer took too long.",
};

/** The sentences for `refusal`: what happened, and the service's own words. */
export function sentencesOf(refusal) {
  const first = refusal.reason === "BadImage"
    ? "This picture is broken, or not quite a picture."
    : BY_STATUS[refusal.status] ?? `The service answered with status ${refusal.status}.`;
  return { first, detail: sentence(refusal.detail) };
}

/** `text` with a capital letter and a full stop. */
export function sentence(text) {
  const trimmed = (text ?? "").trim();
  if (!trimmed) return "";
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

/** The names of `items` in a row: "a, b and c". */
export function listed(items) {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}
