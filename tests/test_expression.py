import warnings

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import get_all_layers, get_output

import gradmod
from gradmod import (RECTIFIERS, GuidedBackprop, ModifiedBackprop, RectGrad,
                     override_in)
from gradmod._theano import OpFromGraph, Scan, change_flags, io_toposort
from gradmod.op import GradientOverrideOp

from . import models, reference
from .models import OldRecipe
from .test_matching import NO_RELU, PY, Times, W, Z, find, slopes

pytestmark = pytest.mark.filterwarnings('error::UserWarning')


def mlp():
    """An expression, its input, its weights, and its hidden layers."""
    net, weights = models.mlp('float32', nonlinearity=None)
    x, *hidden, out = get_output(get_all_layers(net))
    for i, h in enumerate(hidden):
        h.name = f'h{i}'
    return out, x, weights, hidden


SAMPLES = np.random.RandomState(1).randn(20, 4).astype('float32')
SECOND = np.eye(3, dtype='float32')[np.ones(20, int)]  # output of each sample


def check_maps(f, weights, rule, samples=SAMPLES):
    """Of the second output, as a function of the samples: against numpy."""
    expected = reference.mlp_backward(samples, weights, SECOND, rule)
    assert abs(expected).max() > .1
    np.testing.assert_allclose(f(samples), expected, rtol=1e-4, atol=1e-5)


# Rules

@pytest.mark.parametrize('rule, expected', [
    (GuidedBackprop, reference.guided),
    (lambda f: RectGrad(f, threshold=.1), reference.rect_grad(.1)),
    (RectGrad(T.nnet.relu, threshold=.1), reference.rect_grad(.1)),
    (gradmod.override_gradient(T.nnet.relu, lambda inputs, gs: [
        gs[0] * (gs[0] > 0)]), reference.deconv)])
def test_what_is_a_rule(rule, expected):
    out, x, weights, hidden = mlp()
    new, report = override_in(out, rule)
    assert [m.output for m in report] == hidden
    assert len({m.rule for m in report}) == 2
    for m in report:
        assert isinstance(m.rule, ModifiedBackprop) and m.rule.calls
    f = theano.function([x], [theano.grad(new[:, 1].sum(), x), new, out],
                        mode=PY)
    check_maps(lambda samples: f(samples)[0], weights, expected)
    np.testing.assert_array_equal(*f(SAMPLES)[1:])


def test_what_is_none():
    y = T.nnet.relu(T.fmatrix('x'))
    for rule in (T.tanh, None, {None: GuidedBackprop}, OldRecipe,
                 OldRecipe(T.nnet.relu), lambda f: OldRecipe(f), lambda f: f):
        with pytest.raises(TypeError, match='from gradmod.ModifiedBackprop'):
            override_in(y, rule)
    for rule in (T.nnet.relu, int, GuidedBackprop.grad,
                 lambda f: GuidedBackprop):
        with pytest.raises(TypeError):
            override_in(y, rule)


# What comes back

def test_gradients_with_respect_to_a_hidden_variable():
    out, x, weights, hidden = mlp()
    rectified = hidden[0]
    z = hidden[1].owner.inputs[1].owner.inputs[0]  # of 0.5 * (z + |z|)
    new, *among = override_in([out, rectified, z], GuidedBackprop)[0]
    assert among[1] is not z and rectified.name == among[0].name == 'h0'
    f = theano.function([x], [rectified, z] + theano.grad(
        new[:, 1].sum(), among), mode=PY)
    h, z, by_h, by_z = f(SAMPLES)
    check_maps(lambda h: by_h, weights[1:], reference.guided, h)
    by_output = reference.mlp_backward(reference.relu(z), weights[2:], SECOND,
                                       reference.guided)
    np.testing.assert_allclose(by_z, reference.elementwise(
        reference.guided, z, by_output), rtol=1e-4, atol=1e-5)


def test_names_and_tags_are_kept_and_the_expression_stays():
    out, x, _, hidden = mlp()
    out.name, out.tag.note, hidden[1].tag.note = 'logits', 'mine', 'second'
    before = theano.printing.debugprint(out, file='str')
    inputs = [list(node.inputs) for node in io_toposort([], [out])]
    new, _ = override_in(out, GuidedBackprop)
    assert (new.name, new.tag.note, new.type) == ('logits', 'mine', out.type)
    (again,) = [n.outputs[0] for n in io_toposort([], [new])
                if n.outputs[0].name == 'h1']
    assert again is not hidden[1] and again.tag.note == 'second'
    assert isinstance(again.owner.op, GradientOverrideOp)
    assert theano.printing.debugprint(out, file='str') == before
    assert [list(node.inputs) for node in io_toposort([], [out])] == inputs


