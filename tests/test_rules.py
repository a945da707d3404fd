"""The rules of the historic recipe, and the scalar ops they are made of."""
import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod import DeconvNet, GuidedBackprop, ZeroBackprop
from gradmod._theano import change_flags
from gradmod.rectifiers import guided_rectifier, rectifier
from gradmod.rules import identity

from . import reference
from .models import PY

RULES = [(GuidedBackprop, reference.guided), (DeconvNet, reference.deconv),
         (ZeroBackprop, reference.zero)]
MODES = {'py': PY, 'c': theano.Mode(linker='cvm', optimizer='fast_run')}


def gradient(rule, dtype='float64', ndim=1, mode=PY):
    type = T.TensorType(dtype, (False,) * ndim)
    z, g = type('z'), type('g')
    out = theano.grad(None, z, known_grads={rule(z): g})
    assert out.type == type
    return theano.function([z, g], out, mode=mode, on_unused_input='ignore')


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('mode', sorted(MODES))
@pytest.mark.parametrize('rule, expected, nonlinearity', [
    row + (identity,) for row in RULES] + [
    (GuidedBackprop, reference.guided, T.nnet.relu)])  # looks at relu(z)
def test_values_in_all_quadrants(rule, expected, nonlinearity, mode, dtype):
    f = gradient(rule(nonlinearity), dtype, 2, MODES[mode])
    values = np.meshgrid(*[reference.special(dtype)] * 2)
    with np.errstate(invalid='ignore'):
        got, want = f(*values), reference.elementwise(expected, *values)
    np.testing.assert_array_equal(got, want)
    # 0 is +0: a closed gate leaves no sign behind
    assert not np.signbit(got[got == 0]).any()


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('rule, expected', RULES)
def test_contiguous_and_strided_loops_agree(rule, expected, dtype):
    # C code runs in a vectorised loop over contiguous arrays and in a scalar
    # one over others.
    z, g = np.random.RandomState(0).randn(2, 2, 3, 4, 5).astype(dtype)
    f = gradient(rule(T.nnet.relu), dtype, 4, MODES['c'])
    for layout in [lambda a: a, np.asfortranarray, lambda a: a[..., ::-1],
                   lambda a: a.repeat(3, 2)[:, :, ::3],
                   lambda a: np.broadcast_to(a[:1, :1, :1, :1], a.shape),
                   lambda a: a[:, ::-1, 2:2]]:
        a, b = layout(z), layout(g)
        for z_, g_ in (a, b), (a, b.copy()), (a.copy(), b):
            np.testing.assert_array_equal(
                f(z_, g_), reference.elementwise(expected, z_, g_))


@pytest.mark.parametrize('z_dtype, g_dtype', [('float32', 'float64'),
                                              ('float64', 'float32')])
def test_mixed_dtypes(z_dtype, g_dtype):
    # a nonlinearity may change the dtype; the gradient comes back in z's
    z, w = T.vector('z', z_dtype), T.vector('w', g_dtype)
    y = GuidedBackprop(lambda z: T.cast(T.nnet.relu(z), g_dtype))(z)
    saliency = theano.grad((y * w).sum(), z)
    assert saliency.dtype == z_dtype
    f = theano.function([z, w], saliency, mode=MODES['c'])
    np.testing.assert_array_equal(f([-1, 2, 3], [5, -6, 7]), [0, 0, 7])
    assert guided_rectifier(w, z).dtype == g_dtype


@pytest.mark.parametrize('rule, expected', RULES[:2])
def test_fused_with_the_operations_around_it(rule, expected):
    z, w = T.matrices('zw')
    saliency = theano.grad((T.exp(rule(T.nnet.relu)(z)) * w).sum(), z)
    f = theano.function([z, w], saliency, mode='FAST_RUN')
    (node,) = f.maker.fgraph.toposort()
    assert 'Composite' in str(node.op)
    Z, W = np.random.RandomState(1).randn(2, 4, 5).astype(z.dtype)
    want = reference.elementwise(expected, Z, np.exp(reference.relu(Z)) * W)
    np.testing.assert_allclose(f(Z, W), want, rtol=1e-5)


