// Keys, limits and budgets of all tenants, for keys with the admin scope.
import * as api from "./api.js";
import { confirm, look } from "./dialogs.js";
import { at, h, row, show, table } from "./elements.js";
import { count, dollars, minute, percent, NOTHING } from "./words.js";

const COLUMNS = [
  { name: "tenant" }, { name: "key" }, { name: "state" }, { name: "requests today", kind: "number" }, { name: "dollars today", kind: "number" },
  { name: "dollars this month", kind: "number" }, { name: "limits" }, { name: "" },
];
const BUDGETS = [
  { name: "tenant" }, { name: "key" }, { name: "budget" }, { name: "used", kind: "number" }, { name: "share", kind: "number" }, { name: "resets", kind: "nowrap" },
];
const LIMITS = { requests_per_minute: "requests a minute", tokens_per_minute: "tokens a minute", concurrent_streams: "requests at once",
  dollars_per_day: "dollars a day", dollars_per_month: "dollars a month" };

/** What is done once something has changed. */
let changed = async () => {};

export function prepareKeys(act) {
  changed = act;
  at("new-key-button").addEventListener("click", newKey);
}

export async function showKeys(caller) {
  at("new-key-button").hidden = !caller.admin;
  if (!caller.admin) {
    const needed = caller.keys ? "This key may not manage keys: that takes one with the admin scope." : "Keys are off in this gateway.";
    return show(at("keys-body"), needed, () => h("p", { class: "note" }, needed));
  }
  const [{ usage }, { keys }, { budgets }] = await Promise.all([api.usage(), api.keys(), api.budgets()]);
  const states = Object.fromEntries(keys.map((key) => [key.id, key.state]));
  show(at("keys-body"), { usage, states, budgets }, () => [
    table("Keys and tenants", COLUMNS, usage.map((one) => usageRow(one, states))),
    budgets.length > 0 && h("h3", {}, "Budgets"),
    budgets.length > 0 && table("Budgets", BUDGETS, budgets.map(budgetRow)),
  ].filter(Boolean));
}

function usageRow(one, states) {
  const state = one.key ? states[one.key.id] || "user" : "";
  const who = one.key ? `${one.key.prefix} ${one.key.name}`.trim() : "all";
  const limits = Object.entries(one.limits).filter(([, value]) => value !== null).map(([name, value]) => `${count(value)} ${LIMITS[name]}`);
  const whose = one.key ? `key ${one.key.prefix}` : `tenant ${one.tenant}`;
  const button = (text, act) => h("button", { type: "button", class: "small", id: `${text}-${whose}`, "aria-label": `${text} of ${whose}`, click: act }, text);
  return row(COLUMNS, [one.tenant, who, state || NOTHING, count(one.today.requests), dollars(one.today.dollars), dollars(one.month.dollars),
    limits.join(", ") || NOTHING,
    state !== "user" && state !== "revoked" && h("span", { class: "row" }, button("Limits", () => setLimits(one, whose)),
      one.key && button("Revoke", () => revoke(one.key)))], { "data-owner": one.key ? one.key.prefix : one.tenant });
}

function budgetRow(one) {
  return row(BUDGETS, [one.tenant, one.key || "all", `${dollars(one.usd)} ${one.limit === "dollars_per_day" ? "a day" : "a month"}`, dollars(one.used_usd),
    h("span", { class: one.is_nearly_spent ? "bad" : "" }, percent(one.used_share)), minute(one.resets_unix * 1000)]);
}

const field = (name, label, attributes = {}) => [h("label", { for: name }, label), h("input", { id: name, name, autocomplete: "off", ...attributes })];

const limitFields = (limits) => Object.entries(LIMITS).flatMap(([name, label]) =>
  field(name, `At most ${label} (empty: no limit)`, { type: "number", min: 0, step: "any", value: limits[name] ?? "" }));

const given = (form) => Object.fromEntries(Object.keys(LIMITS).map((name) => [name, form[name] === "" ? null : Number(form[name])]));

async function newKey() {
  const form = await confirm("New key", [
    ...field("tenant", "Tenant", { required: true, autofocus: true }), ...field("name", "Name, for people to read", { maxlength: 100 }),
    ...limitFields({}),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "operator" }), " may move adapters"),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "admin" }), " may use the admin API"),
  ], "Create it");
  if (!form) return;
  const body = { tenant: form.tenant, name: form.name, limits: given(form), operator: form.operator === "on", admin: form.admin === "on" };
  const created = await carryOut(`creating a key of ${form.tenant}`, () => api.createKey(body));
  if (created) await look("The new key", [h("p", {}, "It is shown this once:"), h("p", {}, h("code", { id: "created-key" }, created.key))]);
}

async function setLimits(one, whose) {
  const form = await confirm(`Limits of ${whose}`, limitFields(one.limits), "Set them");
  if (form) await carryOut(`setting the limits of ${whose}`, () => (one.key ? api.limitKey(one.key.id, given(form)) : api.limitTenant(one.tenant, given(form))));
}

async function revoke(key) {
  const form = await confirm(`Revoke ${key.prefix}`, h("p", {}, "Gateways refuse it within a second. This cannot be undone."), "Revoke it");
  if (form) await carryOut(`revoking ${key.prefix}`, () => api.revokeKey(key.id));
}

async function carryOut(words, act) {
  let done = null;
  try {
    done = await act();
    at("keys-outcome").textContent = `Done: ${words}.`;
    at("keys-outcome").className = "outcome good";
  } catch (error) {
    at("keys-outcome").textContent = `Not done (${words}): ${error.message}`;
    at("keys-outcome").className = "outcome problem";
  }
  await changed();
  return done;
}
