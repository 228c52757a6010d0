"""The cache salts with which a vLLM separates tenants and adapter versions."""

from pointsman_gateway.domain import ANONYMOUS, Caller, Sampling
from pointsman_gateway.engines.engine_settings import EngineSettings

SALTING = EngineSettings(separates_tenants=True, sends_caller=True)
ACME, OTHER = Caller(tenant="acme"), Caller(tenant="other")


def salt(caller: Caller, adapter: str = "", settings: EngineSettings = SALTING) -> object:
    return settings.with_caller(Sampling(), caller, adapter).extra.get("cache_salt")


def test_each_tenant_and_each_adapter_version_has_its_own_salt() -> None:
    salts = [salt(caller, adapter) for caller in (ACME, OTHER) for adapter in ("", "triage@1", "triage@2")]
    assert len(set(salts)) == 6
    assert salts == [salt(caller, adapter) for caller in (ACME, OTHER) for adapter in ("", "triage@1", "triage@2")]


def test_without_keys_adapter_versions_alone_are_separated() -> None:
    assert salt(ANONYMOUS) is None
    assert len({salt(ANONYMOUS, "triage@1"), salt(ANONYMOUS, "triage@2"), None}) == 3


def test_nothing_is_salted_unless_it_is_configured() -> None:
    assert salt(ACME, "triage@1", EngineSettings()) is None
