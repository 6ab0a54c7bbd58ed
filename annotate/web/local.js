// Requests from a page to its own server, with the token of its address.

const TOKEN_KEY = "annotate-token";

// The token is in the fragment, which is never sent; it is kept for reloads of this tab only.
const token = new URLSearchParams(location.hash.slice(1)).get("t");
try {
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
} catch { /* a private window without storage: the address keeps the token */ }
const stored = (() => { try { return sessionStorage.getItem(TOKEN_KEY); } catch { return null; } })();
if (token && stored) history.replaceState(null, "", location.pathname);

/** The server refused or failed; `status` is that of HTTP, 0 where no server answered. */
export class ServerError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) { super(message); this.status = status; }
}

/**
 * Request a path; with a record, POST it as JSON.
 * @param {string} path @param {unknown} [record] @param {AbortSignal} [signal]
 * @param {boolean} [keepalive] send it also when the page is closing
 * @returns {Promise<Response>} an answer of status 200
 */
export async function call(path, record, signal, keepalive = false) {
  const headers = { "X-Annotate-Token": token || stored || "" };
  const options = { headers, signal, keepalive };
  if (record !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(record) });
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "the server does not answer: was it stopped? Start it again");
  }
  if (answer.status === 401) {
    throw new ServerError(401, "this page is of a server that was stopped: open the address that "
      + "the command printed");
  }
  if (!answer.ok) throw new ServerError(answer.status, await answer.text());
  return answer;
}

/** Fetch an image and return a URL of it for an <img>. @param {string} path */
export async function blobUrl(path) {
  return URL.createObjectURL(await (await call(path)).blob());
}
