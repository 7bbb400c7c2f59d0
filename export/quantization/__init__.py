"""From a graph in single precision to smaller forms of it, under a budget of image quality after the whole reconstruction.

`ranges` gathers what the tensors hold while scans are reconstructed, `forms` writes the graphs, `layers` tells which nodes go
together and what they cost, `scans` measures images, and `search` decides which layers stay in floating point.
"""
