import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod import GuidedBackprop, ModifiedBackprop, ZeroBackprop
from gradmod._theano import OpFromGraph
from gradmod.op import GradientOverrideOp, expand_gradient_override

from . import reference
from .internals import Function

PY = theano.Mode(linker='py', optimizer='fast_compile')
OPAQUE = theano.Mode(linker='py', optimizer=None)
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')


class Times(ModifiedBackprop):
    """g times the attribute `factor`."""

    def __init__(self, nonlinearity, factor):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        return (out_grads[0] * self.factor,)


def ops_of(function):
    """All ops of a compiled function, those within scan included."""
    ops = []
    for node in function.maker.fgraph.toposort():
        ops.append(node.op)
        if isinstance(getattr(node.op, 'fn', None),
                      Function):
            ops.extend(ops_of(node.op.fn))
    return ops


def is_opaque(function):
    return any(isinstance(op, GradientOverrideOp) for op in ops_of(function))


# expansion

@pytest.mark.parametrize('mode', [theano.Mode('py', 'fast_run'), PY])
def test_no_op_of_ours_is_left_in_a_compiled_function(mode):
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(T.nnet.relu)(GuidedBackprop(T.nnet.relu)(z) - 1)
    first = theano.grad((y * w).sum(), z)
    second = theano.grad((first * w).sum(), w)
    f = theano.function([z, w], [y, first, second], mode=mode)
    assert not is_opaque(f)


