"""Who is connected to whom."""

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow asks while it is imported; see infra/heap.py
