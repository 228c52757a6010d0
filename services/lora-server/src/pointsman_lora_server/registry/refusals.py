"""What a script refuses, as the error that its caller is told."""

from collections.abc import Sequence

from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError


def refusal(subject: str, outcome: str, words: Sequence[str]) -> PointsmanError:
    """`subject` is the version or the alias that the call was about; `outcome` and `words` are the script's."""
    match outcome, *words:
        case "unknown", version:
            return unknown_version(version)
        case "unknown_adapter", name:
            return NotFound(f"no version of '{name}' is registered; List names those that are", code="unknown_adapter")
        case "placed", current:
            return FailedPrecondition(
                f"'{subject}' is placed {current}, which is not what was expected: someone placed it since it was read",
                code="placement_moved",
                param="expected",
            )
        case "unknown_alias", alias:
            return NotFound(f"there is no alias '{alias}'; List names those that are", code="unknown_alias")
        case "moved", current:
            return FailedPrecondition(
                f"'{subject}' points to {current or 'nothing'}, which is not what was expected: someone moved it since "
                "it was read",
                code="alias_moved",
                param="expected_version",
            )
        case "changed", revision:
            return FailedPrecondition(
                f"'{subject}' is at revision {revision}: someone changed it since it was read", code="alias_moved"
            )
        case "not_ready", version, phase, code, error:
            why = f": {error} ({code})" if error or code else ""
            return FailedPrecondition(
                f"{version} is {phase}{why}; only a version that is ready may be served", code="not_ready"
            )
        case "unknown_previous", version:
            return FailedPrecondition(
                f"'{subject}' pointed to {version}, which was deleted since; move the alias to another version",
                code="nothing_to_roll_back",
            )
        case ("nothing",):
            return FailedPrecondition(
                f"'{subject}' never pointed to another version, and it has no canary", code="nothing_to_roll_back"
            )
        case ("stable",):
            return FailedPrecondition(
                f"'{subject}' points to that very version; a canary is another one", code="canary_is_stable"
            )
        case "in_use", aliases:
            return FailedPrecondition(
                f"{subject} is in use by {aliases}; move what points to it first", code="in_use", param="version"
            )
        case "not_retired", phase:
            return FailedPrecondition(
                f"{subject} is {phase}; only a retired or a failed version can be deleted: retire it first",
                code="not_retired",
                param="version",
            )
        case _:
            raise AssertionError(f"a script answered {outcome}, {words}")


def unknown_version(version: str) -> NotFound:
    return NotFound(f"no version '{version}' is registered; List names those that are", code="unknown_version")
