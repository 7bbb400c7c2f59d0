"""The commands around a finished model: ``edge-export pack | sign | inspect | verify | key new | key public``.

Only `pack` of a model that was trained here needs torch. `verify` ends with 0 where the runtime would use the bundle and 1 where it
would not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle.describe import describe_bundle
from edge_runtime.bundle.trust_store import TrustStore, load_trust_store

if TYPE_CHECKING:
    from export.keys import SigningKey

EXIT_REFUSED = 1

NO_EXTRA: tuple[str, ...] = ()
SIGNING = ("cyclonedx",)


def add_bundle_commands(commands: Any) -> None:
    """Everything but `pack`, whose configuration and work folder it shares with `train`."""
    _add_sign(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_key(commands)


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Options of `pack` beside configuration and work folder."""
    _add_signing_options(parser)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """``--trust``, as the runtime has it."""
    text = "folder of the public keys that may sign bundles (default: the one that ships)"
    parser.add_argument("--trust", type=Path, metavar="DIR", help=text)


def trust_of(options: argparse.Namespace, otherwise: Path | None = None) -> TrustStore:
    """The trust store that the options name; else this one, and without one that which ships.

    Raises:
        TrustStoreError: it can't be read.
    """
    from edge_runtime.bundle import trust_store

    return load_trust_store(options.trust or otherwise or trust_store.DEFAULT_TRUST)


def pack(options: argparse.Namespace) -> int:
    """``edge-export pack``."""
    from export.keys import check_no_key, load_key
    from export.programs.config import is_program_config

    check_no_key(options.out)
    key = load_key(options.key, options.passphrase_file)  # before whatever takes long
    quality = options.quality.read_bytes() if options.quality else None
    make = _pack_program if is_program_config(options.config) else _pack_trained
    return _written(options, make(options, key, quality), key)


def _pack_trained(options: argparse.Namespace, key: SigningKey, quality: bytes | None) -> str:
    from export.config import ConfigError, load_config

    config = load_config(options.config)
    if options.work is None:
        raise ConfigError(f"{options.config}: --work DIR is missing, the folder that train and quantize wrote")
    from export.bundle import make_bundle  # with torch

    return make_bundle(
        config, options.config, options.work, options.out, key, quality=quality, override=options.override
    )


def _pack_program(options: argparse.Namespace, key: SigningKey, quality: bytes | None) -> str:
    from export.programs.bundle import make_program_bundle
    from export.programs.config import load_program_config

    config = load_program_config(options.config)
    return make_program_bundle(
        config, options.config, options.work, options.out, key, quality=quality, override=options.override
    )


def _add_signing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key that signs (key new)")
    _add_passphrase_file(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle to write")
    parser.add_argument(
        "--quality", type=Path, metavar="FILE", help="quality report (quality.json) of these very graphs"
    )
    text = (
        "pack it although it misses its limits or has no report; the bundle carries the reason and the runtime shows it"
    )
    parser.add_argument("--override", default="", metavar="REASON", help=text)


def _add_passphrase_file(parser: argparse.ArgumentParser) -> None:
    text = "file whose first line is the key's passphrase, mode 0600 (default: ask at the terminal)"
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help=text)


def _add_sign(commands: Any) -> None:
    text = "sign a bundle anew: another key, a quality report, an override; the model stays as it is"
    example = "example: edge-export sign old.edgebundle --key new.pem --out new.edgebundle"
    sign = commands.add_parser("sign", help=text, description=text, epilog=example)
    sign.add_argument("bundle", type=Path, help="the bundle")
    _add_signing_options(sign)
    sign.set_defaults(run=_sign, needed=SIGNING)


def _sign(options: argparse.Namespace) -> int:
    from export.keys import check_no_key, load_key
    from export.sign import sign_bundle

    check_no_key(options.out)
    key = load_key(options.key, options.passphrase_file)
    quality = options.quality.read_bytes() if options.quality else None
    digest = sign_bundle(options.bundle, options.out, key, quality=quality, override=options.override)
    return _written(options, digest, key)


def _written(options: argparse.Namespace, digest: str, key: SigningKey) -> int:
    size = options.out.stat().st_size / 1e6
    print(f"written: {options.out} ({size:.1f} MB, SHA-256 {digest}), signed with key {key.public.id}")
    override = describe_bundle(options.out)["override"]
    if override is not None:
        print(f"quality limits overridden ({'; '.join(override['misses'])}): {override['reason']}")
    elif options.override:
        print("its quality limits are kept: --override is not recorded")
    return 0


