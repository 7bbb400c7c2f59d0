"""What measured, and what reconstructed."""

from __future__ import annotations

from pydicom.dataset import Dataset

from edge_runtime.delivery.codes import add_known, coded
from edge_runtime.delivery.fit import LO, SH, ST, Fit
from edge_runtime.scan import Method, Provenance, ScanHeader, Scanner

RUNTIME_NAME = "edge-runtime"


def add_equipment(dataset: Dataset, header: ScanHeader, provenance: Provenance, method: Method, fit: Fit) -> None:
    """General Equipment, what measured, and Contributing Equipment, what reconstructed (PS3.3 C.12.1)."""
    add_scanner(dataset, header.scanner, fit)
    equipment = [_processing_equipment(RUNTIME_NAME, provenance.runtime_version, "Reconstruction runtime", fit)]
    if method is Method.LEARNED:
        description = f"Trained model; {model_identity(provenance)}"
        equipment.append(_processing_equipment(provenance.bundle_name, provenance.bundle_version, description, fit))
    dataset.ContributingEquipmentSequence = equipment


def add_scanner(dataset: Dataset, scanner: Scanner, fit: Fit) -> None:
    """General Equipment (PS3.3 C.7.5.1)."""
    dataset.Manufacturer = fit.text("Manufacturer", scanner.manufacturer, LO)
    add_known(dataset, "ManufacturerModelName", fit.text("Scanner model", scanner.model, LO))
    add_known(dataset, "InstitutionName", fit.text("Institution", scanner.institution, LO))
    add_known(dataset, "StationName", fit.text("Station", scanner.station, SH))
    add_known(dataset, "DeviceSerialNumber", fit.text("Serial number", scanner.device_serial_number, LO))


def _processing_equipment(model: str, version: str, description: str, fit: Fit) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = RUNTIME_NAME
    add_known(item, "ManufacturerModelName", fit.text("Model name", model, LO))
    add_known(item, "SoftwareVersions", fit.text("Model version", version, LO))
    item.ContributionDescription = fit.text("Contribution", description, ST)
    return item


def model_identity(provenance: Provenance) -> str:
    """The model, its digest, engine and precision, in words."""
    return (
        f"model {provenance.bundle_name or 'unnamed'} {provenance.bundle_version or 'without version'}, "
        f"SHA-256 {provenance.bundle_digest or 'unknown'}, engine {provenance.engine or 'unknown'}, "
        f"precision {provenance.precision or 'unknown'}"
        + (f"; its quality limits were overridden: {provenance.bundle_override}" if provenance.bundle_override else "")
    )
