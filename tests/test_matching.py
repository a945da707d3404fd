"""Which nonlinearities are found in a graph, however they are written."""
import re
from collections import Counter

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano import sparse

import gradmod
from gradmod import RECTIFIERS, GuidedBackprop, override_in

from .models import PY
from .test_base import Times, W, Z

# What is left alone is told, and nothing else is.
pytestmark = pytest.mark.filterwarnings('error::UserWarning')

NO_RELU = 'no ReLU; to include it, put a rule around its function'


def find(y, rule=GuidedBackprop, **options):
    return override_in(y, rule, **options)[1]


def forms(y, rule=GuidedBackprop, **options):
    return [m.form for m in find(y, rule, **options)]


def slopes(y, x, value):
    return theano.function([x], theano.grad(y.sum(), x), mode=PY)(
        np.asarray(value, x.dtype))


def nothing_in(y, rule=GuidedBackprop, words='found none', **options):
    with pytest.raises(ValueError, match=words):
        override_in(y, rule, **options)


# Rectifiers

WRITTEN = [
    (lambda x: T.nnet.relu(x), '0.5 * (x + |x|)'),
    (lambda x: (abs(x) + x) * .5, '0.5 * (x + |x|)'),
    (lambda x: lasagne.nonlinearities.rectify(x), '0.5 * (x + |x|)'),
    (lambda x: (x + abs(x)) / 2, '(x + |x|) / 2'),
    (lambda x: T.maximum(x, 0), 'maximum(x, 0)'),
    (lambda x: T.maximum(0., x), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, np.float32(0)), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, np.zeros(1, x.dtype)), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, T.zeros_like(x)), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, T.zeros(x.shape, x.dtype)), 'maximum(x, 0)'),
    (lambda x: T.switch(x > 0, x, 0), 'switch(x > 0, x, 0)'),
    (lambda x: T.switch(x >= 0, x, 0), 'switch(x >= 0, x, 0)'),
    (lambda x: T.switch(T.lt(0, x), x, 0), 'switch(0 < x, x, 0)'),
    (lambda x: T.switch(x < 0, 0, x), 'switch(x < 0, 0, x)'),
    (lambda x: T.switch(x <= 0, 0, x), 'switch(x <= 0, 0, x)'),
    (lambda x: (x > 0) * x, 'x * (x > 0)'),
    (lambda x: x * (x >= 0), 'x * (x >= 0)'),
    (lambda x: x * T.cast(x > 0, x.dtype), 'x * cast(x > 0)'),
    (lambda x: T.ge(x, 0).astype(x.dtype) * x, 'x * cast(x >= 0)'),
    (lambda x: T.clip(x, 0, 1e4), 'clip(x, 0, big)'),
    (lambda x: -T.minimum(-x, 0), '-minimum(-x, 0)')]


@pytest.mark.parametrize('ndim, dtype', [
    (0, 'float32'), (1, 'float64'), (4, 'float32')])
def test_forms_of_a_rectifier(ndim, dtype):
    x = T.TensorType(dtype, (False,) * ndim)('x')
    zs = [x * (i + 2) for i in range(len(WRITTEN))]
    ys, report = override_in([write(z) for (write, _), z in zip(WRITTEN, zs)],
                             GuidedBackprop)
    assert [m.form for m in report] == [form for _, form in WRITTEN]
    assert ndim == 0 or [m.input for m in report] == zs
    assert {m.form for m in report} == {*RECTIFIERS} and not report.left_alone
    f = theano.function([x], ys + [theano.grad(y.sum(), x) for y in ys],
                        mode=PY)
    for value in -1.5, 0, 2, 3:
        got = f(np.full((1,) * ndim, value, dtype))
        for i, (y, gradient) in enumerate(zip(got, got[len(ys):])):
            assert y == max(value, 0) * (i + 2)
            assert gradient == (i + 2) * (value > 0)


def test_what_only_looks_like_a_rectifier():
    z = T.fmatrix('x') - 1
    for y in [
            abs(z) + z.T, T.maximum(z, 1e-6), T.minimum(z, 0),
            T.clip(z, 0, 9999), T.clip(z, -1, 1e6), T.switch(z > 0, 1., 0.),
            T.switch(z > 0, 0, z), (z + abs(z)) / 3, z * (z.T > 0),
            T.maximum(z, z.T), T.tanh(z),
            T.maximum(z, theano.shared(np.float32(0))),
            # a mask, and what mixes units, are no relatives either
            T.switch(z > 0, z, -1e9), T.switch(z > 0, z, z.T),
            T.switch(z > 0, z, z.sum())]:
        nothing_in(y, words='found none among')


