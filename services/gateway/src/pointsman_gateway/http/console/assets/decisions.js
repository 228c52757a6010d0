// The decisions: a list that grows at its top, and each of them whole.
import * as api from "./api.js";
import { look } from "./dialogs.js";
import { MOST, compareStored } from "./stored_answers.js";
import { at, h, row, show, table } from "./elements.js";
import { points } from "./points.js";
import { count, dollars, pathName, percent, plural, seconds, time, two, NOTHING } from "./words.js";

const COLUMNS = [
  { name: "when" }, { name: "task" }, { name: "path" }, { name: "reason" }, { name: "conf.", kind: "number" }, { name: "outcome" },
  { name: "TTFT", kind: "number" }, { name: "total", kind: "number" }, { name: "dollars", kind: "number" }, { name: "request", kind: "asked" },
  { name: "compare", kind: "number" },
];
const PAGE = 25;
/** The longest list that is read anew at each turn. */
const MAX_LIST = 200;
const FILTERS = ["text", "task", "path", "ending"];

let pages = 1;
/** The list as it was read last, and where older decisions are. */
let newest = { found: [], next: "" };
let kinds = new Map();
/** What a search has found, and where it goes on; null without a search. */
let search = null;
/** The ids of the decisions whose answers are to be compared. */
const picked = new Set();

export function knowKinds(overview) {
  kinds = new Map(overview.paths.map((path) => [path.path, path.kind]));
  offer("find-task", [...overview.tasks.map((task) => task.task), "unknown"]);
  offer("find-path", overview.paths.map((path) => path.path));
}

function offer(id, names) {
  const before = at(id).value;
  show(at(id), names, () => ["", ...names].map((name) => h("option", { value: name, selected: name === before }, name || "all")));
}

export function prepareDecisions(refresh) {
  at("older-button").addEventListener("click", () => older(refresh));
  at("find-form").addEventListener("submit", (event) => { event.preventDefault(); begin(refresh); });
  at("find-form").addEventListener("change", () => begin(refresh));
  at("find-form").addEventListener("reset", () => setTimeout(() => begin(refresh)));
  at("compare-button").addEventListener("click", () => compareStored([...picked]));
}

const wanted = () => Object.fromEntries(FILTERS.map((name) => [name, at(`find-${name}`).value.trim()]).filter(([, value]) => value));

/** Begins a search, or ends it if there is nothing to search for. */
async function begin(refresh) {
  const query = wanted();
  search = Object.keys(query).length ? { query, found: [], next: "" } : null;
  at("find-status").textContent = search ? "Searching …" : "";
  await (search ? find("") : refresh());
}

/** Shows one more page. From where the list no longer grows, it stands still, as the result of a search for everything. */
async function older(refresh) {
  if (!search && pages * PAGE < MAX_LIST && !newest.next.startsWith("records:")) { pages += 1; return refresh(); }
  search ??= { query: {}, ...newest };
  at("older-button").disabled = true;
  at("find-status").textContent = "Searching …";
  await find(search.next);
  at("older-button").disabled = false;
}

/** Searches in entries older than `before`. What is found stays, since others may come meanwhile. */
async function find(before) {
  const mine = search;
  try {
    const { decisions, next, since_unix_ms: since } = await api.decisions({ ...mine.query, before, count: PAGE });
    if (mine !== search) return; // something else is searched for meanwhile
    const known = new Set(mine.found.map((one) => one.id));
    Object.assign(mine, { found: [...mine.found, ...decisions.filter((one) => !known.has(one.id))], next });
    list(mine.found, "No decision fits.");
    at("find-status").textContent = `${plural(mine.found.length, "decision")} found ${next ? `since ${time(since)}; older ones are not searched yet` : "in the whole request log"}.`;
    at("older-button").hidden = !next;
  } catch (error) {
    at("find-status").textContent = error.message;
  }
}

/** Reads as many as are shown, so that the list neither jumps nor has gaps. What a search has found stays as it is. */
export async function showDecisions() {
  at("find-form").hidden = false;
  if (search) return;
  const { decisions, next } = await api.decisions({ count: Math.min(MAX_LIST, pages * PAGE) });
  if (search) return; // begun meanwhile
  list(decisions, "There is no decision yet. ", h("a", { href: "#ask" }, "Ask something"), ", or send a request to /v1/chat/completions.");
  newest = { found: decisions, next };
  at("older-button").hidden = !next;
}

function list(decisions, ...none) {
  show(at("decisions-body"), decisions, () => decisions.length
    ? table("Decisions, the newest first", COLUMNS, decisions.map(decisionRow)) : h("p", { class: "note" }, none));
  countPicked();
}

export function noDecisions(problem) {
  show(at("decisions-body"), problem, () => h("p", { class: "note" }, problem));
  at("older-button").hidden = at("find-form").hidden = true;
}

function pick(id, box) {
  if (box.checked && picked.size >= MOST) {
    box.checked = false;
    at("find-status").textContent = `At most ${MOST} answers can be compared at once.`;
  } else if (box.checked) picked.add(id);
  else picked.delete(id);
  countPicked();
}

function countPicked() {
  at("compare-button").hidden = picked.size === 0;
  at("compare-button").disabled = picked.size < 2;
  at("compare-button").textContent = picked.size < 2 ? `Compare answers (choose ${2 - picked.size} more)` : `Compare ${picked.size} answers`;
}

