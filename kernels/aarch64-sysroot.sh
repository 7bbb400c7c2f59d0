#!/usr/bin/env bash
# aarch64-sysroot.sh ROOT PYTHON: lays out the root of a 64-bit ARM machine in the folder ROOT, with Debian's CPython, its headers,
# and the packages that build, run and test the runtime; PYTHON's pip fetches those. ROOT/usr/bin/python runs them under emulation.
# apt keeps everything in ROOT: this machine's own packages and architectures stay as they are, and no rights are needed.
set -euo pipefail
root=$(realpath -m "$1")
python=$(realpath -s "$2")
project=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$root"
mkdir -p "$root"/apt/{lists,archives}/partial
touch "$root/apt/status"  # nothing is installed, so the dependencies come too

cat >"$root/apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Dir::State "$root/apt";
Dir::State::status "$root/apt/status";
Dir::Cache "$root/apt";
END
export APT_CONFIG="$root/apt/apt.conf"
apt-get update -qq
apt-get install -qq --download-only --no-install-recommends python3 libpython3-dev libstdc++6 >/dev/null
for package in "$root"/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
rm -r "$root/apt"
[ -e "$root/lib" ] || ln -s usr/lib "$root/lib"  # since Debian 13 another package brings this link

# Its own name is what Python takes for itself and starts again in subprocesses.
real=$(readlink "$root/usr/bin/python3")
cat >"$root/usr/bin/python" <<END
#!/bin/sh
exec qemu-aarch64 -0 "\$0" -L "$root" "$root/usr/bin/$real" "\$@"
END
chmod +x "$root/usr/bin/python"
# ONNX Runtime reads here what the processor can do, and crashes on the description of an x86 one. This is a Cortex-A72.
mkdir -p "$root/proc"
for processor in 0 1; do
    printf '%s\t: %s\n' processor $processor Features 'fp asimd evtstrm crc32 cpuid' 'CPU implementer' 0x41 \
        'CPU architecture' 8 'CPU variant' 0x0 'CPU part' 0xd08 'CPU revision' 3
    echo
done >"$root/proc/cpuinfo"

requirements() {
    "$python" - "$project/pyproject.toml" <<'END'
import sys, tomli
project = tomli.load(open(sys.argv[1], "rb"))
print(*project["build-system"]["requires"], *project["project"]["dependencies"], sep="\n")
END
    printf '%s\n' pytest hypothesis ismrmrd
}
"$python" -m pip install --quiet --disable-pip-version-check --requirement <(requirements) \
    --target "$root/usr/local/lib/$real/dist-packages" --python-version "${real#python}" --only-binary=:all: \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64
