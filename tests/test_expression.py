import numpy as np
import pytest
import theano
import theano.tensor as T
from hypothesis import given, settings
from hypothesis import strategies as st
from theano import sparse
from theano.tensor.signal.pool import pool_2d

import gradmod
from gradmod import (RECTIFIERS, DeconvNet, GuidedBackprop, ModifiedBackprop,
                     override_in)
from gradmod.op import GradientOverrideOp

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')
Z = np.array([[-1, 2, -3], [4, -5, 6]], 'float32')
W = np.array([[1, 2, 3], [-4, -5, 6]], 'float32')


class Times(ModifiedBackprop):
    def __init__(self, nonlinearity, factor=2):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        return (out_grads[0] * self.factor,)


def mlp(nonlinearity, depth=3, dtype='float32'):
    """An expression, its input and its weights."""
    rng = np.random.RandomState(0)
    x = T.matrix('x', dtype)
    weights = [(rng.randn(3, 3).astype(dtype), rng.randn(3).astype(dtype))
               for _ in range(depth + 1)]
    h = x
    for i, (A, b) in enumerate(weights[:-1]):
        h = nonlinearity(T.dot(h, A) + b)
        h.name = 'h%d' % i
    return T.dot(h, weights[-1][0]) + weights[-1][1], x, weights


def nodes_of(variables):
    return theano.gof.graph.io_toposort([], variables)


# What is found

@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('ndim', [0, 1, 2, 4])
@pytest.mark.parametrize('form', list(RECTIFIERS))
def test_forms_of_a_rectifier(form, ndim, dtype):
    x = T.TensorType(dtype, (False,) * ndim)('x')
    z = x * 2
    y, report = override_in(RECTIFIERS[form](z), GuidedBackprop)
    assert [p.form for p in report] == [form]
    assert report[0].input is z
    f = theano.function([x], [y, theano.grad(
        None, x, known_grads={y: T.ones_like(y)})], mode=PY)
    values = np.array([-1.5, 0, 2, 3]).reshape((-1,) + (1,) * ndim)
    for value in values.astype(dtype) * np.ones((2,) * ndim, dtype):
        value = np.asarray(value, dtype)
        out, gradient = f(value)
        np.testing.assert_array_equal(out, reference.relu(2 * value))
        np.testing.assert_array_equal(
            gradient, 2 * reference.elementwise(
                reference.guided, value, np.ones_like(value)))


@pytest.mark.parametrize('write, form', [
    (lambda x: T.maximum(0, x), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, 0.), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, np.float32(0)), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, np.zeros(3, 'float32')), 'maximum(x, 0)'),
    (lambda x: T.maximum(x, T.zeros_like(x)), 'maximum(x, 0)'),
    (lambda x: (x > 0) * x, 'x * (x > 0)'),
    (lambda x: (abs(x) + x) * .5, '0.5 * (x + |x|)'),
    (lambda x: T.clip(x, 0, 1e6), 'clip(x, 0, big)'),
    (lambda x: T.switch(T.gt(x, 0.), x, 0.), 'switch(x > 0, x, 0)')])
def test_other_constants_and_orders(write, form):
    y, report = override_in(write(T.fmatrix('x') - 1), GuidedBackprop)
    assert [p.form for p in report] == [form]


@pytest.mark.parametrize('write', [
    lambda x: abs(x) + x.T, lambda x: T.maximum(x, 1e-6),
    lambda x: T.minimum(x, 0), lambda x: T.switch(x > 0, x, .1 * x),
    lambda x: T.nnet.relu(x, .1), lambda x: T.clip(x, 0, 6),
    lambda x: T.clip(x, -1, 1e6), lambda x: T.switch(x > 0, 1., 0.),
    lambda x: T.switch(x > 0, 0, x), lambda x: (x + abs(x)) / 3,
    lambda x: x * (x.T > 0), lambda x: T.maximum(x, x.T), T.tanh,
    lambda x: T.maximum(x, theano.shared(np.float32(0)))])
def test_what_only_looks_like_a_rectifier(write):
    with pytest.raises(ValueError, match='override_in: expected a form of '
                       'rectifier.* found none, among'):
        override_in(write(T.fmatrix('x') - 1), GuidedBackprop)


@pytest.mark.parametrize('form', list(RECTIFIERS))
@pytest.mark.parametrize('write', [
    lambda f, x, a: f(x) - a * f(-x),                 # Keras' LeakyReLU
    lambda f, x, a: T.clip(f(x), 0, 6) - a * f(-x),   # its max_value
    lambda f, x, a: f(x) + a * (x - abs(x)) * .5,     # its PReLU
    lambda f, x, a: a * T.minimum(0, x) + f(x),
    lambda f, x, a: f(x) + f(-x)])                    # |x|
def test_half_of_a_leaky_rectifier_is_none(write, form):
    x = T.fmatrix('x')
    for a in .1, theano.shared(np.float32([.1, .2, .3])):
        y = write(RECTIFIERS[form], T.nnet.relu(x) - 1, a)
        _, report = override_in(y, GuidedBackprop)
        assert [(p.input, p.depth) for p in report] == [(x, 0)]


