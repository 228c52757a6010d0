// OpenAI's client for Node.

import OpenAI from "openai";
import {
  BASE_MODEL, CHAT, CITIES, EMBEDDINGS, EMBEDDING_MODEL, PERSON, QUESTION, RESPONSES, SENTENCE, WEATHER,
  WEATHER_QUESTION, check, isPerson, run,
} from "./checks.mjs";

const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const FUNCTION = { name: "get_weather", description: "The weather of a city", parameters: WEATHER, strict: true };
const CAPITAL = {
  model: BASE_MODEL, temperature: 0, max_tokens: 12, messages: [{ role: "user", content: QUESTION }],
};
const FORECAST = {
  ...CAPITAL,
  max_tokens: 100,
  messages: [{ role: "user", content: WEATHER_QUESTION }],
  tools: [{ type: "function", function: FUNCTION }],
  tool_choice: { type: "function", function: { name: "get_weather" } },
};
const RESPONSE = { model: BASE_MODEL, temperature: 0, max_output_tokens: 16, input: QUESTION };

function checkCall(call) {
  check(call?.name === "get_weather" && CITIES.includes(JSON.parse(call.arguments).city), call);
}

await run({
  [CHAT]: {
    plain: async (url) => {
      const answer = await client(url).chat.completions.create(CAPITAL);
      check(answer.choices[0].message.content.includes("Paris"), answer);
    },
    streaming: async (url) => {
      let text = "";
      const chunks = await client(url).chat.completions.create({ ...CAPITAL, stream: true });
      for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? "";
      check(text.includes("Paris"), text);
    },
    tools: async (url) => {
      const answer = await client(url).chat.completions.create(FORECAST);
      checkCall(answer.choices[0].message.tool_calls[0].function);
    },
    "streamed tools": async (url) => {
      const answer = await client(url).chat.completions.stream(FORECAST).finalChatCompletion();
      checkCall(answer.choices[0].message.tool_calls[0].function);
    },
    "tool results": async (url) => {
      const { tool_choice, ...asked } = FORECAST;
      const first = await client(url).chat.completions.create(FORECAST);
      const call = first.choices[0].message;
      const result = { role: "tool", tool_call_id: call.tool_calls[0].id, content: "sunny" };
      const messages = [...FORECAST.messages, call, result];
      const second = await client(url).chat.completions.create({ ...asked, messages, max_tokens: 12 });
      check(second.usage.prompt_tokens > first.usage.prompt_tokens + 20, [first.usage, second.usage]);
    },
    "structured output": async (url) => {
      const response_format = { type: "json_schema", json_schema: { name: "person", schema: PERSON, strict: true } };
      const messages = [{ role: "user", content: SENTENCE }];
      const asked = { model: "auto", temperature: 0, messages, response_format };
      const answer = await client(url).chat.completions.parse(asked);
      check(isPerson(answer.choices[0].message.parsed), answer);
    },
  },
  [RESPONSES]: {
    plain: async (url) => {
      const answer = await client(url).responses.create(RESPONSE);
      check(answer.output_text.includes("Paris"), answer);
    },
    streaming: async (url) => {
      const answer = await client(url).responses.stream(RESPONSE).finalResponse();
      check(answer.output_text.includes("Paris"), answer);
    },
    tools: async (url) => {
      const answer = await client(url).responses.create({
        ...RESPONSE,
        input: WEATHER_QUESTION,
        max_output_tokens: 100,
        tools: [{ type: "function", ...FUNCTION }],
        tool_choice: { type: "function", name: "get_weather" },
      });
      checkCall(answer.output.find((item) => item.type === "function_call"));
    },
    "structured output": async (url) => {
      const format = { type: "json_schema", name: "person", schema: PERSON, strict: true };
      const answer = await client(url).responses.parse({
        model: "auto", temperature: 0, input: SENTENCE, text: { format },
      });
      check(isPerson(JSON.parse(answer.output_text)), answer);
    },
  },
  [EMBEDDINGS]: {
    plain: async (url) => {
      const answer = await client(url).embeddings.create({ model: EMBEDDING_MODEL, input: QUESTION });
      check(answer.data[0].embedding.length === 384, answer);
    },
  },
});
