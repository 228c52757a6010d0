"""Chains of LangChain about documents, and one with a conversation: `langchain_requests.py URL QUESTION`."""

import sys

from langchain_classic.chains import ConversationalRetrievalChain, RetrievalQA
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_openai import ChatOpenAI


class TwoDocuments(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document("The office opens at nine."), Document("Dogs are kept on a lead.")]


url, question = sys.argv[1:]
model = ChatOpenAI(model="auto", base_url=f"{url}/v1", api_key="none", max_retries=0)
for kind in ("stuff", "refine"):
    RetrievalQA.from_chain_type(model, chain_type=kind, retriever=TwoDocuments()).invoke(question)
chain = ConversationalRetrievalChain.from_llm(model, retriever=TwoDocuments())
chain.invoke({"question": question, "chat_history": [("Hi", "Hello.")]})
