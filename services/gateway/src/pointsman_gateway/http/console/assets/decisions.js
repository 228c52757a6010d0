// The decisions: a list that grows at its top, and each of them whole.
import * as api from "./api.js";
import { look } from "./dialogs.js";
import { at, h, row, show, table } from "./elements.js";
import { points } from "./points.js";
import { count, dollars, pathName, percent, seconds, time, two, NOTHING } from "./words.js";

const COLUMNS = [
  { name: "when" }, { name: "task" }, { name: "path" }, { name: "reason" }, { name: "conf.", kind: "number" }, { name: "outcome" },
  { name: "TTFT", kind: "number" }, { name: "total", kind: "number" }, { name: "dollars", kind: "number" }, { name: "request", kind: "asked" },
];
const PAGE = 25;

let pages = 1;
let kinds = new Map();

export const knowKinds = (overview) => { kinds = new Map(overview.paths.map((path) => [path.path, path.kind])); };

export function prepareDecisions(refresh) {
  at("older-button").addEventListener("click", () => { pages += 1; refresh(); });
}

/** Reads as many as are shown, so that the list neither jumps nor has gaps. */
export async function showDecisions() {
  const { decisions, next } = await api.decisions("", Math.min(200, pages * PAGE));
  show(at("decisions-body"), decisions, () => decisions.length
    ? table("Decisions, the newest first", COLUMNS, decisions.map(decisionRow))
    : h("p", { class: "note" }, "There is no decision yet. ", h("a", { href: "#ask" }, "Ask something"), ", or send a request to /v1/chat/completions."));
  at("older-button").hidden = !next || pages * PAGE >= 200;
}

export function noDecisions(problem) {
  show(at("decisions-body"), problem, () => h("p", { class: "note" }, problem));
  at("older-button").hidden = true;
}

function decisionRow(one) {
  const answered = one.outcome !== "routed";
  return row(COLUMNS, [
    h("button", { type: "button", class: "link", id: `show-${one.id}`, "aria-label": `Decision at ${time(one.unix_ms)}, ${one.path}`, click: () => whole(one.id) }, time(one.unix_ms)),
    one.reason === "forced" ? h("span", { class: "faint" }, "path named") : one.task, pathName(one.path, one.kind), one.reason, two(one.confidence),
    h("span", { class: one.outcome === "ok" ? "good" : answered && one.outcome !== "cancelled" ? "bad" : "faint" }, one.outcome),
    seconds(one.first_token || null), seconds(answered ? one.seconds : null), answered ? dollars(one.cost_usd) : NOTHING,
    h("span", { class: one.text ? "" : "faint" }, one.text || "not stored"),
  ], { "data-decision": one.id, click: (event) => { if (!event.target.closest("button")) whole(one.id); } });
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
    id: entry.id, when: time(entry.unix_ms), requested: entry.requested, task: entry.task, path: entry.path, reason: entry.reason,
    confidence: `${two(entry.confidence)}, margin ${two(entry.margin)}`, "decided by": entry.stage, outcome: entry.outcome,
    answered: entry.model, "escalated from": entry.escalated_from, total: seconds(entry.seconds.total), TTFT: seconds(entry.seconds.first_token),
    tokens: entry.model && `${count(entry.usage.prompt_tokens)} + ${count(entry.usage.completion_tokens)}, ${count(entry.usage.cached_tokens)} cached`,
    "special tokens": details(entry.token_details),
    dollars: `${dollars(entry.cost_usd)}, expected ${dollars(entry.expected_cost_usd)}`, tenant: entry.tenant, revision: entry.revision,
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
    h("details", { class: "raw" }, h("summary", {}, "As the request log has it"), h("pre", { tabindex: 0 }, JSON.stringify(entry, null, 1))),
  ].flat().filter(Boolean);
}
