// Anthropic's client for Node.

import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import {
  BASE_MODEL, CITIES, MESSAGES, PERSON, QUESTION, SENTENCE, WEATHER, WEATHER_QUESTION, check, isPerson, run,
} from "./checks.mjs";

const client = (url) => new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const TOOL = { name: "get_weather", description: "The weather of a city", input_schema: WEATHER };
const CAPITAL = {
  model: BASE_MODEL, temperature: 0, max_tokens: 12, messages: [{ role: "user", content: QUESTION }],
};
const FORECAST = {
  ...CAPITAL,
  max_tokens: 100,
  messages: [{ role: "user", content: WEATHER_QUESTION }],
  tools: [TOOL],
  tool_choice: { type: "tool", name: "get_weather" },
};

function checkCall(answer) {
  const call = answer.content.find((block) => block.type === "tool_use");
  check(call?.name === "get_weather" && CITIES.includes(call.input.city), answer);
  return call;
}

// The runner calls the function, and sends its result with the whole conversation.
async function runTool(url) {
  const cities = [];
  const tool = betaTool({
    name: TOOL.name,
    description: TOOL.description,
    inputSchema: WEATHER,
    run: ({ city }) => {
      cities.push(city);
      return "sunny";
    },
  });
  const answers = [];
  const runner = client(url).beta.messages.toolRunner({ ...FORECAST, tools: [tool], max_iterations: 2 });
  for await (const answer of runner) answers.push(answer);
  check(answers.length === 2 && cities.length > 0, answers);
  check(answers[1].usage.input_tokens > answers[0].usage.input_tokens + 20, answers);
}

await run({
  [MESSAGES]: {
    plain: async (url) => {
      const answer = await client(url).messages.create(CAPITAL);
      check(answer.content[0].text.includes("Paris"), answer);
      const counted = await client(url).messages.countTokens({ model: BASE_MODEL, messages: CAPITAL.messages });
      check(counted.input_tokens > 5, counted);
    },
    streaming: async (url) => {
      const answer = await client(url).messages.stream(CAPITAL).finalMessage();
      check(answer.content[0].text.includes("Paris") && answer.usage.output_tokens > 0, answer);
    },
    tools: async (url) => {
      checkCall(await client(url).messages.create(FORECAST));
    },
    "streamed tools": async (url) => {
      checkCall(await client(url).messages.stream(FORECAST).finalMessage());
    },
    "tool results": async (url) => {
      const first = await client(url).messages.create(FORECAST);
      const result = { type: "tool_result", tool_use_id: checkCall(first).id, content: "sunny" };
      const messages = [
        ...FORECAST.messages, { role: "assistant", content: first.content }, { role: "user", content: [result] },
      ];
      const second = await client(url).messages.create({ ...CAPITAL, messages, tools: [TOOL] });
      check(second.usage.input_tokens > first.usage.input_tokens + 20, [first, second]);
      await runTool(url);
    },
    "structured output": async (url) => {
      const asked = { ...CAPITAL, model: "auto", max_tokens: 200, messages: [{ role: "user", content: SENTENCE }] };
      const format = { type: "json_schema", schema: PERSON };
      const answer = await client(url).messages.create({ ...asked, output_config: { format } });
      check(isPerson(JSON.parse(answer.content[0].text)), answer);
    },
  },
});
