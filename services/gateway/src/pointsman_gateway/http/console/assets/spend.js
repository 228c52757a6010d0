// Spend: what requests have cost, by day, tenant, key, path or model, with filters and an export.
import * as api from "./api.js";
import { at, h, row, show, table } from "./elements.js";
import { count, dollars, percent, plural, NOTHING } from "./words.js";

const FIELDS = ["tenant", "key", "path", "model"];
const NAMELESS = { tenant: "no tenant", key: "no key", path: "no path (embeddings, reranking)", model: "none answered" };
const SUMS = ["requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "usd", "unknown_costs"];
const EXPORTED = ["day", ...FIELDS, ...SUMS];
const COLUMNS = [
  { name: "" }, { name: "requests", kind: "number" }, { name: "failed", kind: "number" }, { name: "tokens in", kind: "number" },
  { name: "of them cached", kind: "number" }, { name: "tokens out", kind: "number" }, { name: "dollars", kind: "number" },
  { name: "share", kind: "number" }, { name: "$ / 1,000", kind: "number" },
];

let spending = { days: [], rows: [], whole: false };
let names = {};

export function prepareSpend() {
  at("spend-days").addEventListener("change", () => readSpend().catch((error) => show(at("spend-body"), error.message, () => h("p", { class: "note problem" }, error.message))));
  at("spend-by").addEventListener("change", draw);
  for (const field of FIELDS) at(`spend-${field}`).addEventListener("change", draw);
  at("spend-export").addEventListener("click", save);
}

/** Reads the spending; `caller` has the rights. Called by the page now and then, and by the choice of days. */
export async function showSpend(caller, requestLog) {
  at("spend-form").hidden = requestLog !== "available";
  if (requestLog !== "available") {
    return show(at("spend-body"), requestLog, () => h("p", { class: "note" }, requestLog === "none"
      ? "This gateway runs without Redis, which adds spending up; set POINTSMAN_GATEWAY_REDIS_URL."
      : "Redis is unavailable; spending is shown again when it is back."));
  }
  if (caller.admin) names = Object.fromEntries((await api.keys()).keys.map((key) => [key.id, `${key.prefix} ${key.name}`.trim()]));
  await readSpend();
}

async function readSpend() {
  spending = await api.spending(at("spend-days").value);
  for (const field of FIELDS) offer(field);
  draw();
}

/** The choices of a filter; what was chosen stays. */
function offer(field) {
  const select = at(`spend-${field}`), values = [...new Set(spending.rows.map((one) => one[field]))].sort();
  show(select, [values, names], () => [h("option", { value: "" }, "all"),
    ...values.map((value) => h("option", { value: JSON.stringify(value), selected: JSON.stringify(value) === select.value }, label(field, value)))]);
}

const label = (field, value) => (field === "key" && names[value]) || value || NAMELESS[field] || value;

const chosen = () => spending.rows.filter((one) => FIELDS.every((field) => {
  const wanted = at(`spend-${field}`).value;
  return !wanted || one[field] === JSON.parse(wanted);
}));

function draw() {
  const by = at("spend-by").value, rows = chosen();
  at("spend-export").disabled = rows.length === 0;
  show(at("spend-body"), { by, rows, names, days: spending.days }, () => (rows.length ? [sentence(rows), bars(rows), grouped(rows, by)]
    : h("p", { class: "note" }, "No request in these days", spending.rows.length ? " fits the filters." : ": each request adds its tokens and dollars here within a second.")));
}

function sentence(rows) {
  const all = total(rows), unknown = all.unknown_costs ? `; ${plural(all.unknown_costs, "request")} had a part without a known price` : "";
  return h("p", { class: "note", id: "spend-total" }, h("b", {}, dollars(all.usd)), ` for ${plural(all.requests, "request")} in ${plural(spending.days.length, "day")} (UTC)`,
    `${spending.whole ? ", all tenants" : ""}${unknown}. Without shadow requests, judges and training.`);
}

function total(rows) {
  const sums = Object.fromEntries(SUMS.map((name) => [name, 0]));
  for (const one of rows) for (const name of SUMS) sums[name] += one[name];
  return sums;
}

function groups(rows, by) {
  const found = new Map();
  for (const one of rows) found.set(one[by], [...(found.get(one[by]) ?? []), one]);
  const all = [...found].map(([value, some]) => [value, total(some)]);
  return by === "day" ? all.sort(([one], [other]) => other.localeCompare(one)) : all.sort(([, one], [, other]) => other.usd - one.usd);
}

function grouped(rows, by) {
  const all = total(rows), columns = [{ name: by }, ...COLUMNS.slice(1)];
  const line = (name, sums, attributes) => row(columns, [name, count(sums.requests), sums.failed ? h("span", { class: "bad" }, count(sums.failed)) : "0",
    count(sums.prompt_tokens), count(sums.cached_tokens), count(sums.completion_tokens), dollars(sums.usd), all.usd ? percent(sums.usd / all.usd) : NOTHING,
    sums.requests > sums.unknown_costs ? dollars((sums.usd / sums.requests) * 1000).replace("$", "") : NOTHING], attributes);
  return table(`Spending by ${by}`, columns, [...groups(rows, by).map(([value, sums]) => line(label(by, value), sums, { "data-group": value })),
    line("together", all, { class: "sum" })]);
}

/** A bar for each day; the table by day has the same numbers. */
function bars(rows) {
  const byDay = new Map(groups(rows, "day")), usd = spending.days.map((day) => byDay.get(day)?.usd ?? 0), most = Math.max(...usd);
  const [first, last, dearest] = [spending.days[0], spending.days.at(-1), spending.days[usd.indexOf(most)]];
  const drawn = usd.map((one, number) => {
    const bar = h("span", { title: `${spending.days[number]}: ${dollars(one)}` });
    bar.style.height = `${most ? (one / most) * 100 : 0}%`;
    return bar;
  });
  return h("div", { class: "days", role: "img", "aria-label": `Dollars by day from ${first} to ${last}; the most, ${dollars(most)}, on ${dearest}` },
    h("div", { class: "bars" }, drawn),
    h("p", { class: "made" }, h("span", {}, first), h("span", {}, `most: ${dollars(most)} on ${dearest}`), h("span", {}, last)));
}

/** Saves the chosen rows as CSV, one for each day, tenant, key, path and model. */
function save() {
  const lines = [EXPORTED, ...chosen().map((one) => EXPORTED.map((name) => (name === "usd" ? one.usd.toFixed(12) : one[name])))];
  const text = lines.map((cells) => cells.map(cell).join(",")).join("\r\n");
  const url = URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" }));
  h("a", { href: url, download: `pointsman-spending-${spending.days[0]}-to-${spending.days.at(-1)}.csv` }).click();
  URL.revokeObjectURL(url);
}

/** A cell of CSV; text that a spreadsheet would take for a formula begins with an apostrophe. */
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
