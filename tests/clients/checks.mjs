// The requests that every client for Node sends, and how their results are printed. checks.py is the same for Python.

export const CHAT = "chat completions";
export const RESPONSES = "responses";
export const MESSAGES = "messages";
export const EMBEDDINGS = "embeddings";
export const BASE_MODEL = "smollm2-135m";
export const EMBEDDING_MODEL = "minilm";
export const QUESTION = "What is the capital of France?";
export const SENTENCE = "Ann is 30";
export const WEATHER_QUESTION = "What is the weather in Paris?";
export const CITIES = ["Paris", "Rome"];
export const PERSON = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", enum: CITIES } },
  required: ["city"],
  additionalProperties: false,
};

export function check(holds, seen) {
  if (!holds) throw new Error(JSON.stringify(seen));
}

export function isPerson(value) {
  return Object.keys(value).sort().join() === "age,name" && Number.isInteger(value.age);
}

// Runs the checks of each API against the URL on the command line, and prints one JSON object for each.
export async function run(checks) {
  const [url, ...names] = process.argv.slice(2);
  for (const [api, checksOfApi] of Object.entries(checks)) {
    for (const [name, one] of Object.entries(checksOfApi)) {
      if (names.length > 0 && !names.includes(name)) continue;
      const started = Date.now();
      let error = "";
      try {
        await one(url);
      } catch (failure) {
        error = `${failure.stack ?? failure}`;
      }
      const seconds = (Date.now() - started) / 1000;
      console.log(JSON.stringify({ api, check: name, seconds, error }));
    }
  }
}