function decisionRow(one) {
  const answered = one.outcome !== "routed";
  return row(COLUMNS, [
    h("button", { type: "button", class: "link", id: `show-${one.id}`, "aria-label": `Decision at ${time(one.unix_ms)}, ${one.path}`, click: () => whole(one.id) }, time(one.unix_ms)),
    one.reason === "forced" ? h("span", { class: "faint" }, "path named") : one.task, pathName(one.path, one.kind), one.reason,
    one.reason === "forced" ? NOTHING : two(one.confidence),
    h("span", { class: one.outcome === "ok" ? "good" : answered && one.outcome !== "cancelled" ? "bad" : "faint" }, one.outcome),
    seconds(one.first_token || null), seconds(answered ? one.seconds : null), answered ? dollars(one.cost_usd) : NOTHING,
    h("span", { class: one.text ? "" : "faint" }, one.text || "not stored"),
    answered ? h("input", { type: "checkbox", id: `pick-${one.id}`, checked: picked.has(one.id), "aria-label": `Compare the answer of ${one.path} at ${time(one.unix_ms)}`,
      change: (event) => pick(one.id, event.currentTarget) }) : "",
  ], { "data-decision": one.id, click: (event) => { if (!event.target.closest("button, input")) whole(one.id); } });
}

/** Opens the decision that the address names: #decision=ID. */
export function openNamed() {
  const open = () => {
    const id = new URLSearchParams(location.hash.slice(1)).get("decision");
    if (id) whole(id);
  };
  window.addEventListener("hashchange", open);
  open();
}

export const link = (id, words) => h("a", { href: `#decision=${encodeURIComponent(id)}` }, words);

async function whole(id) {
  history.replaceState(null, "", `#decision=${encodeURIComponent(id)}`);
  try {
    const { entry, feedback } = await api.decision(id);
    await look("Decision", content(entry, feedback));
  } catch (error) {
    await look("Decision", h("p", { class: "problem" }, error.message));
  }
  history.replaceState(null, "", "#decisions");
}

/** The tokens of special kinds, the service tier, and whether the numbers are an estimate. */
const details = (of = {}) => Object.entries(of).map(([name, value]) =>
  name === "is_estimate" ? "estimated" : `${name.replaceAll("_", " ")} ${typeof value === "number" ? count(value) : value}`).join(", ");

function content(entry, feedback) {
  const known = new Map(kinds).set(entry.path, entry.kind);
  const facts = {
    id: entry.id, when: time(entry.unix_ms), requested: entry.requested, task: entry.reason === "forced" ? "none: the request named its path" : entry.task, path: entry.path, reason: entry.reason,
    confidence: entry.reason !== "forced" && `${two(entry.confidence)}, margin ${two(entry.margin)}`, "decided by": entry.stage, outcome: entry.outcome,
    answered: entry.model, "escalated from": entry.escalated_from, total: seconds(entry.seconds.total), TTFT: seconds(entry.seconds.first_token),
    tokens: entry.model && `${count(entry.usage.prompt_tokens)} + ${count(entry.usage.completion_tokens)}, ${count(entry.usage.cached_tokens)} cached`,
    "special tokens": details(entry.token_details),
    dollars: `${dollars(entry.cost_usd)}, expected cost ${dollars(entry.expected_cost_usd)}`, tenant: entry.tenant, revision: entry.revision,
    rating: feedback.rating, correction: feedback.correction, "right task": feedback.right_task, "right answer": feedback.right_answer,
  };
  return [
    h("dl", { class: "facts plain" }, Object.entries(facts).filter(([, value]) => value && value !== NOTHING)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    entry.notes.length > 0 && h("ul", { class: "notes" }, entry.notes.map((note) => h("li", {}, note))),
    entry.guardrails?.length > 0 && h("h3", {}, "Guardrails"),
    entry.guardrails?.length > 0 && h("ul", { class: "notes" }, entry.guardrails.map(({ guardrail, hook, ruling, found }) =>
      h("li", {}, [`${guardrail}: ${hook} ${ruling}`, ...found].join(", ")))),
    entry.considered.length > 0 && h("h3", {}, "Considered"),
    entry.considered.length > 0 && points(entry.considered, entry.path, known),
    entry.probabilities.length > 0 && h("ul", { class: "likely", "aria-label": "Probabilities of the tasks" }, entry.probabilities.map(([task, p]) => h("li", {},
      h("span", {}, task), h("meter", { min: 0, max: 1, value: p, "aria-label": `${task} ${percent(p)}` }), h("span", { class: "number" }, percent(p))))),
    h("h3", {}, "Request"),
    entry.messages
      ? entry.messages.map((message) => h("div", { class: "message" }, h("b", {}, message.role), h("p", {}, message.content)))
      : h("p", { class: "faint" }, `The text is ${entry.text === "not stored" ? "not stored (request_log.store_messages is off)" : entry.text}.`),
    entry.answer && h("h3", {}, "Answer"),
    entry.answer && h("div", { class: "message" }, h("p", { id: "stored-answer" }, entry.answer)),
    h("details", { class: "raw" }, h("summary", {}, "As the request log has it"), h("pre", { tabindex: 0 }, JSON.stringify(entry, null, 1))),
  ].flat().filter(Boolean);
}