# Their relatives

SLOPE = theano.shared(np.float32([.1, .2, .3]))
RELATED = [
    (lambda x: T.nnet.relu(x, .1), 'a * x + b * |x|'),
    (lambda x: T.nnet.relu(x, SLOPE), 'a * x + b * |x|'),
    (lasagne.nonlinearities.leaky_rectify, 'a * x + b * |x|'),
    (lambda x: T.maximum(x, .1 * x), 'maximum(x, a * x)'),
    (lambda x: T.maximum(x * SLOPE, x), 'maximum(x, a * x)'),
    (lambda x: T.switch(x > 0, x, .1 * x), 'switch(x > 0, x, f(x))'),
    (lambda x: T.switch(x >= 0, x, x / 3), 'switch(x >= 0, x, f(x))'),
    (lambda x: T.switch(T.lt(0, x), x, x * SLOPE), 'switch(0 < x, x, f(x))'),
    (lambda x: T.switch(x < 0, .1 * x, x), 'switch(x < 0, f(x), x)'),
    (lambda x: T.switch(x <= 0, T.exp(x) - 1, x), 'switch(x <= 0, f(x), x)'),
    (lambda x: T.nnet.elu(x, .5), 'switch(x > 0, x, f(x))'),
    (lambda x: T.nnet.selu(x), 'switch(x > 0, x, f(x))'),
    (lambda x: T.clip(x, 0, 6), 'clip(x, 0, 6)'),
    (lambda x: T.nnet.softplus(x), 'softplus(x)'),
    (lambda x: T.log(T.exp(x) + 1), 'log(1 + exp(x))'),
    (lambda x: T.log1p(T.exp(x)), 'log1p(exp(x))')]


def test_relatives_are_left_alone_and_named():
    zs = [T.nnet.relu(T.fmatrix()) - 1 for _ in RELATED]
    ys = [T.nnet.relu(write(z) - .5) for (write, _), z in zip(RELATED, zs)]
    with pytest.warns(UserWarning, match='alone what is no ReLU: .*'
                      r'GuidedGradient\(f\)') as warned:
        _, report = override_in(ys, GuidedBackprop)
    assert len(warned) == 1 and warned[0].filename == __file__
    assert [m.depth for m in report] == [0, 1] * len(ys)
    assert [(m.input, m.form, m.rule, reason)
            for m, reason in report.left_alone] == [
        (z, form, None, NO_RELU) for z, (_, form) in zip(zs, RELATED)]
    for form, n in Counter(form for _, form in RELATED).items():
        assert f'{n} times {form}' in str(warned[0].message)
    # not where somebody says what is wanted
    for options in {'match': RECTIFIERS}, {'select': lambda m: True}:
        assert find(ys, **options).left_alone == report.left_alone
    assert not find(ys, GuidedBackprop(T.nnet.relu)).left_alone


def test_a_relative_alone():
    x = T.fmatrix('x')
    for write, form in RELATED[::5]:
        nothing_in(write(x), words=re.escape(f'found none, but 1 times {form}'))
        assert [m.input for m in find(write(x), Times(write))] == [x]
    # a bound above a rectifier, Keras' max_value, is no other unit
    report = find(T.clip(T.nnet.relu(x), 0, 6))
    assert [m.input for m in report] == [x] and not report.left_alone


LEAKY = [
    lambda f, x, a: f(x) - a * f(-x),                 # Keras' LeakyReLU
    lambda f, x, a: T.clip(f(x), 0, 6) - a * f(-x),   # its max_value
    lambda f, x, a: f(x) + a * (x - abs(x)) * .5,     # its PReLU
    lambda f, x, a: a * T.minimum(0, x) + f(x),
    lambda f, x, a: f(x) + a * x * (x < 0),
    lambda f, x, a: f(x) + a * (T.exp(x) - 1) * T.cast(x <= 0, 'float32'),
    lambda f, x, a: f(x) + f(-x)]                     # |x|


@pytest.mark.parametrize('form', RECTIFIERS)
def test_half_of_a_leaky_rectifier_is_none(form):
    x = T.fmatrix('x')
    ys = [write(RECTIFIERS[form], T.nnet.relu(x * 2) - 1, a)
          for write in LEAKY for a in (.1, SLOPE)]
    with pytest.warns(UserWarning, match=r'14 times maximum\(x, 0\) \+ a'):
        report = find(ys)
    assert {m.depth for m in report} == {0}
    assert [(m.output, reason) for m, reason in report.left_alone] == [
        (y, NO_RELU) for y in ys]


