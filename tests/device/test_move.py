import textwrap

import numpy as np
import pytest
import theano
import theano.sparse
import theano.tensor as T
from theano.gpuarray.type import GpuArrayType

import gradmod
from gradmod.device import is_transfer, move_to_device

from . import graphs

relu = T.nnet.relu


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('broadcastable', [(False,), (True, False), (False,) * 5])
def test_moves_dense_floats_to_the_default_device(broadcastable, dtype):
    x = T.TensorType(dtype, broadcastable)('x')
    moved = move_to_device(x)
    assert moved.type == GpuArrayType(dtype, broadcastable, None)
    assert is_transfer(moved.owner.op)
    assert move_to_device(moved) is moved


def test_moves_constants_and_host_shared_variables():
    for x in T.constant(np.zeros(3, 'float32')), theano.shared(
            np.zeros(3, 'float32'), target='cpu'):
        assert isinstance(move_to_device(x).type, GpuArrayType)


@pytest.mark.parametrize('x', [
    T.fscalar(), T.lmatrix(), T.bvector(), T.cmatrix(),
    T.TensorType('bool', (False,))(), theano.sparse.csr_matrix(dtype='float32'),
    T.shape(T.fmatrix()), theano.gof.generic()], ids=lambda x: str(x.type))
def test_leaves_alone_what_theano_keeps_on_the_host(x):
    assert move_to_device(x) is x


def test_values_stay_where_they_are_pinned():
    for pin in 'target', 'context_name':
        x = T.fmatrix('x')
        setattr(x.tag, pin, 'cpu')
        assert move_to_device(x) is x
        assert move_to_device(x * 2).type == x.type  # computed from x alone
        y = gradmod.GuidedBackprop(relu)(x)
        assert y.type == x.type


def test_pinned_input_costs_no_transfers():
    # the weights are on the device: so is all that comes after them
    W = theano.shared(np.eye(3, dtype='float32'))
    counts = []
    for f in relu, gradmod.GuidedBackprop(relu):
        x = T.fmatrix('x')
        x.tag.target = 'cpu'
        gradient = theano.grad(T.dot(f(T.dot(x, W)), W).sum(), x)
        counts.append(graphs.transfers(theano.function([x], gradient)))
    assert counts[0] == counts[1]


def test_a_context_that_is_not_initialised_is_an_error():
    x = T.fmatrix('x')
    x.tag.target = 'nowhere'
    for move in move_to_device, gradmod.DeconvNet(relu):
        with pytest.raises(ValueError, match='nowhere not defined'):
            move(x + 1)


def test_weights_decide_the_context(dev1):
    # theano.gpuarray's own guess follows only nodes of a single input
    W = theano.shared(np.eye(3, dtype='float32'), target=dev1)
    x = T.fmatrix('x')
    for z in T.dot(x, W), T.nnet.relu(T.dot(x, W)) * 2 + x, W, W[:2]:
        assert move_to_device(z).type.context_name == dev1
    # and the nearest ones win
    V = theano.shared(np.eye(3, dtype='float32'))
    assert move_to_device(T.dot(T.dot(x, W), V)).type.context_name is None
    assert move_to_device(T.dot(T.dot(x, V), W)).type.context_name == dev1
    # an input may be pinned to a device
    x.tag.target = dev1
    assert move_to_device(x).type.context_name == dev1
    assert move_to_device(x + 1).type.context_name == dev1


def test_one_op_for_each_device(dev1):
    rule = gradmod.GuidedBackprop(relu)
    W = theano.shared(np.eye(3, dtype='float32'), target=dev1)
    for x in T.fmatrix('x'), T.dot(T.fmatrix('x'), W):
        rule(x)
        rule(x)
    assert {type.context_name for type in rule.ops} == {None, dev1}


def test_without_a_default_device(child, dev1):
    # contexts=... alone: what belongs to none of them cannot be moved
    device = theano.gpuarray.type.get_context(dev1).dev
    child('-c', textwrap.dedent('''
        import gradmod, numpy as np, theano, theano.tensor as T
        x = T.fmatrix('x')
        W = theano.shared(np.eye(3, dtype='float32'), target='dev1')
        rule = gradmod.GuidedBackprop(T.nnet.relu)
        (node,) = [rule(T.dot(x, W))]
        assert list(rule.ops)[0].context_name == 'dev1'
        try:
            rule(x)
        except ValueError as error:
            assert 'None not defined' in str(error)
        else:
            raise AssertionError
        '''), device='cpu', contexts='dev1->' + device)()


def test_with_a_device_that_is_not_the_default(child):
    # init_gpu_device=... alone: Theano computes on the host unless told
    child('-c', textwrap.dedent('''
        import gradmod, numpy as np, theano, theano.tensor as T
        assert theano.gpuarray.pygpu_activated
        x = T.fmatrix('x')
        rule = gradmod.GuidedBackprop(T.nnet.relu)
        rule(x)
        assert list(rule.ops) == [x.type]
        W = theano.gpuarray.gpuarray_shared_constructor(
            np.eye(3, dtype='float32'))
        rule(T.dot(x, W))
        assert len(rule.ops) == 2
        '''), device='cpu', contexts='', init_gpu_device=theano.config.device)()
