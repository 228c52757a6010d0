"""One turn of an agent of the framework Strands with a tool: `strands_agent.py URL PROMPT`, with its own packages."""

import sys

from strands import Agent, tool
from strands.models.openai import OpenAIModel


@tool
def look(file_path: str) -> str:
    """Returns the contents of a file."""
    return f"{file_path} holds the word Wren"


if __name__ == "__main__":
    url, prompt = sys.argv[1:]
    model = OpenAIModel(client_args={"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}, model_id="auto")
    print(Agent(model=model, tools=[look], callback_handler=None)(prompt))
