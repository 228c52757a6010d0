"""OpenAI's endpoints but for chat completions, and the documentation of all."""

from fastapi import FastAPI

from pointsman_gateway.http.openai_completions import complete
from pointsman_gateway.http.openai_embeddings import embed
from pointsman_gateway.http.openai_models import find_model, list_models
from pointsman_gateway.http.openai_responses import create_response
from pointsman_gateway.http.openapi import describe_answers


def add_openai_routes(app: FastAPI) -> None:
    app.post("/v1/completions")(complete)
    app.post("/v1/responses")(create_response)
    app.post("/v1/embeddings")(embed)
    app.get("/v1/models")(list_models)
    app.get("/v1/models/{name:path}")(find_model)
    describe_answers(app)
