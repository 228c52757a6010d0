"""Builds the objects that manage adapter versions, from the settings."""

from dataclasses import dataclass
from secrets import token_hex

from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_lora_server.adapters.load_sequence import LoadSequence
from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.placement_decider import DeciderOptions, PlacementDecider
from pointsman_lora_server.adapters.promotion import Promoter, PromotionGate, roll_back_failing_canaries
from pointsman_lora_server.adapters.reconciler import Reconciler
from pointsman_lora_server.adapters.service import AdapterService
from pointsman_lora_server.adapters.slots import AdapterSlots
from pointsman_lora_server.adapters.state_machine import SmokeTest, VersionStateMachine, VersionValidator
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.domain import AdapterVersion, DesiredState, Placement
from pointsman_lora_server.engine.vllm_client import VllmClient
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.metrics import LoraServerMetrics
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class AdapterParts:
    """The objects of adapter management that the rest of the lora-server uses."""

    service: AdapterService
    reconciler: Reconciler


def build_adapters(
    settings: Settings,
    *,
    redis: BoundedRedis,
    store: ArtifactStore,
    smoke_test: SmokeTest,
    slots: AdapterSlots,
    warm_up: WarmUp,
    sequence: LoadSequence,
    engine: VllmClient,
    engine_state: EngineStateStore,
    metrics: LoraServerMetrics,
) -> AdapterParts:
    default = Placement(by_demand=settings.placement == "auto")
    registry = AdapterRegistry(redis, settings.served_model_name, default)
    loader = AdapterLoader(
        store,
        sequence,
        slots=slots,
        phases=registry,
        engine_state=engine_state,
        metrics=metrics,
        max_wait_seconds=settings.slot_wait_timeout_seconds,
    )
    gate = PromotionGate(settings.protected_aliases)
    engine_name, owner = f"{settings.engine_name} ({settings.public_url})", f"{settings.engine_name} {token_hex(8)}"
    placement = PlacementPlanner(registry, engine_name)
    moves, capacity = settings.placement_moves_per_minute, settings.tokens_per_second
    decider = PlacementDecider(
        registry, engine, lambda: slots.capacity, metrics, DeciderOptions(engine_name, owner, moves, capacity)
    )

    async def ensure_verified(version: AdapterVersion) -> None:
        """Loads the version on this engine and compares its answers with the reference answers, which only this process
        has. Then waits until all engines on which the version is placed hold it.
        """
        await loader.ensure_verified(version)
        await placement.wait_until_warm(version.version, lambda: reconciler.desired)

    async def check_canaries(desired: DesiredState) -> None:
        await roll_back_failing_canaries(registry, desired, metrics.count_canary_rollback)

    state_machine = VersionStateMachine(
        registry,
        VersionValidator(store, smoke_test, registry, warm_up, metrics),
        Promoter(registry, gate, ensure_verified),
        owner=owner,
    )
    reconciler = Reconciler(
        registry, loader, state_machine, engine_state, check_canaries, placement=placement, decider=decider
    )
    service = AdapterService(
        store=store,
        registry=registry,
        loader=loader,
        state_machine=state_machine,
        reconciler=reconciler,
        engine_state=engine_state,
        gate=gate,
        placement=placement,
    )
    return AdapterParts(service, reconciler)
