"""Where a session's answers go, whichever connection there is."""

from __future__ import annotations

import threading
from collections import deque

from edge_runtime.links.mrd_pack import pack_magnitude_image, pack_text
from edge_runtime.links.mrd_sender import Sender
from edge_runtime.scan import Completeness, Image


class Line:
    """The `edge_runtime.session.Outbound` of a scan. Between two connections answers wait for the next one, the newest of them
    where there is not room for all: images are on the disk too, where there is a folder for them. From any thread.

    Args:
        most_bytes: that wait while nobody is connected.

    Attributes:
        simulated: the header says so, and images shall.
    """

    def __init__(self, most_bytes: int) -> None:
        self.simulated = False
        self._most_bytes = most_bytes
        self._changing = threading.Lock()
        self._sender: Sender | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0

    def attach(self, sender: Sender, durable: int | None = None) -> None:
        """From here on, answers go there, those that waited first.

        Args:
            durable: readouts on disk, which a scanner that has come back is told first; ``None``: it is told nothing.
        """
        with self._changing:
            self._sender = sender
            if durable is not None:
                sender.put(_acknowledgement(durable), lasting=False)
            for data in self._kept:
                sender.put(data)
            self._kept.clear()
            self._kept_bytes = 0

    def detach(self, sender: Sender) -> None:
        """Nobody is there; what the scanner did not take waits for the next connection."""
        with self._changing:
            if self._sender is sender:
                self._sender = None
                for data in sender.unsent():
                    self._keep(data)

    def text(self, message: str) -> None:
        """Sends a text; a scanner that has gone is no error."""
        self._put(pack_text(message))

    def acknowledge(self, readouts: int) -> None:
        """Tells who is there how many readouts are on disk; who comes later is told anew."""
        with self._changing:
            if self._sender is not None:
                self._sender.put(_acknowledgement(readouts), lasting=False)

    def image(self, image: Image, series: int, index: int) -> None:
        """Sends an image with its meta attributes."""
        attributes = attributes_of(image, simulated=self.simulated)
        data = pack_magnitude_image(image, series, index, attributes)
        if image.completeness is Completeness.PREVIEW and self._sender is None:
            return  # nobody looks
        self._put(data)

    def has_room(self, size_bytes: int) -> bool:
        """Whether so many bytes more may wait for a scanner that is slow to take its images."""
        sender = self._sender
        return sender is None or sender.has_room(size_bytes)

    def wait_for_room(self, size_bytes: int) -> None:
        """Returns when so many bytes more may wait, or none do."""
        sender = self._sender
        if sender is not None:
            sender.wait_for_room(size_bytes)

    def _put(self, data: bytes) -> None:
        with self._changing:
            if self._sender is None:
                self._keep(data)
            else:
                self._sender.put(data)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes > self._most_bytes:
            self._kept_bytes -= len(self._kept.popleft())


def _acknowledgement(readouts: int) -> bytes:
    return pack_text(f"durable_through {readouts}")


def attributes_of(image: Image, *, simulated: bool) -> dict[str, str | list[str]]:
    """The meta attributes of an image: ISMRMRD's usual names, and ``Edge…`` for what only this runtime says."""
    comments = [image.method.label]
    if image.completeness is not Completeness.FINAL:
        comments.append(f"{image.completeness.value}: {image.measured_share:.0%} of phase encodes measured")
    attributes: dict[str, str | list[str]] = {
        "DataRole": ["Image"],
        "SeriesDescription": image.method.label,
        "ImageComments": "; ".join([*comments, *image.notes]),
        "ImageProcessingHistory": ["edge-runtime", image.method.value],
        "Keep_image_geometry": "1",
        "EdgeMethod": image.method.value,
        "EdgeCompleteness": image.completeness.value,
        "EdgeMeasuredShare": f"{image.measured_share:.4f}",
        "EdgeAcceleration": f"{image.acceleration:.3f}",
        "EdgeRuntime": image.provenance.runtime_version,
    }
    if simulated:
        attributes["EdgeSimulated"] = "1"
    if image.notes:
        attributes["EdgeNotes"] = list(image.notes)
    if image.provenance.bundle_digest:
        attributes["EdgeBundle"] = f"{image.provenance.bundle_name} {image.provenance.bundle_version}"
        attributes["EdgeBundleDigest"] = image.provenance.bundle_digest
        attributes["EdgePrecision"] = image.provenance.precision
    if image.provenance.degraded:
        attributes["EdgeDegraded"] = image.provenance.degraded
    if image.provenance.bundle_override:
        attributes["EdgeBundleOverride"] = image.provenance.bundle_override
    if image.evidence is not None:
        evidence = image.evidence
        attributes["EdgeFittedResidual"] = f"{evidence.fitted_residual:.6g}"
        if evidence.noise_floor is not None:
            attributes["EdgeNoiseFloor"] = f"{evidence.noise_floor:.6g}"
        if evidence.held_out_residual is not None:
            attributes["EdgeHeldOutResidual"] = f"{evidence.held_out_residual:.6g}"
        if evidence.held_out_rms is not None:
            attributes["EdgeHeldOutRms"] = f"{evidence.held_out_rms:.6g}"
        if evidence.learned_share is not None:
            attributes["EdgeLearnedShare"] = f"{evidence.learned_share:.3f}"
        if evidence.learned_share_source:
            attributes["EdgeLearnedShareSource"] = evidence.learned_share_source
    return attributes