def test_several_outputs():
    x, y = T.fmatrices('xy')
    h, other = T.nnet.relu(x), T.exp(y)
    new, report = override_in((h + 1, T.exp(h), other, x), GuidedBackprop)
    assert len(report) == 1 and new[2:] == [other, x]
    assert new[0].owner.inputs[0] is new[1].owner.inputs[0]  # replaced once


def test_within_an_op_of_a_graph_or_a_rule():
    x = T.fmatrix('x')
    y = Times(T.nnet.relu, 3)(T.nnet.relu(x)) - 1
    with pytest.warns(UserWarning, match=r'inside of 1 times Times\(relu\): '
                      'put') as warned:
        new, report = override_in(y, Times)
    assert [w.filename for w in warned] == [__file__]
    assert len(report) == 1  # the other has its rule
    np.testing.assert_array_equal(slopes(new, x, Z), np.full_like(Z, 6))
    # not where somebody says what is wanted, nor of what is no rectifier
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        override_in(y, Times, match=gradmod.RECTIFIERS)
        override_in(y, Times, select=lambda m: True)
        override_in(y, Times(T.nnet.relu))
        override_in(Times(T.sgn)(T.nnet.relu(x)), Times)
    z = T.fmatrix('z')
    y = OpFromGraph([z], [T.nnet.relu(z)])(T.nnet.relu(x) - 1)
    with pytest.warns(UserWarning, match='inside of 1 times OpFromGraph'):
        assert len(override_in(y, Times)[1]) == 1


@pytest.mark.usefixtures('no_compiler')
def test_under_test_values():
    with change_flags(compute_test_value='raise'):
        x = T.fmatrix('x')
        x.tag.test_value = Z
        new, _ = override_in(T.nnet.relu(x) + 1, GuidedBackprop)
        gradient = theano.grad(new.sum(), x)
        with pytest.raises(ValueError, match='part of a gradient'):
            override_in(theano.grad(T.nnet.relu(x).sum(), x), GuidedBackprop)
    np.testing.assert_array_equal(new.tag.test_value, np.maximum(Z, 0) + 1)
    np.testing.assert_array_equal(gradient.tag.test_value, Z > 0)


# The report, and select

def test_report_is_a_table():
    x = T.fmatrix('x')
    h = T.nnet.elu(T.nnet.relu(x))
    report = find(T.nnet.relu(h), Times, select=lambda m: m.depth < 1)
    assert [line.split() for line in repr(report).splitlines()] == [
        'depth loops form input rule'.split(),
        '0 0 0.5 * (x + |x|) x Times(0.5 * (x + |x|))'.split(),
        '1 0 switch(x > 0, x, f(x)) Elemwise{mul,no_inplace}.0 left alone: '
        f'{NO_RELU}'.split(),
        '1 0 0.5 * (x + |x|) Elemwise{switch,no_inplace}.0 left alone: '
        'not selected'.split()]
    assert [(m.input, m.depth, reason) for m, reason in report.left_alone] == [
        (h.owner.inputs[1], 1, NO_RELU), (h, 1, 'not selected')]


def test_depth():
    x = T.fmatrix('x')
    y = T.nnet.relu(T.nnet.relu(T.nnet.relu(2 * x) - 1) - 1)
    assert sorted(m.depth for m in find(y + T.nnet.relu(x))) == [0, 0, 1, 2]
    assert len(find(y, select=lambda m: m.depth < 2)) == 2


def test_overlapping_matches():
    def doubled(u):
        return T.nnet.relu(u) * 2
    z = T.fmatrix('z')
    with pytest.raises(ValueError, match='relu is a part of doubled: choose'):
        override_in(doubled(z), Times, match=[T.nnet.relu, doubled])


def test_what_a_nonlinearity_refers_to_keeps_its_true_gradient():
    x, t = T.fmatrix('x'), T.fscalar('t')
    threshold, a = T.exp(t), theano.shared(np.float32(2))
    rectified = T.nnet.relu(threshold)  # is no part of what refers to it

    def above(z):
        return T.maximum(z, a * rectified)
    new, report = override_in(above(x * 2), Times(above, factor=5),
                              match=[above, T.nnet.relu])
    assert len(report) == 2
    f = theano.function([x, t], theano.grad(
        new.sum(), [threshold, a, x]), mode=PY)
    below = (2 * Z < 2 * np.exp(1)).sum()
    dthreshold, da, dx = f(Z, np.float32(1))
    np.testing.assert_allclose(dthreshold, 5 * below * 2)
    np.testing.assert_allclose(da, below * np.exp(1), rtol=1e-6)
    np.testing.assert_allclose(dx, np.full_like(Z, 10))


