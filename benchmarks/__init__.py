"""Quality and speed of the runtime, measured beside its peers on the same scans; not installed with the packages."""