@pytest.mark.parametrize('mode', [theano.Mode('py', 'fast_run'), PY])
@pytest.mark.usefixtures('no_compiler')
def test_expands_inside_scan_and_in_nested_overrides(mode):
    inner = GuidedBackprop(T.nnet.relu)
    outer = Times(lambda z: inner(z) * 2, 3)
    z = T.fmatrix('z')
    h, _ = theano.scan(lambda row, h: outer(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    f = theano.function([z], [h, theano.grad(h.sum(), z)], mode=mode)
    assert any(type(op).__name__ == 'Scan' for op in ops_of(f))
    assert not is_opaque(f)


def test_modes_without_the_rewrite_run_the_op_itself():
    mode = PY.excluding('expand_gradient_override')
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(T.nnet.relu)(z)
    f = theano.function([z, w], [y, theano.grad((y * w).sum(), z)], mode=mode)
    assert is_opaque(f)
    value, gradient = f(Z, W)
    np.testing.assert_allclose(value, np.maximum(Z, 0))
    np.testing.assert_allclose(
        gradient, reference.elementwise(reference.guided, Z, W))


def test_expansion_is_linear_in_a_residual_chain():
    # theano.clone, which OpFromGraph(inline=True) uses, copies the upstream
    # graph with each expansion: 2 ** 40 nodes here.
    rule = GuidedBackprop(T.nnet.relu)
    z = T.fmatrix('z')
    h = z
    for _ in range(40):
        h = h + rule(h)
    f = theano.function([z], theano.grad(h.sum(), z), mode=PY)
    assert len(f.maker.fgraph.apply_nodes) < 40 * 10
    # h grows from a positive start: every unit is open and g stays positive
    start = np.full((1, 1), 1e-12, 'float32')
    np.testing.assert_allclose(f(start), 2. ** 40)


def test_expansion_leaves_other_nodes_alone():
    x = T.fmatrix()
    assert expand_gradient_override.transform(T.exp(x).owner) in (None, False)


def test_two_functions_alive_share_one_op_with_a_constant():
    rule = GuidedBackprop(lambda z: z * T.constant(Z) + 2)
    z = T.fmatrix('z')
    gradient = theano.grad(rule(z).sum(), z)
    for mode in theano.Mode('py', 'fast_run'), PY:
        f = theano.function([z], [rule(z), gradient], mode=mode)
        g = theano.function([z], [gradient, rule(z)], mode=mode)
        np.testing.assert_allclose(f(W)[0], W * Z + 2)
        np.testing.assert_allclose(g(W)[0], W > 0)


@pytest.mark.parametrize('mode', [PY, OPAQUE], ids=['expanded', 'opaque'])
@pytest.mark.parametrize('f, value', [
    (lambda z: z, Z),
    (lambda z: z.zeros_like(), Z * 0),
    (lambda z: T.constant(W), W),
    (lambda z, shared=theano.shared(W): shared, W)],
    ids=['identity', 'zeros', 'constant', 'shared'])
def test_identity_and_constant_nonlinearities(f, value, mode):
    z, w = T.fmatrices('zw')
    y = GuidedBackprop(f)(z)
    function = theano.function([z, w], [y, theano.grad((y * w).sum(), z)],
                               mode=mode)
    got, gradient = function(Z, W)
    np.testing.assert_array_equal(got, value)
    np.testing.assert_array_equal(
        gradient, reference.elementwise(reference.guided, Z, W))


def test_output_that_is_a_captured_intermediate():
    a, z = T.fmatrices('az')
    older = T.exp(a)
    y = ZeroBackprop(lambda z: older)(z)
    da, dz = theano.grad(y.sum(), [a, z])
    f = theano.function([a, z], [y, da, dz], mode=PY)
    got = f(Z, W)
    np.testing.assert_allclose(got[0], np.exp(Z), rtol=1e-6)
    np.testing.assert_allclose(got[1], np.exp(Z), rtol=1e-6)
    np.testing.assert_array_equal(got[2], W * 0)


# the op as a citizen of Theano

def test_debugprint_shows_the_rule():
    def rectify(z):
        return T.nnet.relu(z)
    y = GuidedBackprop(rectify)(T.fmatrix('z'))
    assert 'GuidedBackprop(rectify)' in theano.printing.debugprint(
        y, file='str')


def test_make_node_takes_no_more_inputs_than_there_are():
    op = GuidedBackprop(T.nnet.relu)(T.fmatrix()).owner.op
    with pytest.raises(IndexError):
        op(T.fmatrix(), T.fmatrix())
    with pytest.raises(TypeError):
        op(T.fvector())


def test_a_node_with_captured_inputs_can_be_made_anew():
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
    factor = T.fscalar('factor')
    z = T.fmatrix('z')
    y = Times(T.nnet.relu, factor)(z)
    assert y.owner.op.connection_pattern(y.owner) == [[True], [False]]
    with pytest.raises(theano.gradient.DisconnectedInputError):
        theano.grad(y.sum(), factor)
    f = theano.function([z, factor], theano.grad(y.sum(), z), mode=PY)
    np.testing.assert_array_equal(f(Z, 3), np.full_like(Z, 3))
    # the gradient itself depends on it, and can be differentiated
    g = theano.grad(theano.grad(y.sum(), z).sum(), factor)
    assert theano.function([z, factor], g, mode=PY)(Z, 3) == Z.size


def test_broadcastable_output_gradient():
    # known_grads may have a type that is more, or less, specific
    for z, type in [(T.fmatrix('z'), T.frow), (T.fmatrix('z'), T.fmatrix),
                    (T.frow('z'), T.fmatrix), (T.frow('z'), T.frow)]:
        y = GuidedBackprop(T.nnet.relu)(z)
        g = type('g')
        f = theano.function([z, g], theano.grad(None, z, known_grads={y: g}),
                            mode=PY)
        np.testing.assert_array_equal(
            f(Z[:1], W[:1]),
            reference.elementwise(reference.guided, Z[:1], W[:1]))


def test_rop():
    # forward mode would have the function's own derivative: an error
    z, v = T.fmatrices('zv')
    for y in (GuidedBackprop(T.nnet.relu)(z), T.exp(Times(T.tanh, 3)(z * 2)),
              theano.scan(Times(T.tanh, 3), z)[0],
              OpFromGraph([z], [Times(T.tanh, 3)(z)])(z)):
        with pytest.raises(NotImplementedError, match='no forward mode'):
            theano.Rop(y, z, v)
