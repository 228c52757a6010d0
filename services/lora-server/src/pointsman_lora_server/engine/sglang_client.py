"""Loads adapters through SGLang's runtime API, and completes prompts by its own route."""

from collections.abc import Sequence
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError

from pointsman_lora_server.engine.completion import GreedyAnswer, scored_answer
from pointsman_lora_server.engine.runtime_client import RuntimeClient
from pointsman_lora_server.engine.vllm_client import (
    COMPLETION_TIMEOUT,
    QUERY_TIMEOUT,
    EngineFacts,
    engine_unavailable,
    error_message,
    expecting_form,
    no_folder,
)


class SglangClient(RuntimeClient):
    """Manages adapters of SGLang, which does not say which are in use; its unload waits for the last request."""

    _load_route, _unload_route = "/load_lora_adapter", "/unload_lora_adapter"

    async def identify(self) -> EngineFacts:
        """Returns the engine's facts, without a boot id, which SGLang does not report."""
        base_models, max_model_len = await self._base_models()
        status, info = await self._call("GET", "/server_info", None, QUERY_TIMEOUT)
        if status == 404:  # before 0.5.4
            status, info = await self._call("GET", "/get_server_info", None, QUERY_TIMEOUT)
        if status != 200 or not isinstance(info, dict):
            raise engine_unavailable(f"{status} to /server_info")
        if not info.get("enable_lora"):
            raise FailedPrecondition(
                "it loads no adapters: start SGLang with --enable-lora, --max-lora-rank and --lora-target-modules all",
                code="no_lora",
            )
        return EngineFacts(
            base_models,
            held=info.get("max_loaded_loras"),
            max_loras=info.get("max_loras_per_batch"),
            max_lora_rank=info.get("max_lora_rank"),
            max_model_len=max_model_len,
        )

    async def complete(self, model: str, prompt: str | Sequence[int], max_tokens: int) -> GreedyAnswer:
        body: dict[str, Any] = {
            "text" if isinstance(prompt, str) else "input_ids": prompt if isinstance(prompt, str) else list(prompt),
            # Set because the model's generation_config.json may say otherwise, which PEFT's greedy answers ignore.
            "sampling_params": {
                "temperature": 0,
                "top_p": 1.0,
                "repetition_penalty": 1.0,
                "max_new_tokens": max_tokens,
            },
            "return_logprob": True,
        }
        base_models, _ = await self._base_models()
        if model not in base_models:
            body["lora_path"] = model
        status, answer = await self._call("POST", "/generate", body, COMPLETION_TIMEOUT)
        if status != 200:
            if status == 401 or (status >= 500 and not await self.is_healthy()):
                raise engine_unavailable(f"{status} to /generate")
            if "lora_path" in body and model not in await self._folders():
                raise NotFound(f"the engine does not hold {model}", code="not_loaded")
            raise InvalidArgument(f"{model} cannot answer: {error_message(answer)}", code="cannot_answer")
        with expecting_form("/generate"):
            facts = answer["meta_info"]
            tokens = facts.get("output_token_logprobs") or ()
            ids, logprobs = [token[1] for token in tokens], [token[0] for token in tokens]
            return scored_answer(model, ids, answer["text"], logprobs, facts["finish_reason"]["type"])

    async def _load_error(self, path: str, status: int, answer: Any) -> PointsmanError:
        """Returns the error of a failed load; SGLang answers 400 for every cause. So the adapter is blamed only if
        another load has succeeded.
        """
        error = await super()._load_error(path, status, answer)
        if isinstance(error, InvalidArgument) and not self._used_at:
            return FailedPrecondition(f"{error.message}. Or: {no_folder(path).message}", code="engine_store")
        return error

    async def count_corrupted(self) -> int:
        """Returns no counts, because SGLang does not count corrupted answers."""
        return 0

    async def _in_use(self) -> frozenset[str]:
        return frozenset()
