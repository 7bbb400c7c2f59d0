"""The bill of materials of a bundle: CycloneDX 1.6 in JSON.

The model, its graphs with their hashes, what it was imported from, the data it was trained and calibrated on and the libraries that
packed it. It has no time stamp, and its serial number is derived from its content: the same bundle has the same bill.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

MAKERS = (
    "edge-runtime",
    "numpy",
    "onnx",
    "onnxruntime",
    "scipy",
    "torch",
    "nibabel",
    "cryptography",
    "cyclonedx-python-lib",
)
"""Distributions that have a share in a bundle's bytes."""

PACKAGE_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]*", re.ASCII)
"""What `export.adapters.origin` writes behind the name of a package that is installed."""

_SERIAL_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/edge-runtime/bundle")


def installed_makers() -> dict[str, str]:
    """Versions of what makes bundles here, and of Python."""
    found = {"python": platform.python_version()}
    for name in MAKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a bundle of a ready graph needs no torch
            continue
    return found


def make_sbom(
    name: str,
    model_version: str,
    licence: str,
    forms: Mapping[str, bytes],
    provenance: Mapping[str, Any],
    libraries: Mapping[str, str],
) -> bytes:
    """The member ``sbom.cdx.json``.

    Args:
        licence: SPDX identifier; one that SPDX does not know is stated as a name.
        forms: graphs by precision, or by precision and graph.
        provenance: of the manifest; ``training_data`` with ``sha256`` and ``volumes``, ``calibration`` with digests of what INT8
            was calibrated on, and ``origin`` with package and checkpoint become components.
        libraries: versions by distribution.
    """
    graphs = [
        Component(
            name=f"forms/{precision}.onnx",
            type=ComponentType.FILE,
            bom_ref=f"form:{precision}",
            hashes=[_sha256(hashlib.sha256(onnx).hexdigest())],
        )
        for precision, onnx in sorted(forms.items())
    ]
    licences = [DisjunctiveLicense(id=licence) if is_supported_id(licence) else DisjunctiveLicense(name=licence)]
    model = Component(
        name=name,
        version=model_version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        licenses=licences,
        components=graphs,
    )
    makers = [
        Component(
            name=library,
            version=number,
            type=ComponentType.PLATFORM if library == "python" else ComponentType.LIBRARY,
            bom_ref=f"packed-with:{library}",
            purl=None if library == "python" else PackageURL("pypi", name=library, version=number),
        )
        for library, number in sorted(libraries.items())
    ]
    parts = [*makers, *_origin(provenance), *_data(provenance), *_calibration(provenance)]
    bom = Bom(components=parts)
    bom.metadata.component = model
    bom.register_dependency(model, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"], document["serialNumber"]
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = uuid.uuid5(_SERIAL_NAMESPACE, content).urn
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _data(provenance: Mapping[str, Any]) -> list[Component]:
    """The training data, where the provenance tells of it."""
    data = provenance.get("training_data")
    if not isinstance(data, Mapping) or "sha256" not in data:
        return []
    return [
        Component(
            name="training data",
            type=ComponentType.DATA,
            bom_ref="training-data",
            hashes=[_sha256(str(data["sha256"]))],
            properties=[Property(name="edge-runtime:volume", value=str(volume)) for volume in data.get("volumes", ())],
        )
    ]


def _calibration(provenance: Mapping[str, Any]) -> list[Component]:
    """What INT8's ranges were gathered on: a pool of simulated scans or the volumes they were drawn of, and recordings."""
    told = provenance.get("calibration")
    if not isinstance(told, Mapping):
        return []
    digests = {name: told[key] for name, key in (("pool", "pool_sha256"), ("volumes", "volumes_sha256")) if key in told}
    digests |= {f"recording {number}": one["sha256"] for number, one in enumerate(told.get("recordings", ()), start=1)}
    return [
        Component(
            name=f"calibration data: {name}",
            type=ComponentType.DATA,
            bom_ref=f"calibration-data:{name.replace(' ', '-')}",
            hashes=[_sha256(str(digest))],
        )
        for name, digest in digests.items()
    ]


def _origin(provenance: Mapping[str, Any]) -> list[Component]:
    """Package and weights of a model that was trained elsewhere."""
    origin = provenance.get("origin")
    if not isinstance(origin, Mapping):
        return []
    name, _, number = str(origin["package"]).partition(" ")
    installed = PACKAGE_VERSION.fullmatch(number) is not None
    return [
        Component(
            name=name.rstrip(","),
            version=number if installed else None,
            type=ComponentType.LIBRARY,
            bom_ref="model-code",
            purl=PackageURL("pypi", name=name, version=number) if installed else None,
            properties=[Property(name="edge-runtime:class", value=str(origin["model"]))],
        ),
        Component(
            name=str(origin["checkpoint"]),
            type=ComponentType.FILE,
            bom_ref="model-weights",
            hashes=[_sha256(str(origin["checkpoint_sha256"]))],
        ),
    ]


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