@pytest.mark.parametrize('write', [
    lambda f, x: 2 * f(x) - .1 * f(-x), lambda f, x: f(x) - .1 * f(-x) / 2,
    lambda f, x: f(x) + -(.1 * f(-x))])
def test_halves_with_other_factors(write):
    with pytest.raises(ValueError, match='; 2 halves of leaky rectifiers'):
        override_in(write(T.nnet.relu, T.fmatrix('x')), GuidedBackprop)


def test_a_half_that_is_used_by_itself_counts():
    x = T.fmatrix('x')
    h = T.nnet.relu(x)
    _, report = override_in([h - .1 * T.nnet.relu(-x), T.dot(h, Z.T)],
                            GuidedBackprop)
    assert [place.output for place in report] == [h]
    _, report = override_in([h - .1 * T.nnet.relu(-x), h], GuidedBackprop)
    assert [place.output for place in report] == [h]


def test_halves_count_where_they_are_asked_for():
    x = T.fmatrix('x')
    for f in T.tanh, T.exp, T.nnet.relu:
        _, report = override_in(f(x) - .5 * f(-x), gradmod.BackpropThrough(f))
        assert len(report) == 2


def test_large_products_and_sums_take_no_time():
    x, y = T.fmatrices('xy')
    product = y
    for _ in range(40):
        product = product * product
    for _ in range(1200):
        product = product * 2
    terms = [T.nnet.relu(x + i) for i in range(100)]
    _, report = override_in(T.add(product, *terms), GuidedBackprop)
    assert len(report) == 100


def test_a_leaky_rectifier_of_two_halves_under_a_rule():
    def leaky(z):
        return T.maximum(z, 0) - np.float32(.25) * T.maximum(-z, 0)
    x = T.fmatrix('x')
    y = leaky(T.nnet.relu(x) - 1)
    new, report = override_in(y, Times(leaky, 3))
    assert [p.form for p in report] == ['leaky']
    np.testing.assert_array_equal(
        theano.grad(new.sum(), x).eval({x: Z}), 3. * (Z > 0))
    # who asks for a half by a node gets it
    half = y.owner.inputs[0]
    _, report = override_in(y, Times, match=lambda node: half in node.outputs)
    assert [p.output for p in report] == [half]


@pytest.mark.parametrize('write', [
    lambda f, x: T.concatenate([f(x), f(-x)]),        # CReLU
    lambda f, x: f(x) - f(-x.T), lambda f, x: f(x) + f(x - abs(x)),
    lambda f, x: f(x) * f(-x), lambda f, x: f(x) - T.minimum(f(-x), 1)])
def test_two_rectifiers_of_one_input(write):
    _, report = override_in(write(T.nnet.relu, T.fmatrix('x')), GuidedBackprop)
    assert len(report) == 2


def test_a_hinge_loss_is_shown_and_can_be_left_out():
    out, x, weights = mlp(T.nnet.relu, 2)
    loss = T.maximum(1 - out, 0)
    _, report = override_in(loss, GuidedBackprop)
    assert [(p.form, p.depth) for p in report] == [
        ('0.5 * (x + |x|)', 0), ('0.5 * (x + |x|)', 1), ('maximum(x, 0)', 2)]
    _, report = override_in(loss, GuidedBackprop,
                            select=lambda place: place.depth < 2)
    assert len(report) == 2


def test_any_nonlinearity_is_found_by_what_it_builds():
    def swish(z):
        return z * T.nnet.sigmoid(1.5 * z)
    out, x, weights = mlp(swish)
    y, report = override_in(out, Times(swish))
    assert [p.form for p in report] == ['swish'] * 3
    assert 'Times(swish)' in theano.printing.debugprint(y, file='str')
    with pytest.raises(ValueError, match='expected swish.*found none'):
        override_in(mlp(lambda z: z * T.nnet.sigmoid(1.4 * z))[0],
                    Times(swish))


def test_shared_variables_of_the_nonlinearity_are_told_apart():
    a, b = theano.shared(np.float32(.1)), theano.shared(np.float32(.1))

    def leaky(slope):
        return lambda z: T.maximum(z, slope * z)
    x = T.fmatrix('x')
    y = leaky(a)(leaky(b)(x) - 1)
    new, report = override_in(y, Times(leaky(a), factor=3))
    assert len(report) == 1 and report[0].output is y
    f = theano.function([x], theano.grad(new.sum(), [x, a]), mode=PY)
    inner = np.maximum(Z, np.float32(.1) * Z) - 1
    dx, da = f(Z)
    np.testing.assert_allclose(dx, 3 * np.where(Z > 0, 1, .1), rtol=1e-6)
    np.testing.assert_allclose(da, inner[inner < 0].sum(), rtol=1e-6)


def test_captured_intermediate_keeps_its_true_gradient():
    x, t = T.fmatrix('x'), T.fscalar('t')
    threshold = T.exp(t)

    def above(z):
        return T.maximum(z, threshold)
    new, _ = override_in(above(x * 2), Times(above, factor=5))
    dt, dthreshold, dx = theano.grad(new.sum(), [t, threshold, x])
    f = theano.function([x, t], [dt, dthreshold, dx], mode=PY)
    below = (2 * Z < np.exp(1)).sum()
    got = f(Z, np.float32(1))
    np.testing.assert_allclose(got[0], below * np.exp(1), rtol=1e-6)
    np.testing.assert_allclose(got[1], below)
    np.testing.assert_allclose(got[2], np.full_like(Z, 10))