def _add_inspect(commands: Any) -> None:
    text = "show what is in a bundle; says nothing of whether to trust it"
    example = "example: edge-export inspect brain2d.edgebundle --json"
    inspect = commands.add_parser("inspect", help=text, description=text, epilog=example)
    inspect.add_argument("bundle", type=Path, help="the bundle")
    inspect.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    inspect.set_defaults(run=_inspect, needed=NO_EXTRA)


def _inspect(options: argparse.Namespace) -> int:
    from edge_runtime.bundle.describe import description_lines

    description = describe_bundle(options.bundle)
    print(json.dumps(description) if options.json else "\n".join(description_lines(description)))
    return 0


def _add_verify(commands: Any) -> None:
    text = "make every check that a device makes before it uses a bundle"
    more = (
        ". Golden outputs are run on the engines of --profile; without it on ONNX Runtime or OpenVINO with one thread, which says "
        "nothing of other engines. Exit code 0: the bundle passes; 1: it does not."
    )
    example = "example: edge-export verify brain2d.edgebundle --trust trust --profile x86-cpu"
    verify = commands.add_parser("verify", help=text, description=text + more, epilog=example)
    verify.add_argument("bundle", type=Path, help="the bundle")
    text = "hardware profile, by name or path: whose engines and threads run the forms, and whose keys may sign without --trust"
    verify.add_argument("--profile", metavar="NAME", help=text)
    add_trust_option(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    verify.set_defaults(run=_verify, needed=NO_EXTRA)


def _verify(options: argparse.Namespace) -> int:
    from edge_runtime.bundle.describe import verification_lines, verification_record
    from edge_runtime.bundle.verify import verify_bundle
    from edge_runtime.profile import load_profile

    if options.profile is None:
        verification = verify_bundle(options.bundle, trust_of(options))
    else:
        profile = load_profile(options.profile)
        trust = trust_of(options, profile.trust)
        verification = verify_bundle(options.bundle, trust, profile.engines, profile.threads, profile.compilation)
    if options.json:
        print(json.dumps({"file": str(options.bundle), **verification_record(verification)}))
    else:
        print(f"{options.bundle}:", *verification_lines(verification), sep="\n")
    return 0 if verification.passed else EXIT_REFUSED


def _add_key(commands: Any) -> None:
    text = "make signing keys"
    example = "example: edge-export key new signing.pem"
    key = commands.add_parser("key", help=text, description=text, epilog=example)
    kinds = key.add_subparsers(required=True, metavar="new | public")
    text = "make an Ed25519 key in a file of its own that only you can read; prints its id"
    example = "example: edge-export key new signing.pem --ask-passphrase"
    new = kinds.add_parser("new", help=text, description=text, epilog=example)
    new.add_argument("file", type=Path, help="where the private key goes; must not exist")
    protection = new.add_mutually_exclusive_group()
    _add_passphrase_file(protection)
    protection.add_argument(
        "--ask-passphrase", action="store_true", help="encrypt it with a passphrase from the terminal"
    )
    new.set_defaults(run=_key_new, needed=NO_EXTRA)
    text = "the public half, for a trust store; its id goes to standard error"
    example = "example: edge-export key public signing.pem --out trust/mine.pem"
    public = kinds.add_parser("public", help=text, description=text, epilog=example)
    public.add_argument("file", type=Path, help="the private key")
    _add_passphrase_file(public)
    public.add_argument("--out", type=Path, metavar="FILE", help="where it goes (default: standard output)")
    public.set_defaults(run=_key_public, needed=NO_EXTRA)


def _key_new(options: argparse.Namespace) -> int:
    from export.keys import ask_passphrase, new_key, read_passphrase

    passphrase = None
    if options.passphrase_file is not None:
        passphrase = read_passphrase(options.passphrase_file)
    elif options.ask_passphrase:
        passphrase = ask_passphrase(f"passphrase of {options.file}: ", twice=True)
    key = new_key(options.file, passphrase)
    print(f"written: {options.file}, key {key.public.id}")
    return 0


def _key_public(options: argparse.Namespace) -> int:
    from edge_runtime.bundle.signature import format_public_key
    from export.keys import load_key, write_public_key

    key = load_key(options.file, options.passphrase_file).public
    if options.out is None:
        print(format_public_key(key), end="")
    else:
        write_public_key(options.out, key)
    print(f"key {key.id}", file=sys.stderr)
    return 0
