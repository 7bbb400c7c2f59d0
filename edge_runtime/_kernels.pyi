import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Complex = npt.NDArray[np.complex64]

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def choose_instruction_set(name: str) -> None: ...
def count_leading_finite(samples: Bytes) -> int: ...

class Workers:
    def __init__(self, threads: int) -> None: ...
    @property
    def threads(self) -> int: ...

class IngestPlan:
    def __init__(self, workers: Workers, coils: int, samples: int, columns: int) -> None: ...
    def execute(
        self,
        samples: Bytes,
        offset: int,
        whitening: Complex | None,
        lines: npt.NDArray[np.int64],
        out: Complex,
        add: bool,
    ) -> None: ...
