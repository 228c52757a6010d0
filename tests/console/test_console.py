"""The console in a real Chromium: every section shows correct data, answers are compared, and adapters are changed."""

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.console.services import OURS, REASONING, SAID, TRIAGE, TRIAGE_BROKEN, TRIAGE_NEXT, ConsoleServices
from tests.console.visitor import Visitor, visiting
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE

CUT_OFF = """() => {
  const right = (element) => element.getBoundingClientRect().right;
  const cells = [...document.querySelectorAll(".figures dd, .panel.flush td, .task td")];
  return cells.filter((cell) => right(cell) > right(cell.closest(".panel")) + 0.5).map((cell) => cell.textContent);
}"""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_section_shows_its_data(visitor: Visitor) -> None:
    adapter = visitor.row("triage_adapter")
    await expect(adapter).to_contain_text("0.80")  # four good ratings and a bad one
    await expect(adapter).to_contain_text(re.compile(r"≥ 0\.\d\d \(0\.4\d now\) of 5"))
    await expect(adapter).to_contain_text(TRIAGE)
    await expect(adapter.locator("[data-name='failed']")).to_have_text("0")
    task = visitor.page.locator("[data-task='triage']")
    await expect(task).to_contain_text("floor 0.60")
    picture = task.get_by_role("img", name="Quality against cost of triage.")
    await expect(picture).to_have_attribute("aria-label", re.compile("Taken now: triage_adapter"))
    await expect(visitor.section("adapters")).to_contain_text("layer 3 of lora_A has a weight that is no number")
    await expect(visitor.page.locator("[data-decision]").first).to_be_visible()
    await expect(visitor.page.locator("#standing")).to_contain_text("local ready")


