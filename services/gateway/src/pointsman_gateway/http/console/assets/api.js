// What the gateway is asked. The key lives in this tab's session and goes with every request.

const KEY = "pointsman-key";

export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** The answer's response; throws Refused with the gateway's own words, or a TypeError where it cannot be reached. */
export async function send(path, body, signal, method = body === undefined ? "GET" : "POST") {
  const headers = { "x-pointsman-console": "1" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, credentials: "omit" });
  if (response.ok) return response;
  const failure = await response.json().catch(() => null);
  throw new Refused(response.status, failure?.error ?? { message: `the gateway answered ${response.status}`, code: "" });
}

export const read = async (path, body) => (await send(path, body)).json();

const admin = async (path, body, method) => (await send(`admin/v1/${path}`, body, undefined, method)).json();

export const login = () => read("console/api/login");
export const logIn = (body) => read("console/api/login", body);
export const keys = () => admin("keys");
export const usage = () => admin("usage");
export const budgets = () => admin("budgets");
export const configuration = () => admin("config");
export const audit = () => admin("audit?days=30&limit=50");
export const createKey = (body) => admin("keys", body);
export const limitKey = (key, limits) => admin(`keys/${encodeURIComponent(key)}`, { limits }, "PATCH");
export const limitTenant = (tenant, limits) => admin(`tenants/${encodeURIComponent(tenant)}`, { limits }, "PATCH");
export const revokeKey = (key) => admin(`keys/${encodeURIComponent(key)}`, undefined, "DELETE");
export const overview = () => read("console/api/overview");
export const adapters = () => read("console/api/adapters");
export const decisions = (query) => read(`console/api/decisions?${new URLSearchParams(query)}`);
export const spending = (days) => read(`console/api/spending?days=${days}`);
export const decision = (id) => read(`console/api/decisions/${encodeURIComponent(id)}`);
export const move = (step, body) => read(`console/api/adapters/${step}`, body);
export const metrics = async () => (await send("metrics")).text();
export const route = (body) => read("v1/route", body);
export const feedback = (body) => read("v1/feedback", body);
