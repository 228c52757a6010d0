"""Values that are computed once for a request and its receipt, and that other requests do not share."""

from dataclasses import replace

from pointsman_gateway.domain import Decision, Message, Path, Receipt, Request, Usage, round_to_microseconds

DECISION = Decision("dec_1", "chat", 1.0, Path("plain", "tiny"), "forced", "forced", (), ())


def test_a_copied_request_counts_its_own_characters() -> None:
    asked = Request("auto", (Message("system", "Be brief."), Message("user", "Why?")))
    assert asked.characters == 13
    longer = replace(asked, messages=(*asked.messages, Message("user", "And how?")))
    assert (longer.characters, asked.characters) == (21, 13)
    assert replace(longer, messages=asked.messages) == asked


def test_a_copied_receipt_computes_its_own_numbers() -> None:
    receipt = Receipt(DECISION, Usage(), {"prompt": 3 * 10**6}, {"total": 0.12345678}, "ok")
    assert (receipt.cost_parts_usd, receipt.rounded_seconds) == ({"prompt": 3e-6}, {"total": 0.123457})
    dearer = replace(receipt, picodollars={"prompt": 10**12}, seconds={"total": 2.0})
    assert (dearer.cost_parts_usd, dearer.rounded_seconds) == ({"prompt": 1.0}, {"total": 2.0})
    assert receipt.rounded_seconds == round_to_microseconds(receipt.seconds)
