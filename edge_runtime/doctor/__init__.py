"""``edge-runtime doctor``: what this machine is, and what it lacks of what a profile asks for."""

from edge_runtime.doctor.check import Finding, State, examine, profile_for
from edge_runtime.machine import Machine, detect

__all__ = ["Finding", "Machine", "State", "detect", "examine", "profile_for"]
