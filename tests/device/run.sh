#!/usr/bin/env bash
# Runs the tests of this folder, and tests/test_device.py, on a device.
#
#     tests/device/run.sh VENV_DIR [arguments of pytest]
#
# VENV_DIR is an environment made by install.sh. These variables are optional:
#
# DEVICE     what Theano's flag `device` says: cuda0, opencl0:0 (the default).
# CONTEXTS   a second context, 'dev1->cuda1'. By default it is on DEVICE too; on
#            pocl, of which there are two devices, 'dev1->opencl0:1'.
# PYTHON36   a Python 3.6 with gradmod's requirements, Theano==0.9.0 and pytest:
#            runs test_old_backend.py too, which looks at graphs alone.
# THEANO_FLAGS, POCL_CACHE_DIR
#            by default everything is compiled into a temporary directory; a
#            lasting base_compiledir=... and cache make the next run faster.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
python=$(cd "$1/bin" && pwd)/python
shift
[ -z "${PYTHON36:-}" ] || PYTHON36=$(realpath -s "$(command -v "$PYTHON36")")
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ -z "${DEVICE:-}" ]; then
    DEVICE=opencl0:0
    CONTEXTS=${CONTEXTS:-'dev1->opencl0:1'}
    export POCL_DEVICES=${POCL_DEVICES:-'basic basic'}  # one kind: one cache
    export POCL_CACHE_DIR=${POCL_CACHE_DIR:-$scratch/pocl}
fi
case $DEVICE in
    cuda*|opencl*) ;;
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
THEANO_FLAGS=$flags,device=$DEVICE,contexts=${CONTEXTS:-dev1->$DEVICE},floatX=float32 \
    "$python" -m pytest -p no:cacheprovider -ra "${targets[@]}" "$@"

if [ -n "${PYTHON36:-}" ]; then
    THEANO_FLAGS=$flags,device=cpu \
        "$PYTHON36" -m pytest -p no:cacheprovider tests/device/test_old_backend.py
fi
