"""Two signatures of DSPy: `dspy_requests.py URL QUESTION`. No answer of the scripted engine fits them, so DSPy sends
each in both of its formats."""

import sys
from contextlib import suppress

import dspy
from dspy.utils.exceptions import AdapterParseError

url, question = sys.argv[1:]
dspy.configure(lm=dspy.LM("openai/auto", api_base=f"{url}/v1", api_key="none", cache=False, num_retries=0))
with suppress(AdapterParseError):
    dspy.Predict("question -> answer")(question=question)
with suppress(AdapterParseError):
    dspy.ChainOfThought("context, question -> answer")(question=question, context="The office opens at nine.")
