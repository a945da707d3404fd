"""The back end ``theano.sandbox.cuda`` of Theano 0.9: graphs, without a GPU.

Its types and transfers can be built where there is no CUDA, but not compiled.
So these tests look at graphs and compute nothing; they are not GPU tests. They
need Theano 0.9.0, which needs Python 3.6:

    THEANO_FLAGS=device=cpu python3.6 -m pytest tests/device/test_old_backend.py
"""
import pytest
import theano
import theano.sparse
import theano.tensor as T

# importing the back end of a later one skips this file
assert theano.__version__.startswith('0.9.')

from theano.sandbox import cuda
from theano.sandbox.cuda import basic_ops, var
from theano.sandbox.cuda.type import CudaNdarrayType

from gradmod import DeconvNet, GuidedBackprop, ModifiedBackprop, ZeroBackprop
from gradmod.device import is_transfer, move_to_device
from gradmod.op import GradientOverrideOp, expand_gradient_override
from gradmod.rectifiers import guided_rectifier

relu = T.nnet.relu
MATRIX = CudaNdarrayType((False, False))


@pytest.fixture
def enabled(monkeypatch):
    """The back end as after ``device=gpu``, as far as graphs go."""
    assert not cuda.cuda_enabled
    monkeypatch.setattr(cuda, 'cuda_enabled', True)
    monkeypatch.setattr(cuda, 'gpu_from_host', basic_ops.gpu_from_host,
                        raising=False)
    monkeypatch.setattr(var, 'HostFromGpu', basic_ops.HostFromGpu,
                        raising=False)


def rule_ops(rule, x):
    rule(x)
    return rule.ops


def ops_between(x, y):
    return [n.op for n in theano.gof.graph.io_toposort([x], [y])]


def test_inactive_back_end_moves_nothing():
    x = T.fmatrix()
    assert move_to_device(x) is x
    assert list(rule_ops(GuidedBackprop(relu), x)) == [x.type]


def test_moves_float32(enabled):
    for type in T.fvector, T.frow, T.ftensor4:
        x = type()
        moved = move_to_device(x)
        assert moved.type == CudaNdarrayType(x.broadcastable)
        assert isinstance(moved.owner.op, basic_ops.GpuFromHost)
        assert is_transfer(moved.owner.op)
        assert move_to_device(moved) is moved
        assert is_transfer(basic_ops.HostFromGpu())


def test_leaves_the_rest_alone(enabled):
    for x in (T.dmatrix(), T.TensorType('float16', (False,))(), T.fscalar(),
              T.lvector(), T.cmatrix(), theano.sparse.csr_matrix()):
        assert move_to_device(x) is x


def test_op_and_gradient_are_on_the_device(enabled):
    for rule in GuidedBackprop(relu), DeconvNet(relu), ZeroBackprop(relu):
        x = T.fmatrix('x')
        y = rule(x)
        ((type, op),) = rule.ops.items()
        assert type == MATRIX
        assert [v.type for v in op.inputs + op.outputs + op.gradients] == [
            MATRIX, MATRIX, MATRIX]
        gradient = theano.grad(y.sum(), x)
        assert gradient.type == x.type
        # GpuFromHost of the input has a gradient that moves back
        assert isinstance(gradient.owner.op, basic_ops.HostFromGpu)


def test_gradient_of_a_device_variable(enabled):
    x = MATRIX('x')
    gradient = theano.grad((GuidedBackprop(relu)(x) * T.fmatrix()).sum(), x)
    assert gradient.type == MATRIX
    assert guided_rectifier in ops_between(x, gradient)


def test_float64_stays_on_the_host(enabled):
    x = T.dmatrix()
    assert list(rule_ops(GuidedBackprop(relu), x)) == [x.type]
    # also where only the value is of another width than the input
    rule = GuidedBackprop(lambda x: T.cast(relu(x), 'float64'))
    (op,) = rule_ops(rule, T.fmatrix()).values()
    assert op.outputs[0].type == T.dmatrix
    assert op.gradients[0].type == MATRIX


def test_clone(enabled):
    x, x2 = T.fmatrices('x', 'x2')
    y = GuidedBackprop(relu)(x)
    (gradient,) = theano.clone([theano.grad(y.sum(), x)], {x: x2})
    assert x not in theano.gof.graph.inputs([gradient])
    assert x2 in theano.gof.graph.inputs([gradient])


def test_expansion_leaves_device_types(enabled):
    x = MATRIX('x')
    y = GuidedBackprop(relu)(x)
    (op,) = [op for op in ops_between(x, y)
             if isinstance(op, GradientOverrideOp)]
    (new,) = expand_gradient_override.transform(op(x).owner)
    assert new.type == MATRIX
    names = [type(op).__name__ for op in ops_between(x, new)]
    assert 'GradientOverrideOp' not in names
    assert names[0] == 'HostFromGpu' and names[-1] == 'GpuFromHost'


class Rows(ModifiedBackprop):
    def grad(self, inputs, out_grads):
        return out_grads[0][::-1]


def test_shape_checks_on_the_device(enabled):
    x = MATRIX('x')
    gradient = theano.grad(Rows(relu)(x).sum(), x)
    assert gradient.type == MATRIX
    assert [op for op in ops_between(x, gradient)
            if isinstance(op, theano.tensor.opt.Assert)]
    (checked,) = Rows(relu)._make_op((MATRIX,)).gradients
    assert checked.type == MATRIX