def test_halves_with_other_factors():
    x = T.fmatrix('x')
    h, other = T.nnet.relu(x), .1 * T.nnet.relu(-x)
    for y in 2 * h - other, h - other / 2, h + -other, h * (x.T * x.T) - other:
        nothing_in(y, words=r'none, but 1 times maximum\(x, 0\) \+')


def test_halves_that_count():
    x = T.fmatrix('x')
    h = T.maximum(x, 0)
    both = h - .1 * T.nnet.relu(-x)
    # used by themselves
    for other in T.dot(h, Z.T), h, h * T.tanh(h):
        with pytest.warns(UserWarning):  # for the other half
            assert [m.output for m in find([both, other])] == [h]
    report = find([both, h + 1, T.exp(both.owner.inputs[1].owner.inputs[1])])
    assert len(report) == 2 and not report.left_alone
    # asked for
    for f in T.tanh, T.exp, T.nnet.relu:
        assert len(find(f(x) - .5 * f(-x), gradmod.BackpropThrough(f))) == 2
    (match,) = find(both, match=lambda node: h in node.outputs)
    assert match.output is h
    # more forms than the rectifiers leave them alone
    tanh = dict(RECTIFIERS, tanh=T.tanh)
    assert forms(both + T.tanh(x), match=tanh) == ['tanh']


def test_two_rectifiers_of_one_input():
    f, (x, a) = T.nnet.relu, T.fmatrices('xa')
    for y in [T.concatenate([f(x), f(-x)]),           # CReLU
              f(x) - f(-x.T), f(x) + f(x - abs(x)), f(x) - 1 / f(-x),
              f(x) * f(-x), f(x) * f(-x) + x, f(x) - T.minimum(f(-x), 1)]:
        assert len(find(y)) == 2
    for no_negative_part in [
            x - abs(a), x - a, x - T.exp(x), T.minimum(x, a), x * (x < a),
            x * (x > 0)]:
        assert {m.input for m in find(f(x) + no_negative_part)} == {x}


def test_large_products_and_sums_take_no_time():
    x, y = T.fmatrices('xy')
    product = y
    for _ in range(40):
        product = product * product
    for _ in range(1200):
        product = product * 2
    terms = [T.nnet.relu(x + i) for i in range(100)]
    assert len(find(T.add(product, *terms))) == 100


# Functions

def test_shared_variables_of_the_nonlinearity_are_told_apart():
    a, b = theano.shared(np.float32(.1)), theano.shared(np.float32(.1))

    def leaky(slope):
        return lambda z: T.maximum(z, slope * z)
    y = leaky(a)(leaky(b)(T.fmatrix('x')) - 1)
    assert [m.output for m in find(y, Times(leaky(a)))] == [y]
    nothing_in(y, Times(leaky(.1)), 'expected <lambda> in the .*none')


def test_match():
    x = T.fmatrix('x')
    y = T.tanh(T.nnet.relu(T.tanh(x)))
    relu = np.frompyfunc(T.nnet.relu, 1, 1)  # which has no signature
    for match, count in [(T.tanh, 2), ([T.tanh, T.nnet.relu], 3),
                         ([lambda z: T.tanh(z), lambda z: T.nnet.relu(z)], 3),
                         (RECTIFIERS, 1), (list(RECTIFIERS.values()), 1),
                         (dict(RECTIFIERS, tanh=T.tanh), 3), (relu, 1),
                         (lambda node: node.op == T.tanh, 2)]:
        new, report = override_in(y, Times, match=match)
        assert len(report) == count
    np.testing.assert_allclose(slopes(new, x, Z), 4. * (Z > 0), rtol=1e-6)
    y = T.switch(x > 0, 1., 0.)  # no predicate may accept integers, constants
    for y in y, T.nnet.relu(x):  # 0.5 * (...)
        nothing_in(y, Times, 'first input is a float',
                   match=lambda node: node is y.owner)


def test_a_predicate_beside_functions():
    x, y = T.fmatrices('xy')
    out = T.tanh(T.maximum(x, T.nnet.relu(y)))

    def is_maximum(node):
        return node.op == T.maximum
    new, report = override_in(out, Times,
                              match=[is_maximum, T.nnet.relu, T.tanh])
    assert [(m.form, m.input) for m in report] == [
        ('relu', y), ('is_maximum', x), ('tanh', out.owner.inputs[0])]
    # of the maximum, only the first input's gradient is another
    f = theano.function([x, y], theano.grad(new.sum(), [x, y]), mode=PY)
    gx, gy = f(Z, np.float32([[-1, 1, -1], [1, 1, 9]]))
    np.testing.assert_array_equal(gx, np.full_like(Z, 4))
    np.testing.assert_array_equal(gy, [[4, 0, 4], [0, 4, 4]])


