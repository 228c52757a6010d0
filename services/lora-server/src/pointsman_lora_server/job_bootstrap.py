"""Builds the objects that training jobs need: the environment of their processes, and functions to access adapter
versions.
"""

import asyncio
import os
from pathlib import Path

from pointsman_lora_server.adapters.service import AdapterService
from pointsman_lora_server.jobs.job import FindVersion, JobEnvironment, RegisterAdapter, TrainedAdapter
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.store import ArtifactStore
from pointsman_lora_server.training.methods import installed_methods


def job_environment(settings: Settings) -> JobEnvironment:
    """Returns the settings that all training jobs share.

    Their environment variables are those of this process without `POINTSMAN_*`, since these contain secrets.
    """
    return JobEnvironment(
        folder=settings.jobs,
        python=settings.engine_python,
        base_model=settings.base_model,
        base_model_name=settings.served_model_name,
        environment={key: value for key, value in os.environ.items() if not key.startswith("POINTSMAN_")},
        methods=installed_methods() | settings.training_methods,
        data_roots=settings.data_roots,
    )


def job_callbacks(service: AdapterService, store: ArtifactStore) -> tuple[RegisterAdapter, FindVersion]:
    """Returns two functions for training jobs: one registers the trained adapter, the other returns the folder of a
    parent version.
    """

    async def register(trained: TrainedAdapter) -> str:
        report = await service.register(
            trained.name,
            trained.folder,
            alias_suffix=trained.alias_suffix,
            facts=trained.facts,
            parent=trained.parent,
            author=trained.author,
            force=trained.force,
        )
        return report.version.version

    async def find(version: str) -> Path:
        report = await service.get(version)
        return await asyncio.to_thread(store.fetch, report.version)

    return register, find