def test_match():
    x = T.fmatrix('x')
    y = T.tanh(T.nnet.relu(T.tanh(x)))
    for match, found in [(T.tanh, 2), ([T.tanh, T.nnet.relu], 3),
                         ([lambda z: T.tanh(z), lambda z: T.nnet.relu(z)], 3),
                         (RECTIFIERS, 1), (list(RECTIFIERS.values()), 1),
                         (dict(RECTIFIERS, tanh=T.tanh), 3),
                         (lambda node: node.op == T.tanh, 2)]:
        new, report = override_in(y, GuidedBackprop, match=match)
        assert len(report) == found
    f = theano.function([x], theano.grad(
        override_in(y, Times, match=lambda node: node.op == T.tanh)[0].sum(),
        x), mode=PY)
    np.testing.assert_allclose(
        f(Z), 4 * np.where(Z > 0, 1., 0), rtol=1e-6)


def test_results_of_override_gradient_are_rules_too():
    square = gradmod.override_gradient(T.sqr, lambda inputs, gs: gs[0] * 7)
    x = T.fmatrix('x')
    new, report = override_in(T.sqr(x + 1), square)
    assert [p.form for p in report] == ['sqr']
    np.testing.assert_array_equal(
        theano.grad(new.sum(), x).eval({x: Z}), np.full_like(Z, 7))


def test_a_place_within_what_another_refers_to():
    z, a = T.fmatrices('za')
    threshold = T.nnet.relu(a)

    def above(u):
        return T.maximum(u, threshold)
    new, report = override_in(above(z), Times(above, factor=5),
                              match=[above, T.nnet.relu])
    assert len(report) == 2
    f = theano.function([z, a], theano.grad(new.sum(), a), mode=PY)
    want = 5. * (np.maximum(-Z, 0) > Z)
    np.testing.assert_array_equal(f(Z, -Z) * (Z < 0), want * (Z < 0))


def test_overlapping_places_are_refused():
    y = T.nnet.relu(T.fmatrix('z')) * 2
    with pytest.raises(ValueError, match='is a part of doubled; choose one'):
        def doubled(u):
            return T.nnet.relu(u) * 2
        override_in(y, Times, match=[T.nnet.relu, doubled])


def test_forms_that_cannot_be_applied():
    y = T.tanh(T.fmatrix('z'))
    for wrong, words in [
            (lambda z: T.nnet.sigmoidd(z), 'sigmoidd'),
            (lambda node, op=T.tanh: node.op == op, "no attribute 'op'")]:
        with pytest.raises(TypeError, match='override_in: <lambda> cannot be '
                           'applied to any variable of .*' + words):
            override_in(y, GuidedBackprop, match=[T.tanh, wrong])
    # what fails for another reason may be for other networks
    def of_images(z):
        n, channels, height, width = z.shape
        return T.tanh(z)
    for match in [T.tanh, of_images], [of_images, lambda z: T.tanh(z)]:
        _, report = override_in(y, Times, match=match)
        assert len(report) == 1
    s = sparse.csr_matrix('s', dtype='float32')
    with pytest.raises(ValueError, match='expected <lambda> in the expression'):
        override_in(sparse.sp_sum(s), GuidedBackprop,
                    match=lambda node: False)
    # to some it can be applied
    z = T.tensor3('z', dtype='float32')
    _, report = override_in(T.tanh(z).sum(axis=0) * 2, Times, match=[
        T.tanh, lambda z: T.nnet.softmax(z)])
    assert len(report) == 1


def test_a_constant_and_its_transpose():
    values = np.float32([[1, 2], [3, 4]])
    x = T.fmatrix('x')

    def scaled(constant):
        factor = T.constant(values).T if isinstance(constant, str) else constant
        return lambda x: T.maximum(x, x * factor)
    column, row = (T.constant(values[0]).dimshuffle(*order)
                   for order in [(0, 'x'), ('x', 0)])
    for this, other in [(values, values.T), (values, 'T'), ('T', values),
                        (column, row), (row, column), (row, values)]:
        _, report = override_in(scaled(this)(x), Times, match=scaled(this))
        assert len(report) == 1
        with pytest.raises(ValueError, match='expected <lambda> in'):
            override_in(scaled(other)(x), Times, match=scaled(this))
    # the same wherever they are broadcast to, or by broadcasting
    zeros = T.constant(np.zeros(2, 'float32'))
    for other in (zeros.dimshuffle(0, 'x'), zeros.dimshuffle('x', 0),
                  T.constant(np.zeros((1, 1), 'float32')).dimshuffle()):
        _, report = override_in(T.maximum(x, other), GuidedBackprop)
        assert [place.form for place in report] == ['maximum(x, 0)']
    for same in values[0], values[:1]:
        _, report = override_in(scaled(row)(x), Times, match=scaled(same))
        assert len(report) == 1