def test_functions_that_cannot_be_applied():
    y = T.tanh(T.fmatrix('z'))
    for wrong, words in [
            (lambda z: T.nnet.sigmoidd(z), 'sigmoidd'),
            (lambda node, op=T.tanh: node.op == op, "no attribute 'op'")]:
        with pytest.raises(TypeError, match='<lambda> cannot be applied to '
                           'any variable of .*' + words):
            override_in(y, GuidedBackprop, match=[T.tanh, wrong])

    # what fails for another reason may be for other networks
    def of_images(z):
        n, channels, height, width = z.shape
        return T.tanh(z)
    for match in [T.tanh, of_images], [of_images, lambda z: T.tanh(z)]:
        assert len(find(y, match=match)) == 1
    s = sparse.csr_matrix('s', dtype='float32')
    nothing_in(sparse.sp_sum(s), match=lambda node: False)
    with pytest.raises(ValueError, match='<lambda> leaves no op in a graph'):
        override_in(y, GuidedBackprop, match=lambda z: z)


def test_a_function_of_matrices_is_looked_for_among_matrices():
    x, b = T.matrix('x', 'float32'), T.vector('b', 'float32')

    def rectified(z):
        if z.ndim != 2:
            raise TypeError('no matrix')
        return [T.nnet.relu(z)]  # in a list, as an OpFromGraph may be called
    z = T.dot(x, W.T) + T.nnet.relu(b)
    y, report = override_in(T.nnet.relu(z), Times, match=rectified)
    assert [(m.input, m.form) for m in report] == [(z, 'rectified')]
    gx, gb = theano.function([x, b], theano.grad(y.sum(), [x, b]), mode=PY)(
        Z, np.float32([1, -1]))
    # 2 in the place of the outer derivative, the inner one is the true one
    assert np.array_equal(gx, 2 * np.ones((2, 2)).dot(W))
    assert np.array_equal(gb, [4, 0])


def test_a_function_without_a_hash_or_a_gradient():
    class Leaky:
        def __call__(self, z):
            return T.maximum(z, .1 * z)

        def __eq__(self, other):
            return isinstance(other, Leaky)

    @theano.compile.ops.as_op([T.fvector], [T.fvector])
    def sign(z):
        return np.sign(z)
    x = T.fvector('x')
    assert forms(Leaky()(x), Times(Leaky())) == ['Leaky']
    y, report = override_in(sign(3 * x), gradmod.StraightThrough, match=sign)
    assert np.array_equal(slopes(y, x, [-2, 0, 5]), [3, 3, 3])


# Constants and orders

def test_a_constant_and_its_transpose():
    values = np.float32([[1, 2], [3, 4]])
    moved = T.constant(values).T
    column, row = (T.constant(values[0]).dimshuffle(*order)
                   for order in [(0, 'x'), ('x', 0)])
    x, v = T.fmatrix('x'), T.fvector('v')

    def scaled(constant):
        return lambda x: T.maximum(x, x * constant)
    for this, same, other in [
            (values, values, values.T), (values, values, moved),
            (moved, moved, values), (column, column, row),
            (row, values[0], column), (row, values[:1], values),
            (row, row, np.float32([1, 2, 3]))]:  # shapes that do not fit
        assert len(find(scaled(same)(x), match=scaled(this))) == 1
        nothing_in(scaled(other)(x), match=scaled(this))
    # the same wherever they are broadcast to, or by broadcasting
    zeros = T.constant(np.zeros(2, 'float32'))
    for other in (zeros.dimshuffle(0, 'x'), zeros.dimshuffle('x', 0),
                  T.constant(np.zeros((1, 1), 'float32')).dimshuffle()):
        assert forms(T.maximum(x, other)) == ['maximum(x, 0)']
    nothing_in(T.maximum(x, v.dimshuffle('x', 0)))  # no constant
    # the order counts in a matrix product
    assert len(find(T.dot(x, W), match=lambda z: T.dot(z, W))) == 1
    nothing_in(T.dot(W, x), match=lambda z: T.dot(z, W))
    # what does not depend on its input is not found
    nothing_in(x * T.tanh(column), match=lambda z: T.tanh(column))


def test_a_gate_is_no_gradient():
    # looks like the derivative of x * (x > 0), but no such x is rectified
    x, g = T.fmatrices('xg')
    assert len(find(g * (x > 0) + T.nnet.relu(g))) == 1
