#!/usr/bin/env bash
# Runs the tests of this folder, and tests/test_device.py, on a device.
#
#     tests/device/run.sh VENV_DIR [arguments of pytest]
#
# VENV_DIR is an environment made by install.sh. These variables are optional:
#
# DEVICE     what Theano's flag `device` says: by default cuda where install.sh
#            found a driver, else opencl0:0.
# CONTEXTS   a second context. By default on the next GPU, 'dev1->cuda1'; with a
#            single one on that, 'dev1->cuda0', which takes DEVICE=cuda: Theano
#            makes one context of two of the same name. On pocl, of which there
#            are two devices, 'dev1->opencl0:1'.
# PYTHON36   a Python 3.6 with gradmod's requirements, Theano==0.9.0 and pytest:
#            runs test_old_backend.py too, which looks at graphs alone.
# THEANO_FLAGS, POCL_CACHE_DIR
#            by default everything is compiled into a temporary directory; a
#            lasting base_compiledir=... and cache make the next run faster.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
venv=$(cd "$1" && pwd)
python=$venv/bin/python
shift
[ -z "${PYTHON36:-}" ] || PYTHON36=$(realpath -s "$(command -v "$PYTHON36")")
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# shellcheck source=/dev/null
. "$venv/device.sh"
case $DEVICE in
    cuda*)
        count=$("$python" -c 'from pygpu import gpuarray
print(gpuarray.count_devices("cuda", 0))') || count=1
        second=cuda$((count > 1))
        ;;
    opencl*)
        second=opencl0:1
        export POCL_DEVICES=${POCL_DEVICES:-'basic basic'}  # one kind: one cache
        export POCL_CACHE_DIR=${POCL_CACHE_DIR:-$scratch/pocl}
        ;;
    *) echo "DEVICE=$DEVICE is not a device to test on" >&2; exit 2;;
esac
unset THEANO_GPU_IS_ALREADY_ACTIVE  # a parent's mark, which forbids a device
# g++ compiles what starts the device's kernels; there it need not try hard.
flags=base_compiledir=$scratch/theano,gcc.cxxflags=-O0${THEANO_FLAGS:+,$THEANO_FLAGS}

# Theano logs that a device failed, and computes on the CPU: the tests ask.
targets=(tests/device tests/test_device.py)
for argument in "$@"; do
    case $argument in tests/*) targets=();; esac
done
THEANO_FLAGS=$flags,$DEVICE_FLAGS,contexts=${CONTEXTS:-dev1->$second} \
    "$python" -m pytest -p no:cacheprovider -ra "${targets[@]}" "$@"

if [ -n "${PYTHON36:-}" ]; then
    THEANO_FLAGS=$flags,device=cpu \
        "$PYTHON36" -m pytest -p no:cacheprovider tests/device/test_old_backend.py
fi
