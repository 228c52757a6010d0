"""With more requests than slots, admitted requests are served and the others are rejected immediately."""

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.deployment import Deployment
from tests.gateway.doubles.load import Outcome, under_load


async def test_two_hundred_clients_at_a_gateway_with_sixteen_slots(narrow_deployment: Deployment) -> None:
    gateway = narrow_deployment.gateway

    def refused(outcome: Outcome) -> bool:
        return outcome.code == "overloaded"

    async with under_load(gateway.url, IN_CHAT, clients=200) as load:
        await load.more(200, lambda outcome: outcome.ok)
        assert await gateway.metric("pointsman_in_flight") <= 16
        assert await gateway.metric("pointsman_queue_depth") <= 8
        assert (await gateway.look("/healthz"))[0] == 200
    seen = [outcome for outcome in load.outcomes if refused(outcome)]
    assert seen
    assert all(outcome.ok or refused(outcome) for outcome in load.outcomes)
    assert {outcome.status for outcome in seen} == {503}
    assert all(1 <= int(outcome.retry_after) <= 30 for outcome in seen)
    assert await gateway.present_metric("pointsman_rejected_total", code="overloaded") >= len(seen)
    assert await gateway.metric("pointsman_event_loop_lag_seconds_count") > 0
