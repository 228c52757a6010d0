"""The order in which everything on one machine comes up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pointsman_cli.adapters.registration import list_registered, register_adapter
from pointsman_cli.data_dir import DataDir
from pointsman_cli.documents import Document, read_documents, upsert
from pointsman_cli.engine_environment import EngineEnvironment, prepare_base_model, prepare_embedding_model
from pointsman_cli.example import Example
from pointsman_cli.up import monitoring, ready, valkey
from pointsman_cli.up.crew import Crew
from pointsman_cli.up.plan import Plan, Service
from pointsman_cli.up.ports import Addresses
from pointsman_cli.up.screen import Screen


@dataclass(frozen=True, slots=True)
class Setup:
    """All that is decided before anything starts."""

    example: Example
    data_dir: DataDir
    engine: EngineEnvironment
    python: str  # of the services' environment
    addresses: Addresses
    plan: Plan


async def start_all(setup: Setup, crew: Crew, screen: Screen) -> Sequence[str]:
    """Leaves every process up and filled; returns the adapters that are there, as text.

    Raises where one does not come up; what was started by then is the crew's to stop.
    """
    documents = {name: read_documents([folder]) for name, folder in setup.example.collections.items()}
    await _prepare_models(setup, screen)
    plan = setup.plan
    for service in plan.in_order:
        _keep_previous(service)
    valkey.prepare_folders(setup.data_dir)
    with screen.step("valkey"):
        await crew.start(plan.valkey)
        await crew.unless_one_dies(ready.valkey_answers(plan.valkey.address))
    for service in (plan.retriever, plan.lora_server, plan.gateway):  # the engine's start is long: it begins first
        await crew.start(service)
    with screen.step("retriever"):
        await crew.unless_one_dies(ready.serving(plan.retriever.address, "retriever"))
    for collection, texts in documents.items():
        with screen.step(f"collection {collection}") as say:
            await crew.unless_one_dies(_fill(plan.retriever.address, collection, texts, say))
    with screen.step("lora-server"):
        await crew.unless_one_dies(ready.serving(plan.lora_server.address, "lora-server"))
    with screen.step("engine") as say:
        await crew.unless_one_dies(ready.engine_ready(plan.lora_server.address, say))
    for adapter in setup.example.adapters:
        with screen.step(f"adapter {adapter.name}@{adapter.alias}"):
            await crew.unless_one_dies(register_adapter(plan.lora_server.address, adapter, {}))
    with screen.step("gateway"):
        await crew.unless_one_dies(ready.serving(plan.gateway_grpc, "gateway"))
        await crew.unless_one_dies(ready.http_ready(f"http://{plan.gateway.address}"))
    if plan.prometheus is not None:
        monitoring.write_configuration(setup.data_dir, setup.addresses)
        with screen.step(monitoring.NAME):
            await crew.start(plan.prometheus)
            await crew.unless_one_dies(monitoring.serving(plan.prometheus.address))
    return [str(adapter) for adapter in await list_registered(plan.lora_server.address)]


async def _prepare_models(setup: Setup, screen: Screen) -> None:
    name = setup.example.base_model
    with screen.step(f"base model {name}") as say:
        await prepare_base_model(name, setup.data_dir, setup.engine, say)
    with screen.step("embedding model") as say:
        await prepare_embedding_model(setup.python, setup.data_dir, say)


async def _fill(address: str, collection: str, texts: Sequence[Document], say: Callable[[str], None]) -> None:
    await upsert(address, collection, texts, lambda documents: say(f"{documents} of {len(texts)} documents"))


def _keep_previous(service: Service) -> None:
    """A log is of one run; the one before is kept beside it."""
    if service.log.exists():
        service.log.replace(service.log.with_suffix(".log.1"))
