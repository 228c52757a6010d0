// LangChain's ChatOpenAI and AzureChatOpenAI for Node.

import { tool } from "@langchain/core/tools";
import { AzureChatOpenAI, ChatOpenAI } from "@langchain/openai";
import {
  BASE_MODEL, CHAT, CITIES, PERSON, QUESTION, RESPONSES, SENTENCE, WEATHER, WEATHER_QUESTION, check, isPerson, run,
} from "./checks.mjs";

const chat = (url, options = {}) =>
  new ChatOpenAI({
    model: BASE_MODEL, temperature: 0, maxTokens: 16, maxRetries: 0, apiKey: "none",
    configuration: { baseURL: `${url}/v1` }, ...options,
  });
// The deployment is in the URL. Without a model it refuses JSON schemas, since it assumes an old one.
const azure = (url, { model, ...options } = {}) =>
  new AzureChatOpenAI({
    azureOpenAIEndpoint: url, azureOpenAIApiDeploymentName: model ?? BASE_MODEL, model,
    azureOpenAIApiVersion: "2025-04-01-preview", azureOpenAIApiKey: "none",
    temperature: 0, maxTokens: 16, maxRetries: 0, ...options,
  });
const getWeather = tool(async ({ city }) => `sunny in ${city}`, {
  name: "get_weather", description: "The weather of a city", schema: WEATHER,
});

function checksOf(chat, options = {}) {
  return {
    plain: async (url) => {
      const { text } = await chat(url, options).invoke(QUESTION);
      check(text.includes("Paris"), text);
    },
    streaming: async (url) => {
      let text = "";
      for await (const chunk of await chat(url, options).stream(QUESTION)) text += chunk.text;
      check(text.includes("Paris"), text);
    },
    tools: async (url) => {
      const bound = chat(url, { ...options, maxTokens: 100 }).bindTools([getWeather], { tool_choice: "get_weather" });
      const answer = await bound.invoke(WEATHER_QUESTION);
      check(CITIES.includes(answer.tool_calls[0]?.args.city), answer);
    },
    "structured output": async (url) => {
      const model = chat(url, { ...options, model: "auto", maxTokens: 200 });
      const answer = await model.withStructuredOutput(PERSON, { name: "person", method: "jsonSchema" }).invoke(SENTENCE);
      check(isPerson(answer), answer);
    },
  };
}

await run({
  [CHAT]: checksOf(chat),
  [RESPONSES]: checksOf(chat, { useResponsesApi: true }),
  [`${CHAT}, with Azure's URLs`]: checksOf(azure),
});
