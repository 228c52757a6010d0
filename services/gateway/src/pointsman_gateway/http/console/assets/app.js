// Brings the sections up, and keeps them true while somebody looks.
import { showAdapters } from "./adapters.js";
import * as api from "./api.js";
import { knowPaths, prepareAsk } from "./ask.js";
import { prepareReport, showRegret } from "./comparisons.js";
import { knowKinds, noDecisions, openNamed, prepareDecisions, showDecisions } from "./decisions.js";
import { showConfiguration } from "./configuration.js";
import { askForKey } from "./dialogs.js";
import { at, h, show } from "./elements.js";
import { prepareKeys, showKeys } from "./keys.js";
import { beginLogin, endLogin } from "./login.js";
import { afterMove } from "./moves.js";
import { showPaths } from "./paths.js";
import { prepareSpend, showSpend } from "./spend.js";
import { showTasks } from "./tasks.js";
import { prepareTheme } from "./theme.js";
import { plural, time } from "./words.js";

const PERIOD = 2000;
/** Adapters, keys and the configuration take more to read, so they are asked for less often. */
const ADAPTER_TURNS = 3;

let turn = 0;
let asking = false;
/** Whoever has no key, and wants to show none, is not asked for it every two seconds. */
let declined = false;

async function refresh() {
  const { overview, configuration, workers } = await api.overview();
  knowPaths(overview);
  knowKinds(overview);
  showStanding(overview, configuration, workers);
  showPaths(overview);
  showTasks(overview);
  await Promise.all([decisions(overview), turn++ % ADAPTER_TURNS === 0 && rare(overview)]);
  complain(configuration.problem ? `The configuration was changed and is refused, the one before goes on: ${configuration.problem}` : disagreement(workers));
}

/** What to say if the gateway's processes do not use the same configuration, as they may for a second after a change. */
function disagreement(workers) {
  const used = workers.filter((worker) => worker.revision);
  if (new Set(used.map((worker) => worker.revision)).size < 2) return "";
  return `The workers use different configurations: ${used.map((one) => `worker ${one.worker} ${one.revision.slice(0, 8)}${one.problem && ` (${one.problem})`}`).join(", ")}`;
}

async function decisions(overview) {
  if (overview.request_log === "none") return noDecisions("This gateway runs without Redis, so it has no request log.");
  if (overview.request_log === "unavailable") return noDecisions("Redis is unavailable; decisions are shown again when it is back.");
  return showDecisions();
}

/** False once the metrics cannot be read: they may have a port of their own. */
let readable = true;

async function regret() {
  if (!readable) return;
  try {
    showRegret(await api.metrics());
  } catch {
    readable = false;
  }
}

async function rare({ caller, engines, request_log: requestLog }) {
  const [{ models }] = await Promise.all([api.adapters(), showKeys(caller), showConfiguration(caller), showSpend(caller, requestLog)]);
  showAdapters(models, caller, engines);
  await regret();
}

function showStanding(overview, configuration, workers) {
  const engines = overview.engines.map((engine) => ({
    name: engine.engine, state: engine.ready ? (engine.cooling_down ? "cooling" : "ready") : "down",
    words: engine.ready ? `${plural(engine.resident.length, "adapter")}, ${engine.in_flight} in flight` : engine.detail,
  }));
  show(at("standing"), { engines, configuration, workers, caller: overview.caller }, () => [
    ...engines.map((engine) => h("span", { class: `lamp ${engine.state}` }, h("b", {}, engine.name), ` ${engine.state}`, h("span", { class: "made" }, engine.words))),
    ...workers.map((one) => h("span", { class: `lamp ${one.revision ? "ready" : "down"}` }, h("b", {}, `worker ${one.worker}`),
      h("span", { class: "made" }, one.revision ? `${one.in_flight} in flight` : "down"))),
    h("span", { class: "made" }, `configuration ${configuration.revision.slice(0, 8)}, since ${time(configuration.loaded_unix * 1000)}`),
    overview.caller.keys && h("button", { type: "button", class: "small", id: "key-button", click: () => changeKey("") },
      overview.caller.tenant, ["operator", "admin"].filter((right) => overview.caller[right]).map((right) => ` (${right})`).join("")),
  ].filter(Boolean));
}

/** Once a dialog is open, nobody is asked again. */
async function changeKey(problem, needed = false) {
  if (asking) return;
  asking = true;
  const login = await api.login().catch(() => null);
  const given = await askForKey(problem, Boolean(api.key.get()), login && (() => beginLogin(login)));
  asking = false;
  declined = needed && given === null;
  if (declined) show(at("standing"), "declined", () => h("button", { type: "button", class: "small", id: "key-button", click: () => changeKey("", true) }, "Show a key"));
  if (given === null) return;
  api.key.set(given);
  turn = 0;
  await look();
}

function complain(text) {
  at("banner").hidden = !text;
  if (text && at("banner").textContent !== text) at("banner").textContent = text;
}

async function look() {
  try {
    await refresh();
  } catch (error) {
    if (error.status === 401) {
      complain("The gateway asks for a key.");
      await changeKey(api.key.get() ? error.message : "", true);
    } else {
      complain(error instanceof TypeError ? "The gateway does not answer. Trying again …" : error.message);
    }
  }
}

async function keepLooking() {
  if (!document.hidden && !declined) await look();
  setTimeout(keepLooking, PERIOD);
}

prepareTheme();
prepareAsk();
prepareReport();
prepareSpend();
prepareKeys(async () => { turn = 0; await look(); });
prepareDecisions(look);
afterMove(async () => { turn = 0; await look(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && !declined) look(); });
endLogin().then((problem) => (problem ? changeKey(problem, true) : null)).then(keepLooking).then(openNamed);
