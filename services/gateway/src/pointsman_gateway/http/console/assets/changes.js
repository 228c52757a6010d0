// Who has changed keys, limits, roles, prices, aliases and the configuration, from where, before and after.
import { row, table } from "./elements.js";
import { minute, NOTHING } from "./words.js";

const COLUMNS = [
  { name: "when", kind: "nowrap" }, { name: "who" }, { name: "from" }, { name: "kind" }, { name: "what" }, { name: "before" }, { name: "after" },
];

export const changesTable = (changes) => table("Administrative changes", COLUMNS, changes.map((one) => row(COLUMNS, [
  minute(one.unix_ms), one.who || NOTHING, one.where || NOTHING, one.kind, `${one.subject} ${one.change}`, values(one.before), values(one.after),
])));

function values(of) {
  const shown = Object.entries(of).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return shown.join(", ") || NOTHING;
}
