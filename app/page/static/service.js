// The service's API, asked as any program asks it; its problems become a Refusal.

/** What the service, or the way to it, says instead of an answer. Status 0: it could not be reached. */
export class Refusal extends Error {
  constructor({ status, reason = "", detail = "", retryAfter = null }) {
    super(detail);
    Object.assign(this, { status, reason, detail, retryAfter });
  }

  /** Whether the same request may be accepted later. */
  get passes() {
    return this.status === 429 || this.status === 503;
  }
}

/** The address of `path` with the `query`, without what is empty. */
export function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  return url;
}

/** Asks the service with the keys of `keys`; when it wants another key, the person is asked for one. */
export class Service {
  constructor(keys) {
    this.keys = keys;
  }

  models() {
    return this.#ask("models", {});
  }

  links() {
    return this.#ask("./", {}, { headers: { Accept: "application/json" } });
  }

  classify(file, query, signal) {
    return this.#ask("classify", query, { method: "POST", body: form(file), signal });
  }

  explain(file, query, signal) {
    return this.#ask("explain", query, {
      method: "POST", body: form(file), signal, headers: { Accept: "application/json" },
    });
  }

  async #ask(path, query, request = {}) {
    for (;;) {
      const key = this.keys.key;
      const headers = { ...request.headers, ...(key ? { "X-API-Key": key } : {}) };
      let response;
      try {
        response = await fetch(address(path, query), { ...request, headers, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refusal({ status: 0 });
      }
      if (response.ok) return await content(response);
      const refusal = await refusalOf(response);
      const another = refusal.status === 401 && (await this.keys.askFor(key, request.signal));
      if (!another) throw refusal;
    }
  }
}

function form(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  return body;
}

async function content(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ status: 0 }); // it ended within the answer
  }
}

async function refusalOf(response) {
  const problem = await response.json().catch(() => ({})); // a proxy may answer with a page
  const seconds = Number(response.headers.get("Retry-After"));
  return new Refusal({
    status: response.status,
    reason: problem.reason,
    detail: problem.detail,
    retryAfter: Number.isFinite(seconds) && seconds > 0 ? seconds : null,
  });
}
