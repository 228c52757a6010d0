// The running configuration, the valid one before it, an edit that was rejected, and the administrative changes.
import * as api from "./api.js";
import { changesTable } from "./changes.js";
import { at, h, show } from "./elements.js";
import { time } from "./words.js";

export async function showConfiguration(caller) {
  if (caller.keys && !caller.admin) {
    const needed = "This key may not read the configuration: that takes one with the admin scope.";
    return show(at("configuration-body"), needed, () => h("p", { class: "panel note" }, needed));
  }
  const [history, { changes }] = await Promise.all([api.configuration(), caller.admin ? api.audit() : { changes: [] }]);
  show(at("configuration-body"), { history, changes }, () => [
    history.rejected && version("rejected", "Rejected edit", history.rejected, `rejected ${time(history.rejected.unix * 1000)}`),
    version("running", "Running, the last valid one", history.running, `${history.running.revision}, since ${time(history.running.unix * 1000)}`),
    history.previous && version("previous", "Valid before", history.previous, `${history.previous.revision}, since ${time(history.previous.unix * 1000)}`),
    changes.length > 0 && h("div", { class: "panel", id: "changes" }, h("h3", {}, "Administrative changes"), changesTable(changes)),
  ].filter(Boolean));
}

function version(id, title, one, words) {
  return h("div", { class: "panel", id: `configuration-${id}` }, h("h3", {}, title), h("p", { class: "note" }, words),
    one.problem && h("p", { class: "problem" }, one.problem),
    Object.entries(one.files).map(([name, text]) => h("details", { id: `${id}-${name}` }, h("summary", {}, name), h("pre", {}, text))));
}
