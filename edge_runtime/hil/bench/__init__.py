"""A bench for scanners: plays protocols at their true pace into any MRD server and measures from the scanner's side.

Nothing is imported here: a simulated scanner's process loads `edge_runtime.hil.bench.wire` and nothing of the runtime's own code.
"""