# Loops

def recurrent(nonlinearity, z):
    return theano.scan(lambda row, h: nonlinearity(row + h), sequences=z,
                       outputs_info=T.zeros_like(z[0]))[0]


def test_inside_scan():
    z, factor = T.fmatrix('z'), T.fscalar('factor')
    scale = theano.shared(np.float32(2))
    plain = recurrent(T.nnet.relu, z)
    # a rule that brings a shared and a symbolic variable into the loop
    new, report = override_in(plain, Times(T.nnet.relu, factor * scale))
    assert [(m.form, m.scans) for m in report] == [('relu', 1)]
    f = theano.function([z, factor], [
        plain, new, theano.grad(new[-1].sum(), z)], mode=PY)
    true, value, gradient = f(Z, np.float32(1.5))
    np.testing.assert_array_equal(value, true)
    np.testing.assert_allclose(gradient, [[9] * 3, [3] * 3])


@pytest.mark.usefixtures('no_compiler')
def test_select_in_nested_scans():
    z = T.ftensor3('z')
    h, _ = theano.scan(lambda page: T.nnet.relu(recurrent(T.nnet.relu, page)),
                       sequences=T.nnet.relu(z))
    new, report = override_in(h - 1, GuidedBackprop)
    assert [(m.scans, m.depth) for m in report] == [(0, 0), (2, 1), (1, 2)]
    a, b = theano.function([z], [new, h - 1], mode=PY)(np.stack([Z, W]))
    np.testing.assert_array_equal(a, b)
    assert [m.depth for m in find(h, select=lambda m: m.scans == 2)] == [1]
    rows, _ = theano.scan(lambda row: row, sequences=z)
    assert [m.depth for m in find(T.nnet.relu(rows))] == [0]


@pytest.mark.usefixtures('no_compiler')
def test_a_loop_without_a_match_stays():
    x = T.vector('x', 'float32')
    h, _ = theano.scan(lambda h: h * 3, outputs_info=x, n_steps=2)
    for y, expected in ((T.nnet.relu(h[-1]), 2 * 9),   # below the match
                        (T.nnet.relu(x) + h[-1], 2 + 9)):  # and beside it
        new, report = override_in(y, Times)
        assert [m.scans for m in report] == [0]
        ours, given = [[n for n in io_toposort([], [v])
                        if isinstance(n.op, Scan)] for v in (new, h)]
        assert ours == given
        assert np.array_equal(slopes(new, x, [-1, 1]), [expected] * 2)


# Errors

@pytest.mark.parametrize('form', list(RECTIFIERS))
def test_a_gradient_is_refused(form):
    f, x = RECTIFIERS[form], T.fmatrix('x')
    loops = [recurrent(f, x)] * (form != 'maximum(x, 0)')  # see the Notes
    for y in [T.dot(f(T.dot(f(x), Z)), W), f(x - 1)] + loops:
        for rule in GuidedBackprop, GuidedBackprop(f):
            with pytest.raises(ValueError, match='part of a gradient through '
                               '.*apply the rule first, then take the grad'):
                override_in(theano.grad(y.sum(), x), rule)


def test_what_is_there_instead_is_named():
    y = T.maximum(T.fmatrix('x') - 1, 0)
    for words, rule, options in [
            ('relu in .* none, but 1 times maximum.* match=gradmod.RECTIFIERS',
             GuidedBackprop(T.nnet.relu), {}),
            ('found 1 times maximum.x, 0., all refused by select',
             GuidedBackprop, {'select': lambda m: False}),
            ('expected tanh or exp or sqr in', Times,
             {'match': [T.tanh, T.exp, T.sqr]}),
            (r'expected tanh or exp or sqr, \.\.\. in', Times,
             {'match': [T.tanh, T.exp, T.sqr, T.cos]})]:
        with pytest.raises(ValueError, match=words):
            override_in(y, rule, **options)
    y = T.fmatrix('x')
    for f in (T.tanh, T.exp, T.sqr, T.cos, T.sin, T.log, T.sqrt, T.tan, T.erf):
        y = f(y)
    with pytest.raises(ValueError, match='among (1 times Elemwise{.*){8}'):
        override_in(y, GuidedBackprop)


@pytest.mark.skipif(gradmod.compat.is_pymc(), reason='no variable of '
                    'Theano-PyMC knows of the graph that it belongs to')
def test_a_compiled_graph_is_refused():
    f = theano.function([], T.nnet.relu(theano.shared(Z)) * 2, mode=PY)
    with pytest.raises(TypeError, match='belongs to a compiled function'):
        override_in(f.maker.fgraph.outputs, GuidedBackprop)
