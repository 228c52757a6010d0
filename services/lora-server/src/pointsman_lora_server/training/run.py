"""One training run, from files to a folder."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pointsman_lora_server.training import batches, data
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import Job