def test_a_rule_around_what_has_no_hash():
    class Leaky(object):
        def __call__(self, z):
            return T.maximum(z, .1 * z)

        def __eq__(self, other):
            return isinstance(other, Leaky)
    x = T.fmatrix('x')
    _, report = override_in(Leaky()(x), GuidedBackprop(Leaky()))
    assert len(report) == 1


def test_a_rule_that_keeps_its_ops_when_it_is_copied():
    class Keeps(Times):
        def __getstate__(self):
            return dict(self.__dict__)
    x = T.fmatrix('x')
    y = T.tanh(x) + T.nnet.sigmoid(x)
    new, _ = override_in(y, Keeps(T.tanh), match=[T.tanh, T.nnet.sigmoid])
    np.testing.assert_allclose(new.eval({x: Z}), y.eval({x: Z}), rtol=1e-6)


def test_forms_besides_the_rectifiers_leave_halves_alone():
    x = T.fmatrix('x')
    y = T.nnet.relu(x) - .1 * T.nnet.relu(-x) + T.tanh(x)
    _, report = override_in(y, GuidedBackprop,
                            match=dict(RECTIFIERS, tanh=T.tanh))
    assert [place.form for place in report] == ['tanh']


def test_predicate_on_a_node_of_integers():
    x = T.fmatrix('x')
    y = T.switch(x > 0, x, 0)
    with pytest.raises(ValueError, match='first input is a float variable'):
        override_in(y, Times, match=lambda node: node is y.owner)


def test_predicate_on_a_node_of_a_constant():
    y = T.nnet.relu(T.fmatrix('z'))  # 0.5 * (...)
    with pytest.raises(ValueError, match='whose first input is a float variable'):
        override_in(y, Times, match=lambda node: node.op == T.mul)


# What comes back

@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_equal_to_the_network_built_with_the_rule(dtype):
    rule = GuidedBackprop(T.nnet.relu)
    plain, x, weights = mlp(T.nnet.relu, dtype=dtype)
    built, other, _ = mlp(rule, dtype=dtype)
    new, report = override_in(plain, rule)
    assert len(report) == 3
    values = np.random.RandomState(1).randn(20, 3).astype(dtype)
    f = theano.function([x], [new, theano.grad(new[:, 1].sum(), x), plain],
                        mode='FAST_RUN')
    g = theano.function([other], [built, theano.grad(built[:, 1].sum(), other)],
                        mode='FAST_RUN')
    for a, b in zip(f(values), g(values)):
        np.testing.assert_array_equal(a, b)  # bit for bit
    g = np.zeros_like(values)
    g[:, 1] = 1
    np.testing.assert_allclose(
        f(values)[1],
        reference.mlp_backward(values, weights, g, reference.guided),
        rtol=1e-4, atol=1e-5)


def test_what_was_passed_in_stays_as_it_was():
    out, x, _ = mlp(T.nnet.relu)
    before = theano.printing.debugprint(out, file='str')
    nodes = nodes_of([out])
    inputs = [list(node.inputs) for node in nodes]
    new, _ = override_in(out, GuidedBackprop)
    assert theano.printing.debugprint(out, file='str') == before
    assert [list(node.inputs) for node in nodes_of([out])] == inputs
    assert not any(isinstance(n.op, GradientOverrideOp) for n in nodes)


def test_names_tags_and_types_are_kept():
    out, x, _ = mlp(T.nnet.relu)
    out.name, out.tag.note = 'logits', 'mine'
    hidden = [n.outputs[0] for n in nodes_of([out])
              if n.outputs[0].name == 'h1'][0]
    hidden.tag.note = 'second'
    new, _ = override_in(out, GuidedBackprop)
    assert new.name == 'logits' and new.tag.note == 'mine'
    assert new.type == out.type
    (again,) = [n.outputs[0] for n in nodes_of([new])
                if n.outputs[0].name == 'h1']
    assert again is not hidden and again.tag.note == 'second'
    assert isinstance(again.owner.op, GradientOverrideOp)


def test_shared_subgraphs_are_replaced_once():
    x = T.fmatrix('x')
    h = T.nnet.relu(x)
    (a, b), report = override_in([h + 1, T.exp(h)], GuidedBackprop)
    assert len(report) == 1
    assert a.owner.inputs[0] is b.owner.inputs[0]


def test_a_list_gives_a_list_and_unrelated_outputs_stay():
    x, y = T.fmatrices('xy')
    other = T.exp(y)
    new, _ = override_in([T.nnet.relu(x), other, x], GuidedBackprop)
    assert isinstance(new, list) and new[1] is other and new[2] is x


def test_within_a_graph_that_carries_overrides():
    x = T.fmatrix('x')
    y = Times(T.nnet.relu, 3)(T.nnet.relu(x)) - 1
    new, report = override_in(y, Times)
    assert len(report) == 1  # the other has its rule
    np.testing.assert_array_equal(
        theano.grad(new.sum(), x).eval({x: Z}), np.full_like(Z, 6))


def test_under_test_values():
    with theano.configparser.change_flags(compute_test_value='raise'):
        x = T.fmatrix('x')
        x.tag.test_value = Z
        new, _ = override_in(T.nnet.relu(x) + 1, GuidedBackprop)
        gradient = theano.grad(new.sum(), x)
    np.testing.assert_array_equal(new.tag.test_value, np.maximum(Z, 0) + 1)
    np.testing.assert_array_equal(gradient.tag.test_value, Z > 0)


