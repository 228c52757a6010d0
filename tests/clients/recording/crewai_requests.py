"""A task of a CrewAI agent: `crewai_requests.py URL QUESTION`, with its own packages."""

import sys

from crewai import LLM, Agent, Crew, Task

url, question = sys.argv[1:]
model = LLM(model="openai/auto", base_url=f"{url}/v1", api_key="none")
agent = Agent(role="Clerk", goal="Answer travellers", backstory="You know the timetable.", llm=model)
Crew(agents=[agent], tasks=[Task(description=question, expected_output="One sentence.", agent=agent)]).kickoff()
