#!/usr/bin/env bash
# Makes an environment in which Theano computes on a GPU: on NVIDIA's where its
# driver is, else on an OpenCL device that pocl makes of the processor.
#
#     tests/device/install.sh VENV_DIR
#     tests/device/run.sh VENV_DIR
#
# and for programs of your own
#
#     . VENV_DIR/device.sh
#     THEANO_FLAGS=$DEVICE_FLAGS VENV_DIR/bin/python ...
#
# For Debian and Ubuntu. It takes a minute or two, and may be repeated. What
# apt-get has to install, as root or with sudo, is g++ and, without a driver,
# pocl; what is there already is left alone.
#
# libgpuarray and pygpu are the distribution's where its Python is 3.6 to 3.11.
# Elsewhere they are those of Debian 12, unpacked in VENV_DIR, with a Python
# 3.11. CUDA's libraries are looked for in the usual places and in NVIDIA's
# wheels; without them, wheels are installed into VENV_DIR. cuDNN is not used:
# those of today lack what Theano calls.
#
# These variables are optional:
#
# DEVICE   cuda or opencl, where not the first that is found is meant.
# PYTHON   a Python 3.11 to use instead of the system's. By default, where the
#          system's is newer, a python3.11 on the PATH, or one that uv fetches.
# DEBS     a folder with Debian 12's packages (see below), so that they need not
#          be fetched.
set -euo pipefail

fail() {
    printf '\n*** NO DEVICE TO TEST ON: %s\n\n' "$*" >&2
    exit 1
}

[ $# -eq 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
mkdir -p "$1" || fail "cannot make an environment in $1"
venv=$(cd "$1" && pwd)

pool=http://deb.debian.org/debian/pool/main/libg/libgpuarray
debs='1bfa4e635c8ab9139c910beb2d90c9e2614a70ec9edf5afbb0f263331220219b libgpuarray3
48c86c46a812e4d4734889f09d13275e2dfa19f5814fd4c845f951a8077cbf0a libgpuarray-dev
8657003207c37659cbb64104305b90ca91ef3b8828bb76ed5fd408f9630cefb0 python3-pygpu'

system=/usr/bin/python3
between() {  # PYTHON LOW HIGH
    "$1" -c "import sys; sys.exit(not ($2) <= sys.version_info[:2] <= ($3))" 2>/dev/null
}
packages=()
own=  # whether pygpu is the distribution's own
if [ -z "${PYTHON:-}" ] && between "$system" 3,6 3,11; then
    own=1 PYTHON=$system
    packages+=(python3-dev python3-venv python3-pygpu libgpuarray-dev)
fi
command -v g++ >/dev/null || packages+=(g++)
cuda=  # what LD_LIBRARY_PATH needs, where there is a driver
libraries() {
    cuda=$("${PYTHON:-$system}" "$here/cuda_libraries.py" "$venv/cuda" python3 "$venv/bin/python")
}
if [ "${DEVICE:-cuda}" != opencl ]; then
    status=0
    libraries || status=$?
    case $status in
        0) ;;
        3) [ -z "${DEVICE:-}" ] || fail "no NVIDIA driver (libcuda.so) that answers";;
        4) wheels=$cuda;;
        *) fail "cannot look for CUDA's libraries";;
    esac
fi
[ -n "$cuda" ] || packages+=(pocl-opencl-icd libclblast-dev)

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

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3.11) || {
        "$system" -m venv "$venv/uv" && "$venv/uv/bin/python" -m pip install -q uv &&
            "$venv/uv/bin/uv" python install -q 3.11 &&
            PYTHON=$("$venv/uv/bin/uv" python find 3.11)
    } || fail "no Python 3.11; name one: PYTHON=... $0 $1"
fi
[ -n "$own" ] || between "$PYTHON" 3,11 3,11 ||
    fail "$PYTHON is not a Python 3.11, for which Debian 12's pygpu is made"
"$PYTHON" -m venv "$venv" || fail "cannot make an environment in $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "$root" mako pytest pytest-xdist ${wheels:-} ||
    fail "pip cannot install gradmod into $venv"
[ -z "${wheels:-}" ] || libraries || fail "no CUDA for this driver, not even $wheels"

if [ -n "$own" ]; then
    pygpu=$("$PYTHON" -c 'import importlib.util
print(importlib.util.find_spec("pygpu").submodule_search_locations[0])') ||
        fail "$PYTHON does not find pygpu"
    debian=
else
    [ "$(dpkg --print-architecture)" = amd64 ] || fail "Debian 12's packages are taken for amd64 alone"
    debian=$venv/debian
    mkdir -p "$debian"
    while read -r sum package; do
        deb=${package}_0.7.6-13+b1_amd64.deb
        if [ -n "${DEBS:-}" ]; then
            cp "$DEBS/$deb" "$debian/"
        else
            "$venv/bin/python" -c 'import sys, urllib.request as r; r.urlretrieve(*sys.argv[1:])' \
                "$pool/$deb" "$debian/$deb" || fail "cannot fetch $pool/$deb"
        fi
        (cd "$debian" && sha256sum --check --quiet <<<"$sum  $deb") || fail "$deb is not Debian 12's"
        dpkg -x "$debian/$deb" "$debian"
        echo "$deb is unpacked in $debian"
    done <<<"$debs"
    pygpu=$debian/usr/lib/python3/dist-packages/pygpu
    debian=$debian/usr
fi
# pygpu alone: all of the distribution's packages on the path would hide the
# numpy that was just installed.
site=$("$venv/bin/python" -c 'import sysconfig
print(sysconfig.get_path("platlib"))')
ln -sfn "$pygpu" "$site/pygpu"

default=opencl0:0
[ -z "$cuda" ] || default=cuda
cat >"$venv/device.sh" <<SH
# Where the loader and g++ find what a GPU takes; made by install.sh.
export LD_LIBRARY_PATH='$cuda${cuda:+${debian:+:}}${debian:+$debian/lib}'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
export CPATH='${debian:+$debian/include}'\${CPATH:+:\$CPATH}
export LIBRARY_PATH='${debian:+$debian/lib}'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
: "\${DEVICE:=$default}"
# cuDNN of today lacks what Theano calls.
DEVICE_FLAGS=device=\$DEVICE,floatX=float32,dnn.enabled=False
SH
# shellcheck source=/dev/null
. "$venv/device.sh"
"$venv/bin/python" - "${DEVICE%%[0-9]*}" <<'PY' || fail "pygpu finds no device"
import sys
from pygpu import gpuarray
if sys.argv[1] == 'cuda':
    devices = ['cuda%d' % i for i in range(gpuarray.count_devices('cuda', 0))]
else:
    devices = ['opencl%d:%d' % (platform, device)
               for platform in range(gpuarray.count_platforms('opencl'))
               for device in range(gpuarray.count_devices('opencl', platform))]
for device in devices:
    print(device, gpuarray.init(device).devname)
assert devices
PY
