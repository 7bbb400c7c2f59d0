"""Every error this package raises on purpose.

    EdgeRuntimeError
    ├── ScanRefused            something that came from outside is not acceptable; says field, value and mend
    │   ├── ProtocolError      bytes that do not follow the MRD protocol
    │   │   └── Truncated      a stream that ended within a message
    │   ├── HeaderError        an XML header that is invalid, hostile or contradicts itself
    │   ├── ReadoutError       a readout that contradicts the header
    │   ├── UnsupportedScan    a valid scan of a kind that this version does not reconstruct
    │   └── BudgetExceeded     what was declared needs more memory than the profile grants, or than other scans have left
    ├── NoImage                a scan ended before an image was possible; says what was missing
    ├── Abandoned              nobody waits any more for the image that was being made; nothing has failed
    ├── BundleError            a model bundle that is refused; says which check failed, the value and the mend
    │   ├── BundleMissing      no such file, or one that can't be read
    │   ├── BundleMalformed    not laid out as a bundle: archive, bounds, names of members, manifest, arrays
    │   ├── BundleUnsigned     nobody signed it
    │   ├── BundleUntrusted    signed with a key that the trust store does not hold
    │   ├── BundleRevoked      the trust store names its key or itself as revoked
    │   ├── BundleAltered      signature, size or SHA-256 do not agree with the content
    │   ├── BundleTooOld       its format, or its version below the least that the trust store admits
    │   ├── BundleUnsafe       a graph that reaches outside the bundle: external data, custom operators
    │   ├── BundleUnqualified  misses its own quality limits, or has no report, and nobody took responsibility
    │   └── GoldenMismatch     an engine that does not reproduce the golden outputs, or that was never qualified
    ├── TrustStoreError        a trust store that is missing or malformed
    ├── EngineError            no admissible engine, or an engine that failed
    │   ├── CompilationFailed  a graph that an engine's compiler gave up on
    │   ├── EngineFileRefused  a compiled engine of another device, version or bundle, or a damaged one; it is compiled anew
    │   ├── EngineQuarantined  an engine that failed on this device before; says how, and how to try again
    │   ├── EngineHung         an engine that did not answer in time
    │   ├── WrongOutput        an answer of another shape than the graph's
    │   ├── EngineMemory       an engine that ran out of memory; the engine itself may be sound
    │   ├── EngineDeviceLost   an engine under which the GPU failed, for whatever reason; it works again in a new process only
    │   └── PluginMissing      a graph with an operator that neither the engine nor a registered plugin has
    ├── ProgramRefused         a slice that a split program does not take: its size, its coils, its calibration lines
    ├── DeviceError            a GPU that can't be used; says what was found, what is needed, and the mend
    │   ├── NoDevice           no driver, no GPU, or no PyCUDA
    │   ├── DriverTooOld       a driver that is older than the kernels
    │   ├── DeviceUnsupported  a GPU that no kernels were compiled for, or a problem that does not fit its blocks
    │   ├── OutOfDeviceMemory  less memory left than a plan needs
    │   └── DeviceFailed       a kernel or a copy that failed; the process's GPU work is lost
    ├── ProfileError           a hardware profile that is missing or invalid
    ├── DeliveryError          an image that could not be written or sent
    │   ├── DeliveryConfigurationError  a configuration of delivery that is missing or wrong; names key, value and what is expected
    │   ├── WorklistError      a worklist that can't be used or has no such order; says what would do
    │   │   └── ResponseRefused  an entry of a worklist that names no patient or no procedure, or is hostile
    │   ├── OutboxError        an outbox that can't be used: no such folder, of another version, or damaged
    │   │   ├── OutboxFull     less room on its disk than it leaves free
    │   │   ├── OutboxConflict an object under an identifier that stands for other content already
    │   │   └── NotPossible    a wish that an object's state does not allow, such as to hold back what has left
    │   └── DestinationError   a destination that did not take what it was sent, in plain words
    │       ├── Unreachable    nobody answers there, or the connection broke; tried again by itself
    │       ├── NotAdmitted    it answers and turns this device away: AE titles, certificates, tokens; needs a person
    │       └── NotTaken       it refuses one object and would do so again
    ├── RecordingError         a recorded scan that can't be read
    ├── JournalError           a journal that can't be written or read, or a scan that needs one and has none
    ├── ServiceError           a part of the running server that can't begin: its control socket, its metrics
    │   └── AuditError         an audit log that can't be read or written
    ├── SwapRefused            a bundle that was not taken into use in place of the running one; says why
    ├── BenchError             a run of the bench that can't be made or compared; says what is missing, and the mend
    │   └── ProtocolFileError  a scanner's protocol (TOML) that is missing or invalid
    ├── ArgumentError          an array that is not what a kernel's plan was made for; a caller's mistake
    └── PlaybackError          a recorded scan that can't be played; in hil/player.py

`ScanRefused` ends one session and nothing else; its text is sent to the scanner.
"""