@pytest.mark.parametrize('mode', ['py', 'c'])
def test_second_order(mode):
    # h = guided(g, z): dh/dg is 1 where both gates are open, dh/dz is 0
    z, g, v = T.dvectors('zgv')
    Z = np.array([-1., -1, 2, 2, 0, 2])
    G = np.array([-3., 3, -3, 3, 3, 0])
    V = np.arange(1., 7)
    for op, inputs, gate in [(guided_rectifier, (g, z), [0, 0, 0, 1, 0, 0]),
                             (rectifier, (g,), [0, 1, 0, 1, 1, 0])]:
        cost = (op(*inputs) * v).sum()
        f = theano.function(
            [z, g, v], theano.grad(cost, [z, g], disconnected_inputs='ignore'),
            mode=MODES[mode], on_unused_input='ignore')
        np.testing.assert_array_equal(f(Z, G, V), [0 * V, V * gate])


def test_python_literals_do_not_upcast():
    with change_flags(warn_float64='raise'):
        z = T.vector('z', 'float32')
        for rule, _ in RULES:
            cost = rule(identity)(z).sum(acc_dtype='float32')
            first = theano.grad(cost, z)
            second = theano.grad((first * z).sum(acc_dtype='float32'), z)
            assert first.dtype == second.dtype == 'float32'


@pytest.mark.parametrize('dtype', ['complex64', 'int32'])
def test_scalar_ops_refuse_other_dtypes(dtype):
    z, w = T.vector('z', dtype), T.fvector()
    for op, inputs in [(rectifier, (z,)), (guided_rectifier, (w, z)),
                       (guided_rectifier, (z, w))]:
        with pytest.raises(TypeError, match='expected floats, got .*' + dtype):
            op(*inputs)


def test_scalar_ops_pickle_and_compare():
    for op in guided_rectifier, rectifier:
        again = pickle.loads(pickle.dumps(op))
        assert again == op and hash(again) == hash(op)
    assert guided_rectifier.scalar_op != rectifier.scalar_op


@pytest.mark.parametrize('bits', [32, 64])
def test_c_code_has_the_bits_of_minus_infinity(bits):
    # which is compiled once, and then taken from Theano's cache
    type = theano.scalar.Scalar(f'float{bits}')
    op = guided_rectifier.scalar_op
    code = op.c_code(op.make_node(type(), type()), '', 'gz', 'y', {})
    minus_infinity = np.array(-np.inf, f'float{bits}').view(f'uint{bits}')
    assert f'> (npy_int{bits}){minus_infinity:#x});' in code


@pytest.mark.parametrize('apply, rule', [
    (guided_rectifier, reference.guided),
    (lambda g, z: rectifier(g), reference.deconv)])
def test_the_gradient_is_what_is_overwritten(apply, rule):
    # Theano's in-place optimizer rebuilds a scalar op by its class.
    a, b = T.matrices('ab')
    f = theano.function([a, b], apply(T.dot(a, b), T.dot(b, b)),
                        mode='FAST_RUN')
    (node,) = [n for n in f.maker.fgraph.toposort()
               if isinstance(n.op, T.Elemwise)]
    assert node.op.inplace_pattern == {0: 0}
    A, B = np.array([[[1, -2], [-3, 4]], [[2, 1], [3, -1]]], a.dtype)
    np.testing.assert_array_equal(
        f(A, B), reference.elementwise(rule, B.dot(B), A.dot(B)))


def test_guided_backprop_needs_the_output_alone():
    z, g = T.fmatrices('zg')
    rule, y = GuidedBackprop(T.nnet.relu), T.nnet.relu(z)
    for more, kept in [([[y]], y), ([], z), ([[T.exp(z)]], z)]:
        (result,) = rule.grad([z], [g], *more)
        assert result.owner.inputs == [g, kept]
