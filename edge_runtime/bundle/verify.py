"""All checks of a bundle as a list: what passed, what failed and why, what was not reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.admission import admit
from edge_runtime.bundle.load import CHECKS, Bundle, load_bundle
from edge_runtime.bundle.trust_store import TrustStore
from edge_runtime.engines import CPU_ENGINES
from edge_runtime.errors import BundleError, EdgeRuntimeError
from edge_runtime.profile import Compilation

GOLDEN = "golden"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        passed: ``None`` where an earlier one failed and it was not made.
        detail: what it saw, or why it failed.
        error: name of the error of `edge_runtime.errors`, where it failed.
    """

    name: str
    passed: bool | None
    detail: str = ""
    error: str = ""


@dataclass(frozen=True)
class Verification:
    """Every check in its order; golden outputs are checked for every form.

    Attributes:
        bundle: ``None`` where it is refused before golden outputs are run.
    """

    checks: tuple[Check, ...]
    bundle: Bundle | None

    @property
    def passed(self) -> bool:
        """Whether a runtime with these engines would use the bundle."""
        return all(check.passed for check in self.checks)


def verify_bundle(
    path: Path,
    trust: TrustStore,
    engines: tuple[str, ...] = CPU_ENGINES,
    threads: int = 1,
    compilation: Compilation | None = None,
) -> Verification:
    """Makes every check.

    Args:
        engines: names of those that may run the forms; the best that is installed and fit does, as in the runtime.
        threads: of the engine.
        compilation: for engines that compile them, and where failures are noted; the usual one, where none is given.
    """
    checks: list[Check] = []
    try:
        bundle = load_bundle(path, trust, lambda name, saw: checks.append(Check(name, True, saw)))
    except BundleError as error:
        checks.append(Check(CHECKS[len(checks)], False, str(error), type(error).__name__))
        left = [*CHECKS[len(checks) :], GOLDEN]
        return Verification((*checks, *(Check(name, None, "not reached") for name in left)), None)
    for precision, form in sorted(bundle.forms.items()):
        name = f"{GOLDEN} {precision}"
        try:
            admitted = admit(bundle, form, engines, threads, compilation or Compilation())
            checks.append(Check(name, True, f"{admitted.description}: relative error {admitted.difference:.1e}"))
        except EdgeRuntimeError as error:
            checks.append(Check(name, False, str(error), type(error).__name__))
    return Verification(tuple(checks), bundle)