from __future__ import annotations


class EdgeRuntimeError(Exception):
    """Base of all errors above."""


class ScanRefused(EdgeRuntimeError):
    """Input from outside that is refused.

    Args:
        field: the name of the offending field, as the protocol calls it.
        value: what came.
        expected: what is acceptable, or how to mend it.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        text = str(value)
        super().__init__(f"{field} = {text if len(text) <= 200 else text[:200] + '…'}: {expected}")


class ProtocolError(ScanRefused):
    """Bytes that do not follow the MRD protocol."""


class Truncated(ProtocolError):
    """A stream that ended within a message."""


class HeaderError(ScanRefused):
    """An XML header that is invalid, hostile or contradicts itself."""


class ReadoutError(ScanRefused):
    """A readout that contradicts the header."""

    @classmethod
    def not_finite(cls, value: object, *, coil: int, sample: int, scan_counter: int) -> ReadoutError:
        """Of a sample that is infinite or not a number."""
        expected = (
            f"finite samples, but not at coil {coil}, sample {sample} of the readout with scan_counter {scan_counter}"
        )
        return cls("data", value, expected)


class UnsupportedScan(ScanRefused):
    """A valid scan of a kind that this version does not reconstruct."""


class BudgetExceeded(ScanRefused):
    """What was declared needs more memory than the profile grants, or than other scans have left."""


def kind_of(error: BaseException) -> str:
    """What may be logged of an error: words of a header, of a client or of a library's never, since they may be a patient's. Errors
    of this package's own about anything else are told in full."""
    if isinstance(error, ScanRefused):
        return f"{type(error).__name__} of {error.field}; the scanner and report.json were told more"
    if isinstance(error, EdgeRuntimeError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__


class NoImage(EdgeRuntimeError):
    """A scan that ended before an image was possible."""


class Abandoned(EdgeRuntimeError):
    """A reconstruction that stopped because nobody waits for its image any more."""


class BundleError(EdgeRuntimeError):
    """A model bundle that is refused."""


class BundleMissing(BundleError):
    """No such bundle, or a file that can't be read."""


class BundleMalformed(BundleError):
    """A file that is not laid out as a bundle: archive, bounds, names of members, manifest, arrays."""


class BundleUnsigned(BundleError):
    """A bundle that nobody signed."""


class BundleUntrusted(BundleError):
    """A bundle that is signed with a key which the trust store does not hold."""


class BundleRevoked(BundleError):
    """A bundle that the trust store names as revoked, or whose key it does."""


class BundleAltered(BundleError):
    """A bundle whose signature, sizes or digests do not agree with its content."""


class BundleTooOld(BundleError):
    """A bundle of an older format, or of a version below the least that the trust store admits."""


class BundleUnsafe(BundleError):
    """A bundle with a graph that reaches outside of it: external data, custom operators."""


class BundleUnqualified(BundleError):
    """A bundle that misses its own quality limits or has no quality report, without anybody who took responsibility."""


class GoldenMismatch(BundleError):
    """An engine that does not reproduce a bundle's golden outputs, or that the bundle was never qualified with."""


class TrustStoreError(EdgeRuntimeError):
    """A trust store that is missing or malformed."""


class EngineError(EdgeRuntimeError):
    """No admissible engine, or an engine that failed."""


class ProgramRefused(EdgeRuntimeError):
    """A slice that a split program does not take, or a stage that is out of place."""


class CompilationFailed(EngineError):
    """A graph that an engine's compiler gave up on, on this device."""


class EngineFileRefused(EngineError):
    """A compiled engine that is not of this device, version, bundle and profile, or that is damaged."""


class EngineQuarantined(EngineError):
    """An engine that has failed on this device, with these versions, before."""


class EngineHung(EngineError):
    """An engine that did not answer in time."""


class WrongOutput(EngineError):
    """An answer of another shape than the graph's."""


class EngineMemory(EngineError):
    """An engine that ran out of memory."""


class EngineDeviceLost(EngineError):
    """An engine under which the GPU failed."""


class PluginMissing(EngineError):
    """A graph with an operator that the engine does not have, and for which no plugin is registered."""


class DeviceError(EdgeRuntimeError):
    """A GPU that can't be used."""


class NoDevice(DeviceError):
    """No driver, no GPU, or no PyCUDA."""


class DriverTooOld(DeviceError):
    """A driver that is older than what the kernels were compiled with."""


class DeviceUnsupported(DeviceError):
    """A GPU that no kernels were compiled for, or a problem that does not fit its blocks."""


class OutOfDeviceMemory(DeviceError):
    """Less memory left on the GPU than a plan needs."""


class DeviceFailed(DeviceError):
    """A kernel or a copy that failed."""


class ProfileError(EdgeRuntimeError):
    """A hardware profile that is missing or invalid."""


class DeliveryError(EdgeRuntimeError):
    """An image that could not be written or sent."""


class DeliveryConfigurationError(DeliveryError):
    """A configuration of delivery that is missing or wrong."""


class WorklistError(DeliveryError):
    """A worklist that can't be used, or that has no such order."""


class ResponseRefused(WorklistError):
    """An entry of a worklist that can't be an order."""


class OutboxError(DeliveryError):
    """An outbox that can't be used."""


class OutboxFull(OutboxError):
    """Less room on the outbox's disk than it leaves free."""


class OutboxConflict(OutboxError):
    """An object whose identifier stands for other content already."""


class NotPossible(OutboxError):
    """A wish that an object's state does not allow."""


class DestinationError(DeliveryError):
    """A destination that did not take what it was sent."""


class Unreachable(DestinationError):
    """Nobody answers at a destination, or the connection to it broke."""


class NotAdmitted(DestinationError):
    """A destination that answers and turns this device away."""


class NotTaken(DestinationError):
    """A destination that refuses one object and would do so again."""


class JournalError(EdgeRuntimeError):
    """A journal that can't be written or read, or a scan that needs one and has none; names the scan and the cause."""


class RecordingError(EdgeRuntimeError):
    """A recorded scan that can't be read."""


class ServiceError(EdgeRuntimeError):
    """A part of the running server that can't begin, or that can't be reached."""


class AuditError(ServiceError):
    """An audit log that can't be read or written."""


class SwapRefused(EdgeRuntimeError):
    """A bundle that was not taken into use in place of the running one."""


class BenchError(EdgeRuntimeError):
    """A run of the bench that can't be made, or reports that can't be compared."""


class ProtocolFileError(BenchError):
    """A scanner's protocol that is missing or invalid."""


class ArgumentError(EdgeRuntimeError, ValueError):
    """An argument that is not what a kernel's plan was made for.

    Args:
        name: of the argument.
        came: what it was.
        expected: what it should have been.
    """

    def __init__(self, name: str, came: object, expected: str) -> None:
        super().__init__(f"{name}: {expected} expected, {came} came")