async def test_a_request_is_answered_on_several_paths_side_by_side(visitor: Visitor) -> None:
    await visitor.ask(IN_TRIAGE)
    decision = visitor.page.locator("#decision")
    await expect(decision).to_contain_text("triage_adapter")
    await expect(decision.locator(".considered li")).to_have_count(3)
    chosen, other = visitor.answer("triage_adapter"), visitor.answer("triage_few_shot")
    await expect(chosen.locator(".text")).to_have_text(SAID[TRIAGE])
    await expect(chosen.locator(".text")).to_have_attribute("aria-busy", "false")
    await expect(other.locator(".text")).to_have_text(SAID["tiny"])
    for answer in (chosen, other):
        await expect(answer.locator("[data-figure='TTFT'] dd")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
        await expect(answer.locator("[data-figure='total'] dd")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
        await expect(answer.locator("[data-figure='tokens'] dd")).to_have_text(re.compile(r"^\d+ \+ \d+$"))
        await expect(answer.locator("[data-figure='dollars'] dd")).to_have_text(re.compile(r"^\$0\.0+[1-9]\d*$"))
    await expect(visitor.page.locator("#ask-status")).to_have_text(re.compile(r"^3 answers, \$0\.0+\d+ together\.$"))


async def test_an_answer_is_rated_and_the_rating_is_stored(visitor: Visitor, services: ConsoleServices) -> None:
    await visitor.ask(IN_CHAT, "chosen")
    answer = visitor.answer("small_talk")
    await answer.get_by_role("button", name="So-so").click()
    await expect(answer.get_by_role("status")).to_have_text("rated")
    async with httpx.AsyncClient(base_url=services.url, headers=OURS, verify=False) as client:
        newest = (await client.get("/console/api/decisions?count=1")).json()["decisions"][0]
        body = (await client.get(f"/console/api/decisions/{newest['id']}")).json()["feedback"]
    assert (newest["path"], body) == ("small_talk", {"rating": "0.5"})


async def test_the_first_screen_shows_the_choice_its_price_and_the_alternatives(visitor: Visitor) -> None:
    await visitor.ask(IN_TRIAGE, "chosen")
    decision = visitor.page.locator("#decision")
    await expect(decision).to_contain_text("expected cost")
    for path in ("triage_adapter", "triage_few_shot"):
        considered = decision.locator(".considered li").filter(has_text=path)
        await expect(considered.locator(".price")).to_have_text(re.compile(r"^(about )?\$0\.\d+ per 1,000$"))
    await expect(visitor.page.locator("#start")).to_be_hidden()


async def test_an_answer_links_to_its_decision(visitor: Visitor) -> None:
    await visitor.ask(IN_TRIAGE, "chosen")
    link = visitor.answer("triage_adapter").get_by_role("link", name="Decision and receipt")
    named = await link.get_attribute("href")
    assert named is not None
    await expect(visitor.page.locator(f"[data-decision='{named.removeprefix('#decision=')}']")).to_be_visible()
    await link.click()
    await expect(visitor.page.get_by_role("dialog")).to_contain_text(named.removeprefix("#decision="))
    await visitor.page.keyboard.press("Escape")
    await visitor.page.goto(visitor.page.url.partition("#")[0] + named)
    await expect(visitor.page.get_by_role("dialog").locator(".considered li")).to_have_count(3)


async def test_a_right_answer_is_stored(visitor: Visitor, services: ConsoleServices) -> None:
    await visitor.ask(IN_CHAT, "chosen")
    answer = visitor.answer("small_talk")
    await answer.get_by_text("Right answer", exact=True).click()
    await answer.get_by_label("Right answer instead of that of small_talk").fill("Good day!")
    await answer.get_by_role("button", name="Send the right answer").click()
    await expect(answer.locator(".right-answer").get_by_role("status")).to_have_text("stored")
    named = await answer.get_by_role("link", name="Decision and receipt").get_attribute("href")
    async with httpx.AsyncClient(base_url=services.url, headers=OURS, verify=False) as client:
        found = await client.get(f"/console/api/decisions/{str(named).removeprefix('#decision=')}")
    assert found.json()["feedback"] == {"right_answer": "Good day!"}


async def test_the_theme_can_be_chosen_for_the_tab(visitor: Visitor) -> None:
    button, ground = visitor.page.locator("#theme-button"), "getComputedStyle(document.body).backgroundColor"
    light = await visitor.page.evaluate(ground)
    await button.click()
    await expect(button).to_have_text("Theme: dark")
    assert await visitor.page.evaluate(ground) != light
    await visitor.page.reload()
    await expect(button).to_have_text("Theme: dark")
    await button.click()
    assert await visitor.page.evaluate(ground) == light


async def test_evaluation_results_are_shown_from_a_report(visitor: Visitor, tmp_path: Path) -> None:
    score, times = {"mean": 0.75, "low": 0.68, "high": 0.81}, {"p50": 1.0, "p95": 2.5}
    path = {"path": "triage_adapter", "score": score, "answers": 150, "well_formed": 0.98, "total": times}
    task = {
        "task": "triage",
        "metric": "exact",
        "paths": [path | {"usd_per_1000": {"prompt": 0.25, "completion": 0.5}}],
    }
    report, other = tmp_path / "report.json", tmp_path / "other.json"
    report.write_text(json.dumps({"tasks": [task]}))
    other.write_text("[]")
    await visitor.page.get_by_label("Results of pointsman eval").set_input_files(report)
    row = visitor.page.locator("#report-body tbody tr")
    await expect(row).to_have_text(re.compile("triage_adapter.*0.75.*0.68 to 0.81.*150.*98 %.*2.50 s.*0.75"))
    await visitor.page.get_by_label("Results of pointsman eval").set_input_files(other)
    await expect(visitor.page.locator("#report-problem")).to_contain_text("other.json is not a report")


async def test_the_regret_of_shadow_requests_is_shown(visitor: Visitor, services: ConsoleServices) -> None:
    await services.ask(IN_POLICY)  # each request of this task is repeated on the path `letter`
    row = visitor.page.locator("#regret-body tbody tr")
    await expect(row).to_have_text(re.compile(r"policy.*handbook.*letter.*[1-9]\d*.*\$"))


@pytest.mark.parametrize("width", [1200, 1350, 1600])
async def test_no_figure_is_cut_off(browser: Browser, services: ConsoleServices, width: int) -> None:
    async with visiting(browser, services.url, width) as visitor:
        await visitor.ask(IN_TRIAGE, "all")
        await expect(visitor.page.locator(".answer .rating")).to_have_count(6)
        await expect(visitor.page.locator("[data-decision]").first).to_be_visible()
        assert await visitor.page.evaluate(CUT_OFF) == []


async def test_a_decision_alone_generates_nothing(visitor: Visitor) -> None:
    await visitor.page.get_by_label("Request", exact=True).fill(IN_CHAT)
    await visitor.page.get_by_role("button", name="Decide only").click()
    await expect(visitor.page.locator("#ask-status")).to_have_text("small_talk, decided; nothing was generated.")
    await expect(visitor.page.locator(".answer")).to_have_count(0)


async def test_the_latest_requests_answer_is_shown(visitor: Visitor) -> None:
    await visitor.ask(IN_CHAT, "all")
    await visitor.ask(IN_TRIAGE, "chosen")
    await expect(visitor.answer("triage_adapter").locator(".rating")).to_be_visible()
    await expect(visitor.page.locator(".answer")).to_have_count(1)
    await expect(visitor.page.locator("#ask-status")).to_have_text(re.compile("^1 answer,"))


async def test_a_decision_is_shown_with_all_considered_paths(visitor: Visitor, services: ConsoleServices) -> None:
    name = await services.ask(IN_TRIAGE)
    await visitor.page.locator(f"[data-decision='{name}']").click()
    drawer = visitor.page.get_by_role("dialog")
    await expect(drawer).to_contain_text("in reserve")
    await expect(drawer).to_contain_text(f"reasoning {REASONING}")
    await expect(drawer.locator(".considered li")).to_have_count(3)
    await expect(drawer).to_contain_text(IN_TRIAGE)
    await visitor.page.keyboard.press("Escape")
    await expect(drawer).to_have_count(0)


async def test_changes_by_others_appear_automatically(visitor: Visitor, services: ConsoleServices) -> None:
    await expect(visitor.page.locator("[data-decision]").first).to_be_visible()
    name = await services.ask(IN_CHAT)
    await expect(visitor.page.locator(f"[data-decision='{name}']")).to_be_visible()


async def test_an_adapter_is_promoted_and_rolled_back_with_the_keyboard_alone(
    visitor: Visitor, services: ConsoleServices
) -> None:
    page = visitor.page
    await expect(visitor.alias("triage@prod")).to_contain_text(TRIAGE)
    await visitor.tab_to(f"Promote {TRIAGE_NEXT}")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(f"It points to {TRIAGE}")
    await expect(dialog.get_by_label("Version")).to_have_value(TRIAGE_NEXT)
    await expect(dialog.get_by_label("Version")).not_to_contain_text(TRIAGE_BROKEN)
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert services.lora_server.changes == []  # Escape cancels
    await page.keyboard.press("Enter")  # the focus returns to the button
    await visitor.tab_to("Move it", most=5)
    await page.keyboard.press("Enter")
    await expect(page.locator("#adapters-outcome")).to_have_text(f"triage@prod points to {TRIAGE_NEXT}.")
    await expect(visitor.alias("triage@prod")).to_contain_text(f"before: {TRIAGE}")
    await expect(visitor.row("triage_adapter")).to_contain_text(TRIAGE_NEXT)
    await visitor.tab_to("Roll back triage@prod")
    await page.keyboard.press("Enter")
    await page.keyboard.type("slower on Mondays")
    await page.keyboard.press("Enter")
    await expect(page.locator("#adapters-outcome")).to_have_text(f"triage@prod points to {TRIAGE}.")
    assert [(change.kind, change.after) for change in services.lora_server.changes] == [
        ("rollback", TRIAGE), ("alias", TRIAGE_NEXT)
    ]  # fmt: skip
    assert services.lora_server.changes[0].reason == "slower on Mondays"


async def test_a_canary_is_set_shown_and_ended(visitor: Visitor) -> None:
    page, alias = visitor.page, visitor.alias("triage@prod")
    await alias.get_by_role("button", name="Set a canary of triage@prod").click()
    await page.get_by_label("Share of users, in per cent").fill("12.5")
    await page.get_by_role("button", name="Set the canary").click()
    await expect(alias).to_contain_text(f"{TRIAGE_NEXT}canary 13 %")
    await alias.get_by_role("button", name="End the canary of triage@prod").click()
    await page.get_by_role("button", name="End it").click()
    await expect(alias).not_to_contain_text(TRIAGE_NEXT)


async def test_a_rejected_change_shows_the_reason(visitor: Visitor, services: ConsoleServices) -> None:
    visitor.complaints.clear()
    await expect(visitor.alias("triage@prod")).to_contain_text(TRIAGE)
    async with httpx.AsyncClient(base_url=services.url, headers=OURS, verify=False) as client:
        await visitor.page.get_by_role("button", name=f"Promote {TRIAGE_NEXT}").click()
        body = {"model": "tiny", "alias": "triage@prod"}
        await client.post("/console/api/adapters/alias", json=body | {"version": TRIAGE_NEXT})
        await visitor.page.get_by_role("button", name="Move it").click()
        outcome = visitor.page.locator("#adapters-outcome")
        await expect(outcome).to_contain_text(f"triage@prod points to {TRIAGE_NEXT}, not to {TRIAGE}")
        await client.post("/console/api/adapters/rollback", json=body)
    assert visitor.complaints == [visitor.complaints[0]]
    assert "409" in visitor.complaints.pop()  # Chromium logs every failed request


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280, 1600])
async def test_the_page_fits_the_screens_width(
    browser: Browser, services: ConsoleServices, width: int, scheme: str
) -> None:
    async with visiting(browser, services.url, width, scheme=scheme) as visitor:
        await visitor.ask(IN_TRIAGE, "all")
        await expect(visitor.page.locator(".answer .rating")).to_have_count(6)
        await expect(visitor.page.locator("[data-decision]").first).to_be_visible()
        assert await visitor.overflow() == 0
        assert await visitor.crowded() == []
        await visitor.page.locator("[data-decision] button").first.click()
        await expect(visitor.page.locator("dialog .considered")).to_be_visible()
        assert await visitor.overflow() == 0