def test_report_is_a_table():
    x = T.fmatrix('x')
    _, report = override_in(T.nnet.relu(T.nnet.relu(x) - 1), GuidedBackprop)
    lines = repr(report).splitlines()
    assert lines[0].split() == ['depth', 'scans', 'form', 'input']
    assert len(lines) == 3 and lines[1].endswith('x')


# Scripts by hand: layers as classes that leave their expressions behind

def shared(rng, *shape):
    return theano.shared(rng.uniform(-1, 1, shape).astype('float32'))


class HiddenLayer(object):
    def __init__(self, rng, input, n_in, n_out, activation):
        self.W, self.b = shared(rng, n_in, n_out), shared(rng, n_out)
        self.output = activation(T.dot(input, self.W) + self.b)


class LogisticRegression(object):
    def __init__(self, rng, input, n_in, n_out):
        self.W, self.b = shared(rng, n_in, n_out), shared(rng, n_out)
        self.p_y_given_x = T.nnet.softmax(T.dot(input, self.W) + self.b)
        self.y_pred = T.argmax(self.p_y_given_x, axis=1)

    def negative_log_likelihood(self, y):
        return -T.mean(T.log(self.p_y_given_x)[T.arange(y.shape[0]), y])


class ConvPoolLayer(object):
    def __init__(self, rng, input, filter_shape, activation):
        self.W, self.b = shared(rng, *filter_shape), shared(rng, filter_shape[0])
        pooled = pool_2d(T.nnet.conv2d(input, self.W), (2, 2),
                         ignore_border=True)
        self.output = activation(pooled + self.b.dimshuffle('x', 0, 'x', 'x'))


def test_mlp_by_hand():
    rng = np.random.RandomState(0)
    x, y = T.fmatrix('x'), T.ivector('y')
    layers = [HiddenLayer(rng, x, 6, 8, T.nnet.relu)]
    layers.append(HiddenLayer(rng, layers[0].output, 8, 7,
                              lambda z: T.maximum(z, 0)))
    layers.append(LogisticRegression(rng, layers[1].output, 7, 3))
    weights = [(layer.W.get_value(), layer.b.get_value()) for layer in layers]
    samples = rng.randn(5, 6).astype('float32')
    _, logits = reference.mlp_forward(samples, weights)
    classes = logits.argmax(axis=1).astype('int32')

    f = gradmod.compile_saliency_function(
        layers[-1].p_y_given_x, GuidedBackprop, input_var=x, mode=PY)
    np.testing.assert_allclose(f(samples), reference.mlp_backward(
        samples, weights, np.eye(3)[classes], reference.guided),
        rtol=1e-4, atol=1e-5)

    # the cost that it was trained with is an expression like any other
    cost, report = override_in(layers[-1].negative_log_likelihood(y), DeconvNet)
    assert [p.form for p in report] == ['0.5 * (x + |x|)', 'maximum(x, 0)']
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    f = theano.function([x, y], theano.grad(cost, x), mode=PY)
    np.testing.assert_allclose(f(samples, classes), reference.mlp_backward(
        samples, weights, (p - np.eye(3)[classes]) / 5, reference.deconv),
        rtol=1e-4, atol=1e-5)


def test_convnet_by_hand():
    def lenet(relu):
        rng = np.random.RandomState(0)
        x = T.fmatrix('x')
        h = x.reshape((-1, 1, 14, 14))
        h = ConvPoolLayer(rng, h, (6, 1, 3, 3), relu).output
        h = ConvPoolLayer(rng, h, (8, 6, 3, 3), relu).output
        h = HiddenLayer(rng, h.flatten(2), 8 * 2 * 2, 16, relu).output
        return LogisticRegression(rng, h, 16, 3).p_y_given_x, x
    images = np.random.RandomState(1).rand(2, 14 * 14).astype('float32')
    (plain, x), (built, z) = lenet(T.nnet.relu), lenet(
        GuidedBackprop(T.nnet.relu))
    assert len(override_in(plain, GuidedBackprop)[1]) == 3
    maps, expected, true = theano.function([x], [
        gradmod.saliency_map(out, x, rule=rule)
        for out, rule in [(plain, GuidedBackprop),
                          (theano.clone(built, {z: x}), None), (plain, None)]],
        mode='FAST_RUN')(images)
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-7)
    assert abs(maps).max() > .1 and abs(maps - true).max() > .1 * abs(true).max()


# Loops

def recurrent(nonlinearity, z):
    h, _ = theano.scan(lambda row, h: nonlinearity(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))
    return h


def test_inside_scan():
    z, factor = T.fmatrix('z'), T.fscalar('factor')
    scale = theano.shared(np.float32(2))
    plain = recurrent(T.nnet.relu, z)
    # a rule that brings a shared and a symbolic variable into the loop
    rule = Times(T.nnet.relu, factor * scale)
    new, report = override_in(plain, rule)
    assert [(p.form, p.scans) for p in report] == [('relu', 1)]
    f = theano.function([z, factor], [new, theano.grad(new[-1].sum(), z)],
                        mode=PY)
    g = theano.function([z], plain, mode=PY)
    value, gradient = f(Z, np.float32(1.5))
    np.testing.assert_array_equal(value, g(Z))
    np.testing.assert_allclose(gradient, [[9] * 3, [3] * 3])


