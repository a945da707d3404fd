"""What the tests in this folder share. `run.sh` says how to run them.

A run of all tests without a GPU in the Theano flags leaves this folder out.
With one, a device that did not start fails every test.
"""
import functools
import os
import pickle
import subprocess
import sys

import pytest
import theano
import theano.scalar as scalar

# Theano leaves a mark that keeps child processes from the GPU, those of
# pytest-xdist too.
os.environ.pop('THEANO_GPU_IS_ALREADY_ACTIVE', None)
flags = theano.config
on_gpu = (flags.device != 'cpu' or flags.contexts
          or getattr(flags, 'init_gpu_device', ''))
old = theano.__version__.startswith('0.9.')
here = os.path.dirname(os.path.abspath(__file__))
collect_ignore = [name for name in os.listdir(here) if name.startswith('test_')
                  and not (old if name == 'test_old_backend.py' else on_gpu)]


@pytest.fixture(scope='session', autouse=True)
def device_is_active():
    """Fail where Theano has logged an error and gone on with the CPU."""
    if on_gpu:
        gpuarray = sys.modules.get('theano.gpuarray')
        assert gpuarray and gpuarray.pygpu_activated, (
            'device=%s is not active: see the errors that Theano logged at the '
            'start' % flags.device)
        assert None in gpuarray.type.list_contexts()
        assert flags.floatX == 'float32'


@pytest.fixture
def loops():
    """A compilation mode for loops: Theano's on the device are CUDA's alone."""
    mode = theano.compile.get_default_mode()
    return (mode if flags.device.startswith('cuda')
            else mode.excluding('local_gpua_scan_to_gpua'))


@pytest.fixture
def maximum(monkeypatch):
    """`T.maximum` and `T.minimum` on OpenCL, where Theano's do not compile."""
    for op in scalar.Maximum, scalar.Minimum:
        def c_code(self, *args, c_code=op.c_code):
            return c_code(self, *args).replace('nan("")', 'NAN')
        if flags.device.startswith('opencl'):
            monkeypatch.setattr(op, 'c_code', c_code)


@pytest.fixture(scope='session')
def dev1():
    """The name of a second context, next to the default one."""
    from theano.gpuarray.type import get_context
    first, second = get_context(None), get_context('dev1')
    assert second is not first
    # with a single CUDA GPU both may be on that
    assert second.dev != first.dev or flags.device.startswith('cuda')
    return 'dev1'


@pytest.fixture(scope='session')
def child():
    """Start a Python command in a new process; return a function that waits."""
    def start(*command, **more_flags):
        env = dict(os.environ, THEANO_FLAGS=','.join(
            [os.environ['THEANO_FLAGS']]
            + ['%s=%s' % f for f in more_flags.items()]))
        root = os.path.dirname(os.path.dirname(here))
        process = subprocess.Popen(
            [sys.executable] + list(command), cwd=root, env=env,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True)

        def wait():
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
        return wait
    return start


@pytest.fixture(scope='session')
def cpu(child, tmpdir_factory):
    """A function that returns `convnet.results` from a process on the CPU."""
    path = str(tmpdir_factory.mktemp('cpu').join('results'))
    # It compiles while this process does, where Theano would wait its turn.
    wait = child('-m', 'tests.device.convnet', path, device='cpu', contexts='',
                 base_compiledir=os.path.join(flags.compiledir, 'cpu'))

    @functools.lru_cache()
    def results():
        wait()
        with open(path, 'rb') as f:
            return pickle.load(f)
    return results