async def test_the_page_renders_without_resources_from_other_hosts(browser: Browser, services: ConsoleServices) -> None:
    async with visiting(browser, services.url, 1280) as visitor:
        await expect(visitor.row("small_talk")).to_be_visible()
        paints = await visitor.page.evaluate(
            "Object.fromEntries(performance.getEntriesByType('paint').map((e) => [e.name, e.startTime]))"
        )
        loaded = await visitor.page.evaluate(
            "performance.getEntriesByType('resource').map((e) => [e.name, e.transferSize])"
        )
    print(", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in paints.items()))
    assert paints["first-contentful-paint"] > 0
    assert all(name.startswith(services.url) for name, _ in loaded), loaded


async def test_texts_are_escaped(visitor: Visitor, services: ConsoleServices) -> None:
    name = await services.ask("<img src=x onerror=alert(1)> <b>Hello</b>, how are you today?")
    row = visitor.page.locator(f"[data-decision='{name}']")
    await expect(row).to_contain_text("<img src=x onerror=alert(1)>")
    assert await visitor.page.locator("img").count() == 0


# -- keys


async def test_without_a_key_the_page_shows_only_a_prompt_for_one(stranger: Visitor, plain_key: str) -> None:
    page = stranger.page
    dialog = page.get_by_role("dialog", name="Key")
    await expect(dialog).to_be_visible()
    assert await page.locator("[data-path]").count() == 0
    await dialog.get_by_label("Key").fill("pm_wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(has_text="this key is unknown")).to_be_visible()
    await page.get_by_role("dialog", name="Key").get_by_label("Key").fill(plain_key)
    await page.keyboard.press("Enter")
    await expect(stranger.row("small_talk")).to_be_visible()
    kept = await page.evaluate("[Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert kept == [["pointsman-key"], [], ""]


async def test_a_user_without_a_key_is_prompted_once_and_can_enter_it_later(stranger: Visitor, plain_key: str) -> None:
    page = stranger.page
    await expect(page.get_by_role("dialog", name="Key")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Show a key").click()
    await page.get_by_role("dialog").get_by_label("Key").fill(plain_key)
    await page.keyboard.press("Enter")
    await expect(stranger.row("small_talk")).to_be_visible()


async def test_an_ordinary_key_shows_adapters_without_changing_them(stranger: Visitor, plain_key: str) -> None:
    await stranger.page.get_by_role("dialog").get_by_label("Key").fill(plain_key)
    await stranger.page.keyboard.press("Enter")
    await expect(stranger.section("adapters")).to_contain_text("This key may not move adapters")
    await expect(stranger.page.get_by_role("button", name="Move triage@prod")).to_be_disabled()


async def test_an_operators_key_can_change_adapters(
    stranger: Visitor, guarded: ConsoleServices, operators_key: str
) -> None:
    page = stranger.page
    await page.get_by_role("dialog").get_by_label("Key").fill(operators_key)
    await page.keyboard.press("Enter")
    await stranger.ask(IN_TRIAGE, "chosen")
    await expect(stranger.answer("triage_adapter").locator(".rating")).to_be_visible()
    await page.get_by_role("button", name=f"Promote {TRIAGE_NEXT}").click()
    await page.get_by_role("button", name="Move it").click()
    await expect(page.locator("#adapters-outcome")).to_have_text(f"triage@prod points to {TRIAGE_NEXT}.")
    assert guarded.lora_server.changes[0].author.startswith("console, key-")
    assert json.dumps(stranger.complaints).count("401") >= 1
