"""A foreign MRD server and client: PyPI ismrmrd's own protocol code, numpy, and nothing of edge_runtime.

The servers python-ismrmrd-server and Gadgetron can't be had from PyPI or Debian. These two speak by `ismrmrd.serialization`, which
the ISMRMRD group maintains, and reconstruct by themselves. As a program it is the server, for one connection after another:

    python tests/foreign_mrd.py FOLDER    # prints its port; keeps each scan's image as FOLDER/<number>.npy
"""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import ismrmrd
import numpy as np
import numpy.typing as npt
from ismrmrd.serialization import ConfigFile, ProtocolDeserializer, ProtocolSerializer

PATIENCE_S = 60.0


def root_sum_of_squares(
    header: ismrmrd.xsd.ismrmrdHeader, acquisitions: Iterable[ismrmrd.Acquisition]
) -> npt.NDArray[np.float32]:
    """The image ``(lines, columns)`` of one fully sampled slice: inverse transform, oversampling cut off, coils combined."""
    space, target = header.encoding[0].encodedSpace.matrixSize, header.encoding[0].reconSpace.matrixSize
    kspace: npt.NDArray[np.complex128] | None = None
    for acquisition in acquisitions:
        if kspace is None:
            kspace = np.zeros((acquisition.active_channels, space.y, space.x), np.complex128)
        kspace[:, acquisition.idx.kspace_encode_step_1] = acquisition.data
    assert kspace is not None, "no acquisition came"
    axes = (1, 2)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)
    first = (space.x - target.x) // 2
    return np.sqrt(np.sum(np.abs(coils[:, :, first : first + target.x]) ** 2, axis=0)).astype(np.float32)


def answer(connection: socket.socket, keep: Path) -> None:
    """One scan: configuration, header, acquisitions, CLOSE; then a text, the image and CLOSE."""
    with connection, connection.makefile("rb") as incoming, connection.makefile("wb") as outgoing:
        configuration, header, *acquisitions = ProtocolDeserializer(incoming).deserialize()
        image = root_sum_of_squares(header, acquisitions)
        np.save(keep, image)
        message = ismrmrd.Image.from_array(image, acquisition=acquisitions[-1])
        message.image_type = ismrmrd.IMTYPE_MAGNITUDE
        message.meta = {"Configuration": str(configuration), "Acquisitions": str(len(acquisitions))}
        with ProtocolSerializer(outgoing) as replies:
            replies.serialize("reconstructed by a foreign server")
            replies.serialize(message)


def request(port: int, scan: Path, configuration: str) -> tuple[list[str], list[ismrmrd.Image]]:
    """Sends an ISMRMRD file to a server; what it answers until its CLOSE: texts and images."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection, ismrmrd.Dataset(str(scan)) as file:

        def send() -> None:
            with connection.makefile("wb") as outgoing, ProtocolSerializer(outgoing) as messages:
                messages.serialize(ConfigFile(configuration))
                messages.serialize(ismrmrd.xsd.CreateFromDocument(file.read_xml_header()))
                for number in range(file.number_of_acquisitions()):
                    messages.serialize(file.read_acquisition(number))

        sender = threading.Thread(target=send)
        sender.start()
        with connection.makefile("rb") as incoming:
            replies = list(ProtocolDeserializer(incoming).deserialize())
        sender.join()
    return [one for one in replies if isinstance(one, str)], [one for one in replies if isinstance(one, ismrmrd.Image)]


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        for scan_number in itertools.count():
            answer(listener.accept()[0], Path(sys.argv[1]) / f"{scan_number}.npy")
