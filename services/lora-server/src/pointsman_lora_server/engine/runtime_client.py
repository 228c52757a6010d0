"""Loads adapters through the runtime APIs of vLLM and SGLang, for an engine that runs without the guard (Pointsman's
middleware).
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PointsmanError

from pointsman_lora_server.domain import is_version
from pointsman_lora_server.engine.completion import GreedyAnswer, scored_answer
from pointsman_lora_server.engine.engine_errors import engine_unavailable, error_message, expecting_form, no_folder
from pointsman_lora_server.engine.vllm_client import (
    COMPLETION_TIMEOUT_SECONDS,
    LOAD_TIMEOUT_SECONDS,
    QUERY_TIMEOUT_SECONDS,
    EngineFacts,
    LoadedAdapter,
    VllmClient,
)

_START_TIME = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_IN_USE = re.compile(
    r'^vllm:lora_requests_info{.*?max_lora="(\d+)",running_lora_adapters="([^"]*)",waiting_lora_adapters="([^"]*)"} '
    r"(\S+)$",
    re.MULTILINE,
)
_REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting){.*?} (\S+)$", re.MULTILINE)


class RuntimeClient(VllmClient):
    """Manages adapters through vLLM's own routes, for a vLLM without the guard (Pointsman's middleware).

    Such an engine reports the names and folders of its adapters, but only approximately which of them are in use.
    """

    _load_route, _unload_route = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._used_at: dict[str, float] = {}
        self._paths: dict[str, str] = {}
        """Version loaded by this process -> the path from which the engine reads it."""
        self._local: dict[str, Path] = {}
        """Version loaded by this process -> its folder on this machine."""

    async def identify(self) -> EngineFacts:
        base_models, max_model_len = await self._base_models()
        # Without a name it changes nothing, and answers 400 if the route is there.
        status, answer = await self._call(
            "POST", self._load_route, {"lora_name": "", "lora_path": ""}, QUERY_TIMEOUT_SECONDS
        )
        if status in (404, 405):
            raise FailedPrecondition(
                "it loads no adapters at run time: start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
                "--enable-lora, or with the guard and POINTSMAN_LORA_ENGINE_SECRET",
                code="no_runtime_loading",
            )
        if status in (401, 403):
            raise FailedPrecondition(f"it answers {status}: {error_message(answer)}", code="bad_api_key")
        metrics = await self._metrics()
        start = _START_TIME.search(metrics)
        limits = [int(found[1]) for found in _IN_USE.finditer(metrics)]
        return EngineFacts(
            base_models,
            boot=start[1] if start else "",
            max_loras=limits[0] if limits else None,
            max_model_len=max_model_len,
        )

    async def list_adapters(self) -> Mapping[str, LoadedAdapter]:
        """Returns version -> `LoadedAdapter` for the adapter versions that the engine lists.

        `open` is False if the engine has read the version from another folder than the last call of `load` named.
        `in_flight` is 1 for a version in use, whatever the number of its requests. `requests` is always 0.
        `idle_seconds` counts from the last call of this method that found the version in use. The versions' local
        folders are marked as used, so that the store's cache keeps them. Raises FailedPrecondition ("bad_api_key") if
        the engine rejects the API key, and Unavailable if it does not answer.
        """
        listed, in_use = await self._folders(), await self._in_use()
        for name in listed.keys() & self._local.keys():
            with suppress(OSError):
                os.utime(self._local[name])  # stays in the store's cache, since vLLM may read it again at any time
        now = time.monotonic()
        self._used_at = {name: now if name in in_use else self._used_at.get(name, now) for name in listed}
        return {
            name: LoadedAdapter(
                int(name in in_use), 0, now - self._used_at[name], open=self._paths.get(name, path) == path
            )
            for name, path in listed.items()
        }

    async def count_tokens(self) -> Mapping[str, float]:
        """Returns an empty dictionary, because an engine without the guard does not count tokens by adapter."""
        return {}

    async def load(self, version: str, folder: Path) -> None:
        """Loads a version from `folder`; does nothing if the engine has already loaded it from there.

        If the engine has loaded the version from another folder, it unloads the version first. Raises InvalidArgument
        ("engine_refused") if the engine rejects the adapter, FailedPrecondition ("engine_store") if it does not find
        the folder, FailedPrecondition ("bad_api_key") if it rejects the API key, and Unavailable if it does not answer.
        """
        path, listed = self._engine_path(folder), await self._folders()
        self._paths[version], self._local[version] = path, folder
        if listed.get(version) == path:
            return
        if version in listed:
            await self.close_adapter(version)
        status, answer = await self._call(
            "POST", self._load_route, {"lora_name": version, "lora_path": path}, LOAD_TIMEOUT_SECONDS
        )
        if status != 200:
            raise await self._load_error(path, status, answer)
        self._used_at[version] = time.monotonic()

    async def _load_error(self, path: str, status: int, answer: Any) -> PointsmanError:
        if status == 404:
            return no_folder(path)
        if status == 401 or not await self.is_healthy():
            return engine_unavailable(f"{status} to {self._load_route}: {error_message(answer)}")
        return InvalidArgument(f"the engine refused it: {error_message(answer)}", code="engine_refused")

    async def close_adapter(self, version: str) -> int:
        """Unloads the adapter by its name. Its requests in flight finish, since the engine keeps the weights until
        then.

        Returns 0, because the engine does not report the requests in flight. Raises Unavailable if the engine still
        lists the adapter.
        """
        status, answer = await self._call("POST", self._unload_route, {"lora_name": version}, LOAD_TIMEOUT_SECONDS)
        if status not in (200, 404) and version in await self._folders():
            raise engine_unavailable(f"{status} to {self._unload_route}: {error_message(answer)}")
        return 0

    async def remove(self, version: str) -> bool:
        """Unloads the version if the engine still lists it; always returns True."""
        if version in await self._folders():
            await self.close_adapter(version)
        return True

    async def _folders(self) -> Mapping[str, str]:
        """Returns version -> the folder that the engine reports for it, for each version that the engine lists."""
        models = await self._list_models()
        return {model["id"]: str(model.get("root")) for model in models if is_version(model["id"])}

    async def _in_use(self) -> frozenset[str]:
        """Returns the names of the adapters with running or waiting requests at vLLM's last step; adapters used only
        since then are missing.
        """
        metrics = await self._metrics()
        with expecting_form("/metrics"):
            if not sum(float(found[1]) for found in _REQUESTS.finditer(metrics)):
                return frozenset()
            # One series for each pair of lists that ever was; its value is the time of its last report.
            latest = max(_IN_USE.finditer(metrics), key=lambda found: float(found[4]), default=None)
        return frozenset(f"{latest[2]},{latest[3]}".split(",")) if latest else frozenset()


class SglangClient(RuntimeClient):
    """Manages the adapters of SGLang, which does not report which adapters are in use. SGLang unloads an adapter after
    its last request.
    """

    _load_route, _unload_route = "/load_lora_adapter", "/unload_lora_adapter"

    async def identify(self) -> EngineFacts:
        """Returns the properties that the engine reports; SGLang has no boot id.

        Raises Unavailable if the engine does not answer, and FailedPrecondition if it was started without --enable-lora
        ("no_lora") or rejects the API key ("bad_api_key").
        """
        base_models, max_model_len = await self._base_models()
        status, info = await self._call("GET", "/server_info", None, QUERY_TIMEOUT_SECONDS)
        if status == 404:  # before 0.5.4
            status, info = await self._call("GET", "/get_server_info", None, QUERY_TIMEOUT_SECONDS)
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
        status, answer = await self._call("POST", "/generate", body, COMPLETION_TIMEOUT_SECONDS)
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
        """Returns the error of a failed load. SGLang answers 400 for every cause. So the adapter is only blamed if the
        engine has already loaded another adapter; otherwise the engine may not have access to the store's folder.
        """
        error = await super()._load_error(path, status, answer)
        if isinstance(error, InvalidArgument) and not self._used_at:
            return FailedPrecondition(f"{error.message}. Or: {no_folder(path).message}", code="engine_store")
        return error

    async def count_corrupted(self) -> int:
        """Returns 0, because SGLang does not count corrupted requests."""
        return 0

    async def _in_use(self) -> frozenset[str]:
        return frozenset()
