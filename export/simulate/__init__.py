"""From magnitude volumes to raw acquisitions: objects, coils, k-space, noise."""
