"""A question about documents to LlamaIndex, alone and in a conversation: `llama_index_requests.py URL QUESTION`."""

import os
import sys

from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, question = sys.argv[1:]
model = OpenAILike(
    model="auto", api_base=f"{url}/v1", api_key="none", is_chat_model=True, context_window=8192, max_retries=0
)
documents = [Document(text="The office opens at nine."), Document(text="Dogs are kept on a lead.")]
index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(8))
before = [ChatMessage(role="user", content="Hi"), ChatMessage(role="assistant", content="Hello.")]
for mode in ("compact", "refine"):
    index.as_query_engine(llm=model, response_mode=mode).query(question)
for mode in ("condense_question", "condense_plus_context"):
    index.as_chat_engine(chat_mode=mode, llm=model).chat(question, chat_history=before)
os._exit(0)  # its background threads wait for the network