def test_inside_nested_scans():
    z = T.ftensor3('z')
    h, _ = theano.scan(lambda page: T.nnet.relu(recurrent(T.nnet.relu, page)),
                       sequences=z)
    new, report = override_in(h - 1, GuidedBackprop)
    assert sorted(p.scans for p in report) == [1, 2]
    assert max(p.depth for p in report) == 1
    f = theano.function([z], [new, h - 1], mode=PY)
    a, b = f(np.stack([Z, W]))
    np.testing.assert_array_equal(a, b)


def test_select_inside_scan():
    z = T.fmatrix('z')
    y = T.nnet.relu(recurrent(T.nnet.relu, T.nnet.relu(z)))
    new, report = override_in(y, GuidedBackprop, select=lambda p: p.scans)
    assert [p.depth for p in report] == [1]
    _, report = override_in(y, GuidedBackprop)
    assert [p.depth for p in report] == [0, 1, 2]


# Gradients come after

@pytest.mark.parametrize('form', list(RECTIFIERS))
def test_a_gradient_is_refused(form):
    out, x, _ = mlp(RECTIFIERS[form], 2)
    with pytest.raises(ValueError, match='expected an expression without '
                       'gradients.*then take the gradient'):
        override_in(theano.grad(out.sum(), x), GuidedBackprop)
    with pytest.raises(ValueError, match='without gradients'):
        override_in(theano.grad(out.sum(), x),
                    GuidedBackprop(RECTIFIERS[form]))


def test_a_gradient_through_one_rectifier_alone_is_refused():
    x = T.fmatrix('x')
    gradient = theano.grad(T.nnet.relu(x - 1).sum(), x)
    with pytest.raises(ValueError, match='without gradients'):
        override_in(gradient, GuidedBackprop)


def test_a_bare_gradient_is_hinted_at():
    # only the derivative is left: nothing to find, but a reason to guess
    x, g = T.fmatrices('xg')
    gradient = theano.grad(None, x, known_grads={T.nnet.relu(x): g})
    with pytest.raises(ValueError, match='found none.*comes from a gradient, '
                       'apply the rule to the network, then take'):
        override_in(gradient, GuidedBackprop)


def test_a_gradient_through_a_loop_is_refused():
    z = T.fmatrix('z')
    gradient = theano.grad(recurrent(T.nnet.relu, z).sum(), z)
    with pytest.raises(ValueError, match='without gradients'):
        override_in(gradient, GuidedBackprop(T.nnet.relu))


def test_a_gate_is_no_gradient():
    # looks like the derivative of x * (x > 0), but no such x is rectified
    x, g = T.fmatrices('xg')
    y = g * (x > 0) + T.nnet.relu(g)
    _, report = override_in(y, GuidedBackprop)
    assert len(report) == 1


# Bad input

def test_arguments():
    x = T.fmatrix('x')
    y = T.nnet.relu(x)
    for outputs in 3, None, [], [3], 'y', [y, None]:
        with pytest.raises(TypeError, match='override_in: expected a Theano '
                           'variable or a list'):
            override_in(outputs, GuidedBackprop)
    for rule in T.nnet.relu, None, 'guided', int, GuidedBackprop.grad:
        with pytest.raises(TypeError, match='override_in: expected a rule'):
            override_in(y, rule)
    for match in 3, [], [T.tanh, 3]:
        with pytest.raises(TypeError, match='expected match to be'):
            override_in(y, GuidedBackprop, match=match)
    with pytest.raises(TypeError, match='expected select to be'):
        override_in(y, GuidedBackprop, select='h0')
    with pytest.raises(ValueError, match='leaves no op in a graph'):
        override_in(y, GuidedBackprop, match=lambda z: z)
    with pytest.raises(TypeError, match='to return a Theano variable, got int'):
        override_in(y, GuidedBackprop, match=lambda z: 3)


def test_nothing_selected():
    y = T.nnet.relu(T.fmatrix('x'))
    with pytest.raises(ValueError, match='1 such places, all refused'):
        override_in(y, GuidedBackprop, select=lambda place: False)


def test_another_form_is_suggested():
    y = T.maximum(T.fmatrix('x') - 1, 0)
    with pytest.raises(ValueError, match=r'expected relu in the expression, '
                       r'found 1 times maximum\(x, 0\): perhaps you meant '
                       'match=gradmod.RECTIFIERS'):
        override_in(y, GuidedBackprop(T.nnet.relu))


def test_graph_of_a_compiled_function():
    x = T.fmatrix('x')
    f = theano.function([x], T.nnet.relu(x) * 2, mode='FAST_COMPILE')
    with pytest.raises(TypeError, match='^override_in: .* belongs to a '
                       'compiled function.*Pass the expression'):
        override_in(f.maker.fgraph.outputs, GuidedBackprop)


# Force

