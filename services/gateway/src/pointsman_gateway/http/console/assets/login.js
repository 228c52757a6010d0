// Single sign-on: authorization code with PKCE (RFC 7636). The gateway exchanges the code; the token is kept as a key is.
import * as api from "./api.js";

const PENDING = "pointsman-login";

const encode = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const random = () => encode(crypto.getRandomValues(new Uint8Array(32)));
const here = () => location.origin + location.pathname;

/** Sends the browser to the issuer, which sends it back to this page. */
export async function beginLogin({ endpoint, parameters }) {
  const pending = { state: random(), nonce: random(), verifier: random() };
  sessionStorage.setItem(PENDING, JSON.stringify(pending));
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(pending.verifier));
  const url = new URL(endpoint);
  const all = { ...parameters, response_type: "code", redirect_uri: here(), state: pending.state, nonce: pending.nonce,
    code_challenge: encode(digest), code_challenge_method: "S256" };
  for (const [name, value] of Object.entries(all)) url.searchParams.set(name, value);
  location.assign(url);
}

/** Ends a login if the issuer has sent the browser back. Returns the problem, or "". */
export async function endLogin() {
  const answer = new URLSearchParams(location.search);
  const pending = JSON.parse(sessionStorage.getItem(PENDING) || "null");
  if (!answer.has("state")) return "";
  sessionStorage.removeItem(PENDING);
  history.replaceState(null, "", here() + location.hash);
  if (!pending || answer.get("state") !== pending.state) return "The sign-in was not begun in this tab; begin again.";
  if (!answer.has("code")) return `The issuer refused the sign-in: ${answer.get("error")}`;
  try {
    const { verifier, nonce } = pending;
    const session = await api.logIn({ code: answer.get("code"), verifier, nonce, redirect_uri: here() });
    api.key.set(session.token);
    return "";
  } catch (error) {
    return error.message;
  }
}
