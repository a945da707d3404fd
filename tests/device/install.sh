#!/usr/bin/env bash
# Makes an environment in which Theano computes on an OpenCL device without a
# GPU: pocl, which runs OpenCL on the processor.
#
#     tests/device/install.sh VENV_DIR
#     tests/device/run.sh VENV_DIR
#
# For Debian and Ubuntu, where the distribution's Python is 3.6 to 3.11. The
# packages are installed with apt-get, as root or with sudo; those that are
# there already are left alone. It takes a minute or two, and may be repeated.
#
# With an NVIDIA GPU: its driver and CUDA have to be there, with libcuda.so,
# libnvrtc.so and libcublas.so where the loader finds them (cuDNN is optional).
# Then run this script, and
#
#     DEVICE=cuda0 tests/device/run.sh VENV_DIR
#     DEVICE=cuda0 CONTEXTS='dev1->cuda1' tests/device/run.sh VENV_DIR
#
# The distribution's libgpuarray opens CUDA when it runs, but dates from the
# time of CUDA 9. Where it fails with a later one, build Theano/libgpuarray from
# its source (cmake, make install, ldconfig; then, with VENV_DIR's Python and
# Cython, its pygpu), and let that take the place of the link to pygpu that
# this script leaves in VENV_DIR.
set -euo pipefail

fail() {
    printf '\n*** NO DEVICE TO TEST ON: %s\n\n' "$*" >&2
    exit 1
}

[ $# -eq 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
venv=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
# pygpu is compiled for this Python, not for one that may come first on PATH.
python=/usr/bin/python3
packages=(g++ python3-dev python3-venv python3-pygpu libgpuarray-dev
          pocl-opencl-icd libclblast-dev)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
        missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "this is not Debian or Ubuntu (no apt-get)"
    sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq || true  # old lists may do
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "${missing[@]}" ||
        fail "apt-get cannot install ${missing[*]}"
fi
"$python" -c 'import sys; sys.exit(not (3, 6) <= sys.version_info[:2] < (3, 12))' ||
    fail "$("$python" --version) is not a Python that Theano runs on, and pygpu is made for it"
pygpu=$("$python" -c 'import importlib.util
print(importlib.util.find_spec("pygpu").submodule_search_locations[0])') ||
    fail "$python does not find pygpu"

"$python" -m venv "$venv" || fail "cannot make an environment in $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "$root[tests]" mako || fail "pip cannot install gradmod into $venv"
# pygpu alone: all of the distribution's packages on the path would hide the
# numpy that was just installed.
site=$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_path("platlib"))')
ln -sfn "$pygpu" "$site/pygpu"

"$venv/bin/python" - <<'PY' || fail "pygpu finds no OpenCL device"
from pygpu import gpuarray
devices = ['opencl%d:%d' % (platform, device)
           for platform in range(gpuarray.count_platforms('opencl'))
           for device in range(gpuarray.count_devices('opencl', platform))]
print('OpenCL devices:', ', '.join(devices) or 'none')
assert devices
PY
