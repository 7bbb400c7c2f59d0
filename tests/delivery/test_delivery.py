"""Objects really arrive: at Orthanc by C-STORE and STOW-RS, at storescp, on a medium; and what arrived is what was sent."""

from __future__ import annotations

import io
import json
import socket
import ssl
from pathlib import Path

import pytest
from delivery_objects import DIMSE, add_images, settings_of, settings_text, write_images
from delivery_parts import Authority, Gate, all_are, sending, until
from pacs_fixtures import StartStoreScp
from pydicom import dcmread
from pydicom.fileset import FileSet
from pydicom.uid import EnhancedMRImageStorage
from pynetdicom import AE

from benchmarks.peers.pacs import EDGE_PORT, PACS_HTTP_PORT, STORESCP_AE, STORESCP_PORT, Orthanc
from benchmarks.server import serving
from edge_runtime.delivery.configuration import load_delivery, parse_delivery
from edge_runtime.delivery.destinations.callback import listening
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox

pytest_plugins = ["pacs_fixtures"]  # real PACS, for the tests of delivery alone

pytestmark = pytest.mark.full

WEB = """
[[destination]]
name = "pacs"
kind = "web"
url = "http://127.0.0.1:{port}/dicom-web"
token_file = "token"
first_retry_s = 0.1
longest_retry_s = 0.5
"""
FOLDER = """
[[destination]]
name = "pacs"
kind = "folder"
path = "medium"
dicomdir = {dicomdir}
first_retry_s = 0.1
"""


def same(sent: Path, stored: bytes) -> None:
    """Every element is what it was, and every pixel; the receiver's own file meta information is its own."""
    ours, theirs = dcmread(sent), dcmread(io.BytesIO(stored))
    assert {e.tag for e in ours} == {e.tag for e in theirs}
    for element in ours:
        assert theirs[element.tag].value == element.value, element.tag


def test_c_store_with_storage_commitment_by_call_back(orthanc: Orthanc, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 12)
    settings = settings_of(tmp_path, DIMSE, callback=True)
    assert settings.device.callback is not None and settings.device.callback.port == EDGE_PORT
    with Outbox(settings.outbox.folder) as outbox, listening(settings, settings.device.callback, outbox):
        uids = add_images(outbox, paths)
        with sending(settings, outbox):
            until(all_are(outbox, State.COMMITTED))
        assert orthanc.instances() == set(uids)
        for path, uid in zip(paths, uids):
            same(path, orthanc.file(uid))


def test_c_store_to_storescp_in_the_syntax_that_it_takes(start_storescp: StartStoreScp, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 3)
    text = DIMSE.replace("14242", str(STORESCP_PORT)).replace("TESTPACS", STORESCP_AE)
    settings = settings_of(tmp_path, text + 'confirm = "none"\n')
    with start_storescp("+xi") as pacs, Outbox(settings.outbox.folder) as outbox:  # implicit VR only
        add_images(outbox, paths)
        with sending(settings, outbox):
            until(all_are(outbox, State.SENT))
        stored = sorted(pacs.folder.iterdir())
        assert len(stored) == 3
        by_uid = {str(dcmread(path).SOPInstanceUID): path for path in stored}
        for path in paths:
            ours = dcmread(path)
            theirs = dcmread(by_uid[str(ours.SOPInstanceUID)])
            assert theirs.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
            assert theirs.PixelData == ours.PixelData and theirs.PatientID == ours.PatientID


def test_stow_with_a_bearer_token_and_qido(orthanc: Orthanc, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 12)
    settings = settings_of(tmp_path, WEB.format(port=8765))
    (tmp_path / "token").write_text("expired\n")
    with Gate(8765, PACS_HTTP_PORT, "secret-1"), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, paths)
        with sending(settings, outbox) as sender:
            until(lambda: "the token is refused" in sender.tally.reasons.get("pacs", ""))
            assert "expired" not in outbox.line("pacs").reason
            (tmp_path / "token").write_text("secret-1\n")  # a new one takes effect at once
            until(all_are(outbox, State.COMMITTED))
        assert orthanc.instances() == set(uids)
        for path, uid in zip(paths, uids):
            same(path, orthanc.file(uid))


@pytest.mark.parametrize("trouble", ["none", "rogue", "no certificate of ours"])
def test_https_with_certificates_of_both_sides(orthanc: Orthanc, tmp_path: Path, trouble: str) -> None:
    good = Authority(tmp_path / "good")
    theirs = (Authority(tmp_path / "rogue", "rogue") if trouble == "rogue" else good).issue("pacs")
    ours = good.issue("edge")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*theirs)
    context.load_verify_locations(good.path)
    context.verify_mode = ssl.CERT_REQUIRED
    files = f'[destination.tls]\nauthorities = "{good.path}"\n'
    if trouble != "no certificate of ours":
        files += f'certificate = "{ours[0]}"\nkey = "{ours[1]}"\n'
    settings = settings_of(tmp_path, WEB.format(port=8765).replace("http:", "https:") + files)
    (tmp_path / "token").write_text("t")
    with Gate(8765, PACS_HTTP_PORT, "t", context), Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, write_images(tmp_path / "images", 2))
        with sending(settings, outbox):
            if trouble == "none":
                until(all_are(outbox, State.COMMITTED))
                assert orthanc.instances() == set(uids)
                return
            until(lambda: outbox.line("pacs").failures)
        reason = outbox.line("pacs").reason
        said = {"rogue": "not signed by an authority", "no certificate of ours": "it wants one"}[trouble]
        assert said in reason, reason
        assert orthanc.instances() == set()


