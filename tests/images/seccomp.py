"""The system calls that a container may use (`seccompProfile: RuntimeDefault`), in runc's format."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROFILE = Path("/usr/share/containers/seccomp.json")
"""Podman's profile, which is part of buildah. containerd's is equal except for the system calls in the next
constant."""

ONLY_WITH_SYS_NICE = {"get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"}
"""System calls that containerd and Docker refuse without the capability SYS_NICE, and that vLLM uses on CPUs."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def default_profile() -> dict[str, Any]:
    """Returns the profile for a container without capabilities on this machine."""
    profile = json.loads(PROFILE.read_text())
    machine = f"SCMP_ARCH_{platform.machine().upper()}"
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [machine],
        "syscalls": list(_rules(profile["syscalls"])),
    }


def _rules(rules: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        needs = rule.get("includes", {})
        if needs.get("caps") or ARCHITECTURES[platform.machine()] not in needs.get("arches", ARCHITECTURES.values()):
            continue
        allowed = rule["action"] == "SCMP_ACT_ALLOW"
        names = [name for name in rule["names"] if not (allowed and name in ONLY_WITH_SYS_NICE)]
        kept = {key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key)}
        yield {"names": names, **kept}
    yield {"names": sorted(ONLY_WITH_SYS_NICE), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
