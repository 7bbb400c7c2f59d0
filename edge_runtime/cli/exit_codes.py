"""What the program ends with; argparse itself ends with 2, wrong usage."""

from __future__ import annotations

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143  # argparse itself ends with 2