def test_reports_of_commitment_over_tls_only_from_who_shows_a_certificate(loopback: None, tmp_path: Path) -> None:
    good, rogue = Authority(tmp_path / "good"), Authority(tmp_path / "rogue", "rogue")
    files = good.issue("edge")
    text = settings_text(DIMSE, callback=True).replace(
        'callers = ["TESTPACS"]\nplain = true\n',
        'callers = ["TESTPACS"]\n[device.callback.tls]\n'
        f'authorities = "{good.path}"\ncertificate = "{files[0]}"\nkey = "{files[1]}"\n',
    )
    settings = parse_delivery(text, "test", tmp_path)
    assert settings.device.callback is not None and settings.device.callback.tls is not None
    entity = AE(ae_title="TESTPACS")
    entity.add_requested_context("1.2.840.10008.1.1")
    with Outbox(settings.outbox.folder) as outbox, listening(settings, settings.device.callback, outbox):
        for authority, admitted in ((good, True), (rogue, False)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(good.path)
            context.load_cert_chain(*authority.issue("pacs"))
            association = entity.associate("127.0.0.1", EDGE_PORT, ae_title="EDGE1", tls_args=(context, "localhost"))
            assert association.is_established is admitted
            if admitted:
                assert association.send_c_echo().Status == 0
                association.release()


def test_a_web_server_that_is_busy_is_tried_again(orthanc: Orthanc, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, WEB.format(port=8765))
    (tmp_path / "token").write_text("t")
    with Gate(8765, PACS_HTTP_PORT, "t") as gate, Outbox(settings.outbox.folder) as outbox:
        gate.fail_with = 503
        uids = add_images(outbox, write_images(tmp_path / "images", 2))
        with sending(settings, outbox) as sender:
            until(lambda: "status 503" in sender.tally.reasons.get("pacs", ""))
            assert {one.attempts for one in outbox.deliveries()} == {0}, "it was not about these objects"
            gate.fail_with = 0
            until(all_are(outbox, State.COMMITTED))
    assert orthanc.instances() == set(uids)


def test_a_web_server_that_refuses_objects(orthanc: Orthanc, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, WEB.format(port=8765) + "attempts = 2\n")
    (tmp_path / "token").write_text("t")
    with Gate(8765, PACS_HTTP_PORT, "t") as gate, Outbox(settings.outbox.folder) as outbox:
        gate.fail_with = 400
        add_images(outbox, write_images(tmp_path / "images", 3))
        with sending(settings, outbox):
            until(all_are(outbox, State.DEAD))
            assert "status 400" in outbox.deliveries()[0].reason
            gate.fail_with = 0
            outbox.retry(None, None)
            until(all_are(outbox, State.COMMITTED))


@pytest.mark.parametrize("dicomdir", ["false", "true"])
def test_a_medium_that_is_not_there_at_first(tmp_path: Path, dicomdir: str) -> None:
    paths = write_images(tmp_path / "images", 5)
    settings = settings_of(tmp_path, FOLDER.format(dicomdir=dicomdir))
    medium = tmp_path / "medium"
    with Outbox(settings.outbox.folder) as outbox:
        uids = add_images(outbox, paths[:3])
        with sending(settings, outbox):
            until(lambda: "is the medium in?" in outbox.line("pacs").reason)
            medium.mkdir()
            until(all_are(outbox, State.COMMITTED))
            uids += add_images(outbox, paths[3:])
            until(all_are(outbox, State.COMMITTED))
    files = [path for path in medium.rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    assert {str(dcmread(path).SOPInstanceUID) for path in files} == set(uids) and len(files) == 5
    assert {path.read_bytes() for path in files} == {path.read_bytes() for path in paths}
    assert not list(medium.glob(".*"))
    if dicomdir == "true":
        sets = [FileSet(path) for path in medium.glob("*/DICOMDIR")]
        assert {str(one.SOPInstanceUID) for files_ in sets for one in files_} == set(uids)


def test_images_of_a_scan_go_from_the_server_to_the_pacs(
    orthanc: Orthanc, tmp_path: Path, whole_scan: bytes, tiny_bundle: Path
) -> None:
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(DIMSE, callback=True).replace('"none"', '"learned"', 1))
    with serving("--delivery", str(configuration), "--classical-only") as server:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(whole_scan)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        until(lambda: len(orthanc.instances()) == 1)
        report = server.latest_report()
        (image,) = [one for one in report["images"] if one["method"] == "classical"]
        same(Path(image["dicom"]), orthanc.file(next(iter(orthanc.instances()))))
        with Outbox(load_delivery(configuration).outbox.folder) as outbox:
            until(all_are(outbox, State.COMMITTED))
    assert json.dumps(report)


def test_a_series_of_a_scan_goes_from_the_server_as_one_object(
    orthanc: Orthanc, tmp_path: Path, whole_scan: bytes, tiny_bundle: Path
) -> None:
    configuration = tmp_path / "delivery.toml"
    configuration.write_text(settings_text(DIMSE + 'objects = "enhanced"\n', callback=True))
    with serving("--delivery", str(configuration), "--classical-only") as server:
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(whole_scan)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        until(lambda: len(orthanc.instances()) == 1)
        stored = dcmread(io.BytesIO(orthanc.file(next(iter(orthanc.instances())))))
        assert (stored.SOPClassUID, stored.NumberOfFrames) == (EnhancedMRImageStorage, 1)
        with Outbox(load_delivery(configuration).outbox.folder) as outbox:
            until(all_are(outbox, State.COMMITTED))
