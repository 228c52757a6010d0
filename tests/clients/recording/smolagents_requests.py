"""A task for both kinds of agents of smolagents, which have one step: `smolagents_requests.py URL QUESTION`."""

import sys

from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent

url, question = sys.argv[1:]
model = OpenAIModel(model_id="auto", api_base=f"{url}/v1", api_key="none")
for kind in (CodeAgent, ToolCallingAgent):
    kind(tools=[], model=model, max_steps=1, verbosity_level=0).run(question)