@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(['relu', 'max', 'switch', 'tanh', 'double',
                                 'residual', 'leaky', 'abs']),
                min_size=1, max_size=12))
def test_random_graphs(steps):
    x = T.fmatrix('x')
    h, rectifiers = x, 0
    for step in steps:
        rectifiers += step in ('relu', 'max', 'switch')
        h = {'relu': T.nnet.relu, 'max': lambda h: T.maximum(h, 0),
             'switch': lambda h: T.switch(h > 0, h, 0), 'tanh': T.tanh,
             'double': lambda h: 2 * h - .5, 'residual': lambda h: h + T.tanh(h),
             'leaky': lambda h: T.nnet.relu(h, .25),
             'abs': abs}[step](h)
    if not rectifiers:
        with pytest.raises(ValueError):
            override_in(h, GuidedBackprop)
        return
    new, report = override_in(h, GuidedBackprop)
    assert len(report) == rectifiers
    f = theano.function([x], [h, new], mode=theano.Mode('py', None))
    a, b = f(Z)
    np.testing.assert_array_equal(a, b)


FORMS = [
    (lambda x: T.nnet.relu(x), '0.5 * (x + |x|)'),
    (lambda x: (x + abs(x)) / 2, '(x + |x|) / 2'),
    (lambda x: T.maximum(x, 0), 'maximum(x, 0)'),
    (lambda x: T.switch(x > 0, x, 0), 'switch(x > 0, x, 0)'),
    (lambda x: T.switch(x >= 0, x, 0), 'switch(x >= 0, x, 0)'),
    (lambda x: T.switch(T.lt(0, x), x, 0), 'switch(0 < x, x, 0)'),
    (lambda x: T.switch(x < 0, 0, x), 'switch(x < 0, 0, x)'),
    (lambda x: T.switch(x <= 0, 0, x), 'switch(x <= 0, 0, x)'),
    (lambda x: x * (x > 0), 'x * (x > 0)'),
    (lambda x: x * T.cast(x > 0, x.dtype), 'x * cast(x > 0)'),
    (lambda x: T.clip(x, 0, 1e4), 'clip(x, 0, big)')]


@pytest.mark.parametrize('write, form', FORMS)
def test_the_forms_are_those_that_people_write(write, form):
    _, report = override_in(write(T.fmatrix('x')), GuidedBackprop)
    assert [p.form for p in report] == [form]


# What is rarely there

def slopes(y, x, value):
    return theano.function([x], theano.grad(y.sum(), x), mode=PY)(
        np.asarray(value, x.dtype))


def test_constants_that_do_not_broadcast_are_not_the_same():
    x = T.vector('x')

    def floor(z):
        return T.maximum(z, np.asarray([1, 2, 3], z.dtype))

    with pytest.raises(ValueError, match='found none'):
        override_in(T.maximum(x, np.asarray([1, 2], x.dtype)), Times,
                    match=floor)
    y, report = override_in(floor(x), Times, match=floor)
    assert len(report) == 1
    assert np.array_equal(slopes(y, x, [0, 5, 0]), [2, 2, 2])


def test_a_function_of_matrices_is_looked_for_among_matrices():
    x, b = T.matrix('x', 'float32'), T.vector('b', 'float32')

    def rectified(z):
        if z.ndim != 2:
            raise TypeError('no matrix')
        return [T.nnet.relu(z)]  # in a list, as an OpFromGraph may be called

    z = T.dot(x, W.T) + T.nnet.relu(b)
    y, report = override_in(T.nnet.relu(z), Times, match=rectified)
    assert [(p.input, p.form) for p in report] == [(z, 'rectified')]
    gx, gb = theano.function([x, b], theano.grad(y.sum(), [x, b]), mode=PY)(
        Z, np.float32([1, -1]))
    # 2 in the place of the outer derivative, the inner one is the true one
    assert np.array_equal(gx, 2 * np.ones((2, 2)).dot(W))
    assert np.array_equal(gb, [4, 0])


def test_a_function_without_a_signature():
    relu = np.frompyfunc(T.nnet.relu, 1, 1)
    x = T.vector('x')
    y, report = override_in(T.nnet.relu(x), Times, match=relu)
    assert len(report) == 1 and report[0].input is x
    assert np.array_equal(slopes(y, x, [-1, 1]), [2, 2])


def test_what_does_not_depend_on_its_input_is_no_place():
    x, b = T.vectors('xb')
    with pytest.raises(ValueError, match='found none'):
        override_in(x * T.tanh(b), Times, match=lambda z: T.tanh(b))


def test_two_halves_in_one_term_are_rectifiers():
    # their product is 0, and no leaky rectifier
    x = T.vector('x')
    _, report = override_in(T.nnet.relu(x) * T.nnet.relu(-x) + x, Times)
    assert len(report) == 2
    assert sum(p.input is x for p in report) == 1


def test_a_function_without_a_gradient():
    @theano.compile.ops.as_op([T.fvector], [T.fvector])
    def sign(z):
        return np.sign(z)

    x = T.fvector('x')
    y, report = override_in(sign(3 * x), gradmod.StraightThrough, match=sign)
    assert len(report) == 1
    f = theano.function([x], [y, theano.grad(y.sum(), x)], mode=PY)
    value, g = f(np.float32([-2, 0, 5]))
    assert np.array_equal(value, [-1, 0, 1])
    assert np.array_equal(g, [3, 3, 3])


