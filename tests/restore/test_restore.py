"""The commands of docs/howto/backup-and-restore.md bring everything back."""

import time

import pytest

from deploy.helm.render import helm_program
from tests.gateway.doubles.config_folder import IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.tenancy import issue
from tests.restore.installation import Installation, commands_of
from tests.restore.state import (
    answer,
    describe,
    differences,
    make_state,
    redis_content,
    register,
    used_budget,
    write_document,
)


@pytest.mark.parametrize("section", ["Docker Compose", "Kubernetes"])
async def test_what_was_lost_comes_back_by_the_commands_of_the_page(
    installation: Installation, section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if section == "Kubernetes" and helm_program() is None:
        pytest.skip("helm is not installed: make helm-tools")
    services = installation.services
    back_up, restore = (block.replace("127.0.0.1:8082", services.retriever.address) for block in commands_of(section))
    key = await make_state(services)
    before = await describe(services)

    began = time.perf_counter()
    await installation.run(back_up)
    copied = time.perf_counter() - began
    await issue(services.valkey.url, tenant="later")
    await register(services, 7)
    await write_document(services, "later", "later.md", "Nobody has copied this.")
    assert differences(before, await describe(services)).keys() >= {"redis", "collections", "versions"}

    await installation.lose_everything()
    assert (await describe(services))["versions"] == []
    began = time.perf_counter()
    await installation.run(restore)
    with capsys.disabled():
        print(f"\n{section}: copied in {copied:.1f} s, restored in {time.perf_counter() - began:.1f} s")

    assert differences(before, await describe(services)) == {}
    receipts, budget = await used_budget(services)
    assert 0 < receipts <= budget
    for text in (IN_TRIAGE, IN_POLICY):  # an adapter and the retriever answer, and the key is valid
        await answer(services, key, text)
    await installation.act("restart", "valkey")
    assert (await redis_content(services.valkey.url)).keys() >= before["redis"].keys()
