// The request box: the decision first, then the answers.
import * as api from "./api.js";
import { AnswerCard } from "./answers.js";
import { at, h, show } from "./elements.js";
import { points } from "./points.js";
import { dollars, percent, plural, two } from "./words.js";

/** Equal users are decided alike, so that the answer takes the path that the decision named. */
const USER = `console-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;

/** How many tasks' examples are offered. */
const OFFERED = 4;
const SHOWN_CHARACTERS = 70;

let paths = [];
let tasks = [];
let stopping = new AbortController();

export function knowPaths(overview) {
  paths = overview.paths.filter((path) => path.configured);
  tasks = overview.tasks;
  const examples = tasks.map((task) => task.example).filter(Boolean).slice(0, OFFERED);
  show(at("start"), examples, () => examples.map((text) => h("button", { type: "button", class: "small", click: () => {
    at("request").value = text;
    at("ask-form").requestSubmit();
  } }, text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}…` : text)));
}

export function prepareAsk() {
  at("ask-form").addEventListener("submit", (event) => { event.preventDefault(); ask(at("compare").value); });
  at("decide-button").addEventListener("click", () => at("ask-form").reportValidity() && ask(""));
  at("stop-button").addEventListener("click", () => stopping.abort());
  at("request").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask-form").requestSubmit();
  });
}

/** `from`: "chosen", "considered" or "all" paths; none where only the decision is wanted. */
async function ask(from) {
  stopping.abort();
  const mine = stopping = new AbortController();
  const body = { model: "auto", user: USER, messages: [{ role: "user", content: at("request").value }] };
  at("answers").replaceChildren();
  at("start").hidden = true;
  say("Deciding …");
  try {
    const decision = await api.route(body);
    if (mine !== stopping) return; // something else has been asked meanwhile
    showDecision(decision, body);
    const wanted = from && wantedPaths(from, decision);
    say(wanted ? "" : `${decision.path}, decided; nothing was generated.`);
    if (wanted) await answers(wanted, decision, body);
  } catch (error) {
    at("decision").hidden = true;
    say(error.message, true);
  }
}

function wantedPaths(from, decision) {
  if (from === "chosen") return [];
  const usable = new Set(paths.filter((path) => !path.unavailable).map((path) => path.path));
  const names = from === "all" ? [...usable] : decision.considered.map((one) => one.path).filter((name) => usable.has(name));
  return names.filter((name) => name !== decision.path);
}

async function answers(others, decision, body) {
  const cards = [
    // As the choice itself asks: so its rating counts for the task.
    new AnswerCard(decision.path, decision.kind, "auto", body, true),
    ...others.map((name) => new AnswerCard(name, kinds().get(name), `path:${name}`, body, false)),
  ];
  at("answers").replaceChildren(...cards.map((card) => card.element));
  await run(cards);
}

async function run(cards) {
  const mine = stopping;
  at("stop-button").hidden = false;
  await Promise.all(cards.map((card) => card.run(mine.signal)));
  if (mine !== stopping) return;
  at("stop-button").hidden = true;
  const done = cards.filter((card) => card.receipt);
  say(`${plural(done.length, "answer")}${done.length < cards.length ? ` of ${cards.length}` : ""}, ${dollars(total(done.map((card) => card.receipt.cost_usd)))} together.`);
}

/** Null if one of them is unknown. */
const total = (costs) => (costs.includes(null) ? null : costs.reduce((sum, cost) => sum + cost, 0));

const kinds = () => new Map(paths.map((path) => [path.path, path.kind]));

function showDecision(decision, body) {
  const known = kinds().set(decision.path, decision.kind);
  const likely = Object.entries(decision.probabilities).slice(0, 5);
  at("decision").hidden = false;
  at("decision").replaceChildren(...[
    h("dl", { class: "facts" },
      fact("task", decision.task, "big"), fact("confidence", likely.length ? two(decision.confidence) : "named", "big"),
      fact("path", decision.path, "big"), fact("reason", decision.reason), fact("decided by", decision.stage),
      fact("expected cost", dollars(decision.expected_cost_usd), "big")),
    likely.length > 0 && h("ul", { class: "likely", "aria-label": "Probabilities of the tasks" }, likely.map(([task, p]) => h("li", {},
      h("span", {}, task), h("meter", { min: 0, max: 1, value: p, "aria-label": `${task} ${percent(p)}` }), h("span", { class: "number" }, percent(p))))),
    decision.notes.length > 0 && h("ul", { class: "notes" }, decision.notes.map((note) => h("li", {}, note))),
    points(decision.considered, decision.path, known, (one) => h("div", { class: "row" }, price(one.path, decision.task),
      one.path !== decision.path && paths.some((path) => path.path === one.path) &&
      h("button", { type: "button", class: "small", click: () => another(one.path, body), "aria-label": `Ask ${one.path} too` }, "Ask too"))),
  ].filter(Boolean));
}

/** What 1,000 answers of a path cost: of this task, or else of all. */
function price(name, task) {
  const known = tasks.find((one) => one.task === task)?.paths.find((path) => path.path === name);
  const usd = known ? known.usd_per_1k : paths.find((path) => path.path === name)?.now?.usd_per_1k;
  return usd !== null && usd !== undefined && h("span", { class: "made price" }, `${known?.estimated ? "about " : ""}${dollars(usd)} per 1,000`);
}

/** One more answer beside those that are there. */
async function another(name, body) {
  if (stopping.signal.aborted) stopping = new AbortController();
  const card = new AnswerCard(name, kinds().get(name), `path:${name}`, body, false);
  at("answers").append(card.element);
  await run([card]);
}

const fact = (name, value, kind) => h("div", { class: kind }, h("dt", {}, name), h("dd", {}, value));

function say(text, bad = false) {
  at("ask-status").textContent = text;
  at("ask-status").classList.toggle("problem", bad);
}
