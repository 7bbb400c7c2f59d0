"""Deadlines: how much work goes into a learned image, so that it comes in time and the device does not overheat.

What is decided, and by which rule, is in functions of plain values (`steps`, `heat`); what has been measured is in `times`;
`scheduler` puts them together for sessions. See docs/deadlines.md.
"""

from edge_runtime.deadline.policy import Deadlines, Thermal
from edge_runtime.deadline.scheduler import Decision, Scheduler
from edge_runtime.deadline.steps import Standing, Step

__all__ = ["Deadlines", "Decision", "Scheduler", "Standing", "Step", "Thermal"]
