"""What stands beside a result."""

import os
import platform
from typing import Any

import torch


def about() -> dict[str, Any]:
    """The machine and the versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": gpu, "cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
            "commit": os.environ.get("COMMIT", "")}  # fmt: skip