def test_a_loop_without_a_place_stays():
    x = T.vector('x', 'float32')
    h, _ = theano.scan(lambda h: h * 3, outputs_info=x, n_steps=2)
    loop = theano.scan_module.scan_op.Scan
    for outer in (lambda: T.nnet.relu(h[-1]),  # below the place
                  lambda: T.nnet.relu(x) + h[-1]):  # and beside it
        y, report = override_in(outer(), Times)
        assert [p.scans for p in report] == [0]
        assert [n for n in nodes_of([y]) if isinstance(n.op, loop)] == [
            n for n in nodes_of([h]) if isinstance(n.op, loop)]
        expected = 2 * 9 if report[0].input is not x else 2 + 9
        assert np.array_equal(slopes(y, x, [-1, 1]), [expected] * 2)


def test_a_bound_that_a_network_may_reach_is_no_rectifier():
    with pytest.raises(ValueError, match='found none'):
        override_in(T.clip(T.fmatrix('x'), 0, 9999), GuidedBackprop)


def test_the_order_of_factors_counts_in_a_matrix_product():
    x = T.fmatrix('x')

    def times_w(z):
        return T.dot(z, W)
    assert len(override_in(times_w(x), Times, match=times_w)[1]) == 1
    with pytest.raises(ValueError, match='found none'):
        override_in(T.dot(W, x), Times, match=times_w)


def test_a_predicate_beside_functions():
    x, y = T.fmatrices('xy')
    threshold = T.nnet.relu(y)
    out = T.tanh(T.maximum(x, threshold))

    def is_maximum(node):
        return node.op == T.maximum
    new, report = override_in(out, Times,
                              match=[is_maximum, T.nnet.relu, T.tanh])
    assert [(p.form, p.input) for p in report] == [
        ('relu', y), ('is_maximum', x), ('tanh', out.owner.inputs[0])]
    # of the maximum, only the first input's gradient is another
    f = theano.function([x, y], theano.grad(new.sum(), [x, y]), mode=PY)
    gx, gy = f(Z, np.float32([[-1, 1, -1], [1, 1, 9]]))
    np.testing.assert_array_equal(gx, np.full_like(Z, 4))
    np.testing.assert_array_equal(gy, [[4, 0, 4], [0, 4, 4]])


@pytest.mark.parametrize('match, words', [
    ([T.tanh, T.exp, T.sqr], 'expected tanh or exp or sqr in'),
    ([T.tanh, T.exp, T.sqr, T.cos],
     r'a form of rectifier \(tanh, exp, sqr, \.\.\.\)')])
def test_what_is_looked_for_is_named(match, words):
    with pytest.raises(ValueError, match=words):
        override_in(T.fmatrix('x') + 1, Times, match=match)


def test_a_half_times_a_square():
    x, a = T.fmatrices('xa')
    y = T.nnet.relu(x) * (a * a) - .1 * T.nnet.relu(-x)
    with pytest.raises(ValueError, match='; 2 halves of leaky rectifiers'):
        override_in(y, GuidedBackprop)


def test_a_difference_that_is_no_negative_part():
    x, a = T.fmatrices('xa')
    for other in x - abs(a), x - a, x - T.exp(x), T.minimum(x, a):
        _, report = override_in(T.nnet.relu(x) + other, GuidedBackprop)
        assert [p.input for p in report] == [x]


def test_a_gradient_is_refused_under_test_values():
    with theano.configparser.change_flags(compute_test_value='raise'):
        x = T.fmatrix('x')
        x.tag.test_value = Z
        gradient = theano.grad(T.nnet.relu(x - 1).sum(), x)
        with pytest.raises(ValueError, match='without gradients'):
            override_in(gradient, GuidedBackprop)


def test_depths_from_the_input_on():
    x = T.fmatrix('x')
    y = T.nnet.relu(T.nnet.relu(T.nnet.relu(2 * x) - 1) - 1)
    _, report = override_in(y + T.nnet.relu(x), GuidedBackprop)
    assert sorted(place.depth for place in report) == [0, 0, 1, 2]


def test_what_is_there_instead_is_named():
    for y, words in [(T.tanh(T.fmatrix('x')), 'elementwise: 1 times Elemwise{t'),
                     (T.dot(*T.fmatrices('xy')), 'elementwise: none')]:
        with pytest.raises(ValueError, match=words):
            override_in(y, GuidedBackprop)
    y = T.fmatrix('x')
    for f in (T.tanh, T.exp, T.sqr, T.cos, T.sin, T.log, T.sqrt, T.tan, T.erf,
              T.cosh):
        y = f(y)
    with pytest.raises(ValueError) as info:
        override_in(y, GuidedBackprop)
    assert str(info.value).count('1 times Elemwise{') == 8


def test_a_loop_that_passes_its_input_on_adds_no_depth():
    z = T.fmatrix('z')
    rows, _ = theano.scan(lambda row: row, sequences=z)
    _, report = override_in(T.nnet.relu(rows), GuidedBackprop)
    assert [place.depth for place in report] == [0]
