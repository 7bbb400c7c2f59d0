"""How scanners reach the runtime, one module a link: bytes become `edge_runtime.scan` values here and nowhere else."""
