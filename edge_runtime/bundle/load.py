"""From a file to a bundle that may be used: every check in its order, the first that fails by name.

Nothing of a bundle is interpreted before its signature is verified but the archive's directory and the signature itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bundle import trust_store
from edge_runtime.bundle.archive import MANIFEST, QUALITY, SIGNATURE, read_archive, read_file
from edge_runtime.bundle.golden import Form, check_golden, parse_array
from edge_runtime.bundle.graph import check_graph
from edge_runtime.bundle.manifest import UNROLLED, Manifest, Settings, UnrolledSettings, parse_manifest
from edge_runtime.bundle.quality import Override, form_digest, missed_limits, parse_report
from edge_runtime.bundle.signature import parse_signature
from edge_runtime.bundle.trust_store import TrustStore, load_trust_store
from edge_runtime.engines import Engine, Session, Tensor
from edge_runtime.errors import BundleAltered, BundleError, BundleMalformed, BundleUnqualified, GoldenMismatch

DEFAULT_BUNDLE = Path(__file__).parent.parent / "bundles" / "brain2d.edgebundle"

CHECKS = ("archive", "key", "signature", "manifest", "members", "revocation", "version", "content", "graphs", "quality")
"""In the order in which `load_bundle` makes them."""

Passed = Callable[[str, str], None]
"""Is told the name of a check that passed, and what it saw."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        digest: SHA-256 of the whole file, hexadecimal.
        signed_by: name of the key in the trust store, and the key's id.
        forms: by precision.
        golden_input: ``(1, channels, rows, columns)``; of a split program see `edge_runtime.modalities.mri.given`.
        override: why it is used although it misses its quality limits; ``None`` where it does not.
        manifest: the manifest as it stands in the file, for provenance.
    """

    name: str
    version: str
    digest: str
    signed_by: tuple[str, str]
    settings: Settings
    forms: Mapping[str, Form]
    golden_input: Tensor
    override: Override | None
    manifest: Mapping[str, Any]

    @property
    def unrolled(self) -> UnrolledSettings:
        """The settings of the unrolled family.

        Raises:
            BundleError: the bundle is of another family.
        """
        if isinstance(self.settings, UnrolledSettings):
            return self.settings
        raise BundleError(f"bundle {self.name} is a split program: one of the family {UNROLLED} is expected")

    def check_golden(self, session: Session, form: Form, engine: Engine) -> float:
        """Runs the golden input; see `edge_runtime.bundle.golden.check_golden`.

        Raises:
            GoldenMismatch: the outputs are farther from the golden ones than the bundle tolerates for this engine.
        """
        try:
            return check_golden(session, form, engine, self.golden_input)
        except GoldenMismatch as error:
            raise GoldenMismatch(f"bundle {self.name} {error}") from error


def load_bundle(path: Path, trust: TrustStore | None = None, passed: Passed | None = None) -> Bundle:
    """Reads and verifies a bundle.

    Args:
        trust: which keys may sign; without it the store that comes with the package.
        passed: is told of every check that passed.

    Raises:
        BundleError: says which check failed; one class a check, see `edge_runtime.errors`.
        TrustStoreError: the store that comes with the package can't be read.
    """
    store = load_trust_store(trust_store.DEFAULT_TRUST) if trust is None else trust
    try:
        return read_bundle(read_file(path), store, passed)
    except BundleError as error:
        text = str(error)
        raise type(error)(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _nobody(check: str, saw: str) -> None:
    """Who is told where nobody asks."""


def read_bundle(content: bytes, trust: TrustStore, passed: Passed | None = None) -> Bundle:
    """Verifies the bytes of a bundle's file; see `load_bundle`.

    Raises:
        BundleError: says which check failed; no file is named.
    """
    passed = passed or _nobody
    members = read_archive(content)
    if MANIFEST not in members:
        raise BundleMalformed(f"{MANIFEST} is missing: this archive is no bundle")
    passed("archive", f"{len(members)} members, {len(content)} bytes")

    signature = parse_signature(members.get(SIGNATURE))
    key = trust.key(signature.key_id)
    signed_by = trust.names[key.id]
    passed("key", f"{signed_by} ({key.id})")
    if not key.verifies(signature.value, members[MANIFEST]):
        raise BundleAltered(
            f"the signature of {signed_by} does not fit {MANIFEST}: the bundle was altered or damaged; copy it again"
        )
    passed("signature", "Ed25519 over the manifest")

    manifest = parse_manifest(members[MANIFEST])
    passed("manifest", f"{manifest.name} {manifest.version}, format {manifest.document['format']}")
    check_members(members, manifest)
    passed("members", f"{len(manifest.files)} as the manifest lists them")

    digest = hashlib.sha256(content).hexdigest()
    trust.check_bundle(digest, hashlib.sha256(members[MANIFEST]).hexdigest(), *_model_digests(manifest))
    passed("revocation", f"neither the key nor {digest} nor a graph in it is revoked")
    trust.check_version(manifest.name, manifest.version)
    passed("version", f"at least {trust.minimum_versions.get(manifest.name, 'any')}")

    golden_input, forms = _content(members, manifest)
    passed("content", f"forms {', '.join(sorted(forms))}; golden input {golden_input.shape}")
    for precision, form in sorted(forms.items()):
        for name, graph in form.graphs.items():
            check_graph(manifest.forms[precision].graphs[name], graph)
    passed("graphs", "standard operators, weights inside")
    missed = _check_quality(members, manifest)
    passed("quality", f"overridden: {'; '.join(missed)}" if missed else f"{len(manifest.limits)} limits kept")
    return Bundle(
        manifest.name,
        manifest.version,
        digest,
        (signed_by, key.id),
        manifest.settings,
        forms,
        golden_input,
        manifest.override if missed else None,
        manifest.document,
    )


def check_members(members: Mapping[str, bytes], manifest: Manifest) -> None:
    """That members are those which the manifest lists.

    Raises:
        BundleAltered: names the first that is not.
    """
    present = set(members) - {MANIFEST, SIGNATURE}
    if present != set(manifest.files):
        raise BundleAltered(f"members and manifest differ: {', '.join(sorted(present ^ set(manifest.files)))}")
    for name, entry in manifest.files.items():
        if len(members[name]) != entry.size:
            raise BundleAltered(
                f"{name} has {len(members[name])} bytes, the manifest says {entry.size}: copy the bundle again"
            )
        if hashlib.sha256(members[name]).hexdigest() != entry.sha256:
            raise BundleAltered(
                f"SHA-256 of {name} is not what the manifest says: the bundle was altered or damaged; copy it again"
            )


def _model_digests(manifest: Manifest) -> Iterator[str]:
    """SHA-256 of every graph, and of every form as quality reports call it; who signs anew leaves them as they are."""
    for precision in manifest.forms:
        graphs = manifest.graph_digests(precision)
        yield from graphs.values()
        yield form_digest(graphs)


def _content(members: Mapping[str, bytes], manifest: Manifest) -> tuple[Tensor, dict[str, Form]]:
    """Golden input and forms; every member that the manifest names is there."""
    if not manifest.forms:
        raise BundleMalformed("the bundle holds no form")
    forms = {
        precision: Form(
            precision,
            {name: members[graph] for name, graph in entry.graphs.items()},
            parse_array(entry.golden_output, members[entry.golden_output]),
            entry.tolerances,
        )
        for precision, entry in manifest.forms.items()
    }
    return parse_array(manifest.golden_input, members[manifest.golden_input]), forms


def _check_quality(members: Mapping[str, bytes], manifest: Manifest) -> tuple[str, ...]:
    """What of the limits is missed, where somebody took responsibility for it."""
    forms = {precision: form_digest(manifest.graph_digests(precision)) for precision in manifest.forms}
    try:
        report = parse_report(members[QUALITY]) if QUALITY in members else None
    except ValueError as error:
        raise BundleMalformed(f"{QUALITY}: {error}") from error
    missed = missed_limits(manifest.limits, forms, report)
    if missed and manifest.override is None:
        raise BundleUnqualified(f"{'; '.join(missed)}: qualify the bundle, or sign it with --override REASON")
    return missed
