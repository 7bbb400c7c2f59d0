"""Recorded scans, one module a format; all become a `Recording`."""

from edge_runtime.links.files.ismrmrd_hdf5_writer import write_ismrmrd_hdf5
from edge_runtime.links.files.mrd_stream import write_mrd_stream
from edge_runtime.links.files.opening import open_recording
from edge_runtime.links.files.recording import Recording

__all__ = ["Recording", "open_recording", "write_ismrmrd_hdf5", "write_mrd_stream"]
