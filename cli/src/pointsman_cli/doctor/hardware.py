"""Judges the machine: is it enough for the engine beside the services?"""

from collections.abc import Iterator

from pointsman_cli.doctor.finding import Finding, fail, ok, warn
from pointsman_cli.doctor.machine import Machine

GIB = 2**30
# An engine with a 135M model takes about 2 GB, the services and Valkey together less than 1.
MEMORY_NEEDED = 3 * GIB
MEMORY_WANTED = 5 * GIB
# The base model is 270 MB and its making another 370; an adapter is a few.
DISK_NEEDED = 1 * GIB
DISK_WANTED = 3 * GIB


def check_hardware(machine: Machine) -> Iterator[Finding]:
    yield _python(machine)
    yield _cores(machine)
    yield _instructions(machine)
    yield _memory(machine)
    yield _disk(machine)


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python < (3, 11):
        return fail("python", f"{version}; it takes 3.11 or newer")
    return ok("python", version)


def _cores(machine: Machine) -> Finding:
    if machine.cores < 2:
        return warn("cores", "1; the engine and the services will wait for each other, two or more are better")
    return ok("cores", str(machine.cores))


def _instructions(machine: Machine) -> Finding:
    flags, what = machine.cpu_flags, "cpu"
    if machine.architecture != "x86_64":
        return warn(what, f"{machine.architecture}; the CPU engine was tried on x86_64 only")
    if "avx512f" in flags:
        return ok(what, "AVX512" + (" with bf16" if "avx512_bf16" in flags else ""))
    if "avx2" in flags:
        return warn(what, "AVX2 without AVX512; the engine runs, but slower")
    return fail(what, "neither AVX512 nor AVX2; vLLM's CPU engine needs one of them")


def _memory(machine: Machine) -> Finding:
    if not machine.memory_available:
        return warn("memory", "cannot be told on this system")
    have = f"{machine.memory_available / GIB:.1f} GiB free"
    if machine.memory_available < MEMORY_NEEDED:
        return fail("memory", f"{have}; the engine and the services need {MEMORY_NEEDED // GIB} GiB, close something")
    if machine.memory_available < MEMORY_WANTED:
        return warn("memory", f"{have}; {MEMORY_WANTED // GIB} GiB leave room for training")
    return ok("memory", have)


def _disk(machine: Machine) -> Finding:
    have = f"{machine.disk_free / GIB:.1f} GiB free"
    if machine.disk_free < DISK_NEEDED:
        return fail("disk", f"{have}; the models need {DISK_NEEDED // GIB} GiB, make room or choose another --data-dir")
    if machine.disk_free < DISK_WANTED:
        return warn("disk", f"{have}; {DISK_WANTED // GIB} GiB are better")
    return ok("disk", have)
