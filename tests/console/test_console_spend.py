"""The console's spending: by day, tenant, key, path and model, filtered, saved, and seen by those who may see it."""

import csv
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.console.services import OURS, TRIAGE, ConsoleServices
from tests.console.visitor import Visitor, visiting
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.waiting import found

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAX_LINE_PIXELS = 80
"""A line of text with its padding."""


async def spent(services: ConsoleServices, key: str = "") -> list[dict[str, Any]]:
    """Returns the spending of thirty days, as the API reports it."""
    headers = OURS | ({"authorization": f"Bearer {key}"} if key else {})
    async with httpx.AsyncClient(base_url=services.url, headers=headers, verify=False) as client:
        rows: list[dict[str, Any]] = (await client.get("/console/api/spending")).json()["rows"]
    return rows


async def show_key(visitor: Visitor, key: str) -> None:
    await visitor.page.get_by_role("dialog").get_by_label("Key").fill(key)
    await visitor.page.keyboard.press("Enter")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tenants_keys(guarded: ConsoleServices) -> dict[str, str]:
    """Issues a key of each of two tenants, which has asked something, and one of an admin, and returns their texts."""
    keys = {tenant: (await issue(guarded.valkey.url, tenant=tenant)).credential.text for tenant in ("north", "south")}
    for key in keys.values():
        await guarded.ask(IN_CHAT, key=key)
    keys["admin"] = (await issue(guarded.valkey.url, tenant="ops", admin=True)).credential.text

    async def both_are_counted() -> bool:
        return {"north", "south"} <= {row["tenant"] for row in await spent(guarded, keys["admin"])}

    await found(both_are_counted)
    return keys


async def test_spending_is_grouped_and_filtered(visitor: Visitor, services: ConsoleServices) -> None:
    page, rows = visitor.page, await spent(services)
    adapter = [row for row in rows if row["path"] == "triage_adapter"]
    line = page.locator("#spend-body tr[data-group='triage_adapter']")
    await expect(line.locator("[data-name='requests']")).to_have_text(str(sum(row["requests"] for row in adapter)))
    await expect(line.locator("[data-name='dollars']")).to_contain_text("$0.0")
    await page.locator("#spend-path").select_option(label="triage_adapter")
    await expect(page.locator("#spend-body tr[data-group]")).to_have_count(1)
    await page.get_by_label("By", exact=True).select_option("model")
    models = {row["model"] for row in adapter}
    assert TRIAGE in models
    assert "" not in models  # each answered; a request for the decision only, as "Ask" sends one first, is not counted
    for model in models:
        answered = sum(row["requests"] for row in adapter if row["model"] == model)
        line = page.locator(f"#spend-body tr[data-group='{model}']")
        await expect(line.locator("[data-name='requests']")).to_have_text(str(answered))
    await expect(page.locator("#spend-body tr[data-group]")).to_have_count(len(models))
    await page.get_by_label("By", exact=True).select_option("day")
    await expect(page.locator("#spend-body tr[data-group]").first).to_have_attribute("data-group", rows[-1]["day"])
    await expect(page.get_by_role("img", name="Dollars by day from")).to_be_visible()
    await page.get_by_label("Days", exact=True).select_option("7")
    await expect(page.locator("#spend-total")).to_contain_text("in 7 days (UTC)")


async def test_spending_is_saved_as_csv(visitor: Visitor, services: ConsoleServices) -> None:
    page = visitor.page
    await expect(page.locator("#spend-total")).to_be_visible()
    rows = [row for row in await spent(services) if row["path"] == "small_talk"]
    await page.locator("#spend-path").select_option(label="small_talk")
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export CSV").click()
    file = await (await download.value).path()
    assert (await download.value).suggested_filename.startswith("pointsman-spending-20")
    with file.open(newline="") as opened:
        saved = list(csv.DictReader(opened))
    assert [row["path"] for row in saved] == ["small_talk"] * len(rows)
    assert sum(int(row["requests"]) for row in saved) == sum(row["requests"] for row in rows)
    assert sum(float(row["usd"]) for row in saved) == pytest.approx(sum(row["usd"] for row in rows))


async def test_a_key_sees_its_tenants_spending_only(
    stranger: Visitor, tenants_keys: dict[str, str], guarded: ConsoleServices
) -> None:
    await show_key(stranger, tenants_keys["north"])
    await stranger.page.get_by_label("By", exact=True).select_option("tenant")
    await expect(stranger.page.locator("#spend-body tr[data-group]")).to_have_count(1)
    await expect(stranger.page.locator("#spend-body tr[data-group='north']")).to_be_visible()


async def test_an_admin_sees_all_tenants_and_the_names_of_keys(stranger: Visitor, tenants_keys: dict[str, str]) -> None:
    page = stranger.page
    await show_key(stranger, tenants_keys["admin"])
    await page.get_by_label("By", exact=True).select_option("tenant")
    for tenant in ("north", "south"):
        await expect(page.locator(f"#spend-body tr[data-group='{tenant}']")).to_be_visible()
    await expect(page.locator("#spend-total")).to_contain_text("all tenants")
    await page.get_by_label("By", exact=True).select_option("key")
    prefix = tenants_keys["south"].split("_")[1]
    await expect(page.locator("#spend-body tbody")).to_contain_text(prefix)


async def test_without_spending_a_line_says_what_would_fill_it(stranger: Visitor, guarded: ConsoleServices) -> None:
    await show_key(stranger, (await issue(guarded.valkey.url, tenant="idle")).credential.text)
    body = stranger.page.locator("#spend-body")
    await expect(body).to_contain_text("each request adds its tokens and dollars here")
    box = await body.bounding_box()
    assert box is not None
    assert box["height"] < MAX_LINE_PIXELS


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
async def test_the_spending_fits_and_can_be_used_by_keyboard(
    browser: Browser, services: ConsoleServices, width: int, scheme: str
) -> None:
    await services.ask(IN_TRIAGE)
    async with visiting(browser, services.url, width, scheme=scheme) as visitor:
        await expect(visitor.page.locator("#spend-total")).to_be_visible()
        for group in ("day", "model"):
            await visitor.page.get_by_label("By", exact=True).select_option(group)
            assert await visitor.overflow() == 0
            assert await visitor.crowded() == []
        await visitor.page.locator("#spend-days").focus()
        await visitor.tab_to("Export CSV", most=6)
