import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod import GuidedBackprop, ZeroBackprop
from gradmod._theano import OpFromGraph
from gradmod.op import GradientOverrideOp, expand_gradient_override

from .internals import Function
from .test_base import FAST, GUIDED, OPAQUE, PY, Times, W, Z, check

pytestmark = pytest.mark.usefixtures('no_compiler')


def ops_of(function):
    """All ops of a compiled function, those within scan included."""
    ops = []
    for node in function.maker.fgraph.toposort():
        ops.append(node.op)
        if isinstance(getattr(node.op, 'fn', None), Function):
            ops.extend(ops_of(node.op.fn))
    return ops


def is_opaque(function):
    return any(isinstance(op, GradientOverrideOp) for op in ops_of(function))


# expansion

@pytest.mark.parametrize('mode', [FAST, PY])
def test_no_op_of_ours_is_left_in_a_compiled_function(mode):
    z, w = T.fmatrices('zw')
    inner = GuidedBackprop(T.nnet.relu)
    y = inner(inner(z) - 1)
    first = theano.grad((y * w).sum(), z)
    second = theano.grad((first * w).sum(), w)
    outer = Times(lambda z: inner(z) * 2, 3)  # in a loop, around another
    h, _ = theano.scan(lambda row, h: outer(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    f = theano.function([z, w], [y, first, second, theano.grad(h.sum(), z)],
                        mode=mode)
    assert any(type(op).__name__ == 'Scan' for op in ops_of(f))
    assert not is_opaque(f)


def test_expansion_is_linear_in_a_residual_chain():
    # theano.clone, which OpFromGraph(inline=True) uses, copies the upstream
    # graph with each expansion: 2 ** 40 nodes here.
    rule = GuidedBackprop(T.nnet.relu)
    h = z = T.fmatrix('z')
    for _ in range(40):
        h = h + rule(h)
    f = theano.function([z], theano.grad(h.sum(), z), mode=PY)
    assert len(f.maker.fgraph.apply_nodes) < 40 * 10
    # h grows from a positive start: every unit is open and g stays positive
    np.testing.assert_allclose(f(np.full((1, 1), 1e-12, 'float32')), 2. ** 40)


def test_expansion_leaves_other_nodes_alone():
    x = T.fmatrix()
    assert expand_gradient_override.transform(T.exp(x).owner) in (None, False)


def test_two_functions_alive_share_one_op_with_a_constant():
    rule = GuidedBackprop(lambda z: z * T.constant(Z) + 2)
    z = T.fmatrix('z')
    outputs = [rule(z), theano.grad(rule(z).sum(), z)]
    for mode in FAST, PY:
        functions = [theano.function([z], outputs, mode=mode)
                     for _ in range(2)]
        for f in functions:
            for got, want in zip(f(W), [W * Z + 2, W > 0]):
                np.testing.assert_allclose(got, want)


@pytest.mark.parametrize('mode', [PY, OPAQUE], ids=['expanded', 'opaque'])
@pytest.mark.parametrize('f, value', [
    (lambda z: z, Z), (lambda z: z.zeros_like(), Z * 0),
    (lambda z: T.constant(W), W),
    (lambda z, shared=theano.shared(W): shared, W)],
    ids=['identity', 'zeros', 'constant', 'shared'])
def test_identity_and_constant_nonlinearities(f, value, mode):
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(f)(z)
    check({z: Z, w: W}, [y, theano.grad((y * w).sum(), z)], [value, GUIDED],
          mode)


def test_output_that_is_a_captured_intermediate():
    a, z = T.fmatrices('az')
    older = T.exp(a)
    y = ZeroBackprop(lambda z: older)(z)
    check({a: Z, z: W}, [y] + theano.grad(y.sum(), [a, older, z]),
          [np.exp(Z), np.exp(Z), 1 + 0 * Z, W * 0], rtol=1e-6)


# the op as a citizen of Theano

def test_make_node():
    op = GuidedBackprop(T.nnet.relu)(T.fmatrix()).owner.op
    with pytest.raises(IndexError):
        op(T.fmatrix(), T.fmatrix())
    with pytest.raises(TypeError):
        op(T.fvector())
    # one with captured inputs can be made anew
    slope = theano.shared(np.float32([[.5, 1, 2]]))
    y = GuidedBackprop(lambda z: T.maximum(z, T.dot(z, slope.T)))(
        T.fmatrix('z'))
    node = y.owner
    (_, transposed) = node.inputs
    assert transposed.owner.inputs == [slope]
    other = T.fmatrix('other')
    new = node.op.make_node(node.inputs[0], other)
    assert new.inputs == [node.inputs[0], other]


def test_disconnected_output_gradient_means_zeros():
    y = GuidedBackprop(T.nnet.relu)(T.fmatrix('z'))
    node = y.owner
    (gradient,) = node.op.L_op(node.inputs, node.outputs,
                               [theano.gradient.disconnected_type()])
    np.testing.assert_array_equal(
        gradient.eval({node.inputs[0]: Z}), Z * 0)


def test_connection_pattern_of_inputs_that_only_the_rule_uses():
    factor, z = T.fscalar('factor'), T.fmatrix('z')
    y = Times(T.nnet.relu, factor)(z)
    assert y.owner.op.connection_pattern(y.owner) == [[True], [False]]
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(y.sum(), factor)
    dz = theano.grad(y.sum(), z)
    # the gradient itself depends on it, and can be differentiated
    check({z: Z, factor: 3}, [dz, theano.grad(dz.sum(), factor)],
          [np.full_like(Z, 3), Z.size])


def test_broadcastable_output_gradient():
    # known_grads may have a type that is more, or less, specific
    for of_z, of_g in [(T.fmatrix, T.frow), (T.fmatrix, T.fmatrix),
                       (T.frow, T.fmatrix), (T.frow, T.frow)]:
        z, g = of_z('z'), of_g('g')
        y = GuidedBackprop(T.nnet.relu)(z)
        check({z: Z[:1], g: W[:1]}, [theano.grad(None, z, known_grads={y: g})],
              [GUIDED[:1]])


def test_rop():
    # forward mode would have the function's own derivative: an error
    z, v = T.fmatrices('zv')
    for y in (GuidedBackprop(T.nnet.relu)(z), T.exp(Times(T.tanh, 3)(z * 2)),
              theano.scan(Times(T.tanh, 3), z)[0],
              OpFromGraph([z], [Times(T.tanh, 3)(z)])(z)):
        with pytest.raises(NotImplementedError, match='no forward mode'):
            theano.Rop(y, z, v)
