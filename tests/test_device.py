"""`gradmod.device` with stand-ins for the back ends.

`tests/device` has real ones.
"""
import sys
import textwrap
from types import SimpleNamespace

import pytest
import theano
import theano.sparse
import theano.tensor as T

from gradmod import GuidedBackprop
from gradmod._theano import Apply, Op
from gradmod.device import is_transfer, move_to_device

from .internals import Type, generic

FLOATS = [T.TensorType(dtype, broadcastable)
          for dtype, broadcastable in [
              ('float16', (False,)), ('float32', (True, False)),
              ('float64', (False,) * 5)]]
OTHERS = [T.fscalar, T.lmatrix, T.bvector, T.cmatrix, T.zscalar,
          theano.sparse.SparseType('csr', 'float32'), generic]


class DeviceType(Type):
    """The type of values on a stand-in for a GPU."""

    ndim, dtype = 2, 'float32'

    def __init__(self, context_name):
        self.context_name = context_name

    def filter(self, value, strict=False, allow_downcast=None):
        raise NotImplementedError


class HostFromGpu(Op):
    __props__ = ()

    def make_node(self, x):
        return Apply(self, [x], [T.fmatrix()])

    def perform(self, node, inputs, outputs):
        raise NotImplementedError


def on(context):
    """A host variable that is copied from a GPU."""
    return HostFromGpu()(DeviceType(context)())


@pytest.fixture(autouse=True)
def no_back_end(monkeypatch):
    for name in 'theano.gpuarray', 'theano.sandbox.cuda':
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def gpuarray(monkeypatch):
    """A stand-in for ``theano.gpuarray``, as after ``device=cuda``."""
    def use(default=True, activated=True):
        back_end = SimpleNamespace(
            pygpu_activated=activated, gpuarray_shared_constructor=object(),
            basic_ops=SimpleNamespace(
                GpuFromHost=lambda context: lambda x: (x, context)))
        monkeypatch.setitem(sys.modules, 'theano.gpuarray', back_end)
        monkeypatch.setattr(
            theano.compile.sharedvalue.shared, 'constructors',
            [back_end.gpuarray_shared_constructor] if default else [])
    return use


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for ``theano.sandbox.cuda``, as after ``device=gpu``."""
    back_end = SimpleNamespace(cuda_enabled=True,
                               gpu_from_host=lambda x: (x, 'gpu'))
    monkeypatch.setitem(sys.modules, 'theano.sandbox.cuda', back_end)
    return back_end


def test_without_a_back_end_nothing_moves():
    for type in FLOATS + OTHERS:
        x = type('x')
        assert move_to_device(x) is x


def test_a_back_end_that_did_not_start_moves_nothing(gpuarray, cuda):
    gpuarray(activated=False)
    cuda.cuda_enabled = False
    x = T.fmatrix('x')
    assert move_to_device(x) is x
    assert GuidedBackprop(T.nnet.relu)(x).type == x.type


def test_dense_floats_move_and_the_rest_stays(gpuarray, cuda):
    gpuarray()
    floats = [type('x') for type in FLOATS]
    rest = [type('x') for type in OTHERS + [DeviceType(None)]]
    # the new back end comes first; the old one gets float32 alone
    assert [move_to_device(x) for x in floats] == [(x, None) for x in floats]
    assert [move_to_device(x) for x in rest] == rest
    del sys.modules['theano.gpuarray']
    assert [move_to_device(x) for x in floats] == [
        (x, 'gpu') if x.dtype == 'float32' else x for x in floats]
    assert [move_to_device(x) for x in rest] == rest


def test_the_nearest_context_wins(gpuarray):
    gpuarray()
    x = T.fmatrix()
    for z, context in [(x, None),
                       (on('a'), 'a'),
                       (T.dot(x, on('a')), 'a'),
                       (T.dot(on('a') + x, on('b')), 'b'),
                       (T.dot(x * x * x, on('a') * 2) + 1, 'a'),
                       (T.dot(on('a'), on(None)), 'a'),
                       (on(None), None)]:
        assert move_to_device(z) == (z, context)


@pytest.mark.parametrize('pin', ['target', 'context_name'])
def test_pinned_values(gpuarray, pin):
    gpuarray()
    x = T.fmatrix()
    setattr(x.tag, pin, 'a')
    assert move_to_device(x) == (x, 'a')
    y = x + 1
    assert move_to_device(y) == (y, 'a')
    setattr(y.tag, pin, 'cpu')
    assert move_to_device(y) is y
    setattr(y.tag, pin, None)
    assert move_to_device(y) == (y, None)


def test_a_gpu_that_is_not_the_default(gpuarray):
    # init_gpu_device=cuda: only what comes from the GPU belongs there
    gpuarray(default=False)
    x = T.fmatrix()
    assert move_to_device(x) is x
    z = T.dot(x, on(None))
    assert move_to_device(z) == (z, None)


def test_transfers_by_name():
    assert is_transfer(HostFromGpu())
    assert not is_transfer(T.fmatrix().sum().owner.op)


@pytest.fixture
def run(start):
    def run(code):
        status, _, errors = start('-c', textwrap.dedent(code),
                                  flags='cxx=,blas.ldflags=')
        assert status == 0, errors
    return run


def test_no_gpu_package_is_imported_to_look(run):
    # nor tried to be: some of them raise when imported, or start a device
    run('''
        import sys

        class Watch:
            seen = []

            def find_spec(self, name, path=None, target=None):
                if 'gpu' in name or 'cuda' in name:
                    self.seen.append(name)

        import theano, theano.tensor as T
        sys.meta_path.insert(0, Watch())
        import gradmod
        x = T.fmatrix()
        theano.grad(gradmod.GuidedBackprop(T.nnet.relu)(x).sum(), x)
        assert not Watch.seen, Watch.seen
        ''')


def test_theano_has_what_is_looked_for(run):
    # importing the back end without its packages is possible, and harmless
    run('''
        import gradmod, theano, theano.gpuarray as gpuarray
        assert gpuarray.pygpu_activated is False
        assert gpuarray.gpuarray_shared_constructor
        assert theano.compile.sharedvalue.shared.constructors
        for name in 'GpuFromHost', 'HostFromGpu', 'GpuToGpu':
            assert gradmod.device.is_transfer(
                object.__new__(getattr(gpuarray.basic_ops, name)))
        ''')
