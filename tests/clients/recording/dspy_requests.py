"""Two signatures of DSPy; the answers of the scripted engine fit none, so each is sent in both formats:
`dspy_requests.py URL QUESTION`.
"""

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
