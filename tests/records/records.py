"""Records with other tenants."""

import json


def of_tenant(tenant: str, record: str) -> str:
    """Returns the record of a decision with another tenant."""
    entry, tab, evidence_key = record.partition("\t")
    return json.dumps(json.loads(entry) | {"tenant": tenant}) + tab + evidence_key
