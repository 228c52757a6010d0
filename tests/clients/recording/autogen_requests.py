"""A group chat of AutoGen, in which a model selects the next speaker: `autogen_requests.py URL QUESTION`."""

import asyncio
import sys

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import SelectorGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

url, question = sys.argv[1:]
INFO = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": False}
model = OpenAIChatCompletionClient(model="auto", base_url=f"{url}/v1", api_key="none", model_info=INFO)
agents = [
    AssistantAgent("planner", model, description="Plans."),
    AssistantAgent("writer", model, description="Writes."),
]
team = SelectorGroupChat(agents, model, termination_condition=MaxMessageTermination(2), max_selector_attempts=1)
asyncio.run(team.run(task=question))
