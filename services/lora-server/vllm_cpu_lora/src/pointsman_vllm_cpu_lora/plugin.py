"""The plugin function that vLLM calls in each of its processes before it builds a model. It replaces vLLM's LoRA
kernels for CPUs.
"""

import os

import vllm
from vllm.logger import init_logger

from pointsman_vllm_cpu_lora import guard

SWITCH = "POINTSMAN_VLLM_CPU_LORA"
"""The environment variable that turns the plugin off if it is "off". vLLM's own, faulty kernels stay in use then; this
is for benchmarks."""

log = init_logger("vllm.pointsman_cpu_lora")  # vLLM shows only its own loggers


def register() -> None:
    """Replaces vLLM's LoRA kernels for CPUs, which answer some requests to the base model with an adapter's weights.
    May be called several times.

    Does nothing if vLLM does not run on a CPU, or its own kernels compute correctly. Raises guard.UnknownVllm if they
    compute wrongly in a vLLM version that this package does not know.
    """
    from vllm.platforms import (
        current_platform,
    )  # this import detects the hardware, so it does not happen when the module is imported

    correct(is_cpu=current_platform.is_cpu(), switch=os.environ.get(SWITCH, "on"))


def correct(*, is_cpu: bool, switch: str) -> None:
    """Replaces vLLM's class of LoRA kernels for CPUs if it computes wrongly (see `register`).

    `is_cpu` says whether vLLM runs on a CPU. If `switch` is "off", nothing is replaced. Raises guard.UnknownVllm as
    `register` does.
    """
    if switch == "off":
        log.warning("CPU LoRA kernels of Pointsman are off: %s=off", SWITCH)
    elif not is_cpu:
        log.info("CPU LoRA kernels of Pointsman are off: this vLLM does not run on a CPU")
    else:
        _replace()


def _replace() -> None:
    from vllm.lora.punica_wrapper import punica_cpu

    from pointsman_vllm_cpu_lora.wrapper import SegmentedPunicaWrapper

    if punica_cpu.PunicaWrapperCPU is SegmentedPunicaWrapper:
        return
    if not guard.is_needed(vllm.__version__, punica_cpu.PunicaWrapperCPU):
        log.info("CPU LoRA kernels of Pointsman are off: those of vLLM %s leave base rows alone", vllm.__version__)
        return
    if not guard.is_correct(SegmentedPunicaWrapper):
        raise guard.UnknownVllm(vllm.__version__, "computes adapters in another way than its version says")
    # vLLM looks the class up by this name when it loads a model.
    punica_cpu.PunicaWrapperCPU = SegmentedPunicaWrapper
    log.info("CPU LoRA kernels of Pointsman are active: base rows are left alone, adapters are computed by segments")
