import contextlib
import copy
import functools
import pickle
import subprocess
import sys
from collections import OrderedDict

import lasagne
import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (
    ConcatLayer, Conv2DLayer, CustomRecurrentLayer, DenseLayer, DropoutLayer,
    ElemwiseSumLayer, FeaturePoolLayer, FlattenLayer, GRULayer, InputLayer,
    LSTMLayer, NINLayer, NonlinearityLayer, RecurrentLayer, get_all_layers,
    get_output)
from lasagne.layers.recurrent import Gate
from lasagne.nonlinearities import (
    LeakyRectify, leaky_rectify, rectify, sigmoid, softmax, tanh)

import gradmod
import gradmod.network
from gradmod import DeconvNet, GuidedBackprop, ModifiedBackprop, ZeroBackprop
from gradmod.network import Place, modified

from . import reference

PY = theano.Mode(linker='py', optimizer='fast_compile')


class Scaled(ModifiedBackprop):
    """A rule with a parameter: factor g."""

    def __init__(self, nonlinearity, factor):
        super().__init__(nonlinearity)
        self.factor = factor

    def grad(self, inputs, out_grads):
        (g,) = out_grads
        return (self.factor * g,)


def mlp(*nonlinearities, **kwargs):
    """A dense network that ends without a nonlinearity, named 0, 1, ..."""
    net = InputLayer((None, 6), input_var=T.matrix('x'), name='input')
    for i, nonlinearity in enumerate(nonlinearities):
        net = DenseLayer(net, 7, nonlinearity=nonlinearity, name=str(i),
                         **kwargs)
    return DenseLayer(net, 3, nonlinearity=None, name='out')


def snapshot(network):
    return [(layer, dict(vars(layer))) for layer in get_all_layers(network)]


def assert_as_before(before):
    for layer, attributes in before:
        now = vars(layer)
        assert list(now) == list(attributes)
        assert all(now[a] is attributes[a] for a in now)


def layer(network, name):
    (found,) = [x for x in get_all_layers(network) if x.name == name]
    return found


def rules(network):
    """Name and rule of the layers that have one."""
    return [(x.name, repr(x.nonlinearity)) for x in get_all_layers(network)
            if isinstance(getattr(x, 'nonlinearity', None), ModifiedBackprop)]


def expressions(network):
    """An input's variable, the output, and a gradient with signs to lose."""
    x = get_all_layers(network)[0].input_var
    out = get_output(network, deterministic=True)
    weights = T.constant(np.random.RandomState(1).randn(999))[:out.size]
    return x, out, theano.grad((out.flatten() * weights).sum(), x)


def value(x, shape, *outputs):
    X = np.random.RandomState(2).randn(*shape).astype(x.dtype)
    return theano.function([x], list(outputs), mode=PY)(X)


# Where Lasagne keeps nonlinearities

def dense():
    net = mlp(rectify, T.nnet.relu, rectify)
    return net, (4, 6), [(layer(net, n), 'nonlinearity') for n in '012']


def shared():
    """A residual block whose one layer is used twice."""
    x = InputLayer((None, 6), input_var=T.matrix('x'))
    first = DenseLayer(x, 7)
    second = DenseLayer(first, 7)
    net = DenseLayer(ConcatLayer([ElemwiseSumLayer([first, second]), first]),
                     3, nonlinearity=None)
    return net, (4, 6), [(first, 'nonlinearity'), (second, 'nonlinearity')]


def batch_norm(net):
    """Lasagne's own where it has one; elsewhere what it does to the layer."""
    if hasattr(lasagne.layers, 'batch_norm'):
        return lasagne.layers.batch_norm(net)
    nonlinearity, net.nonlinearity = net.nonlinearity, tanh
    return NonlinearityLayer(net, nonlinearity)


def convolutional():
    x = InputLayer((None, 2, 3, 3), input_var=T.tensor4('x'))
    norm = batch_norm(NINLayer(x, 4, nonlinearity=T.nnet.relu))
    pool = FeaturePoolLayer(norm, 2, pool_function=T.max)
    conv = NINLayer(pool, 3)
    return FlattenLayer(conv), (2, 2, 3, 3), [(norm, 'nonlinearity'),
                                              (conv, 'nonlinearity')]


def recurrent():
    x = InputLayer((2, 3, 4), input_var=T.tensor3('x'))
    net = RecurrentLayer(x, 5)
    return net, (2, 3, 4), [(net, 'nonlinearity')]


def custom_recurrent():
    x = InputLayer((2, 3, 4), input_var=T.tensor3('x'))
    inner = DenseLayer(InputLayer((None, 4)), 6)
    inner_2 = DenseLayer(inner, 5)
    hidden = DenseLayer(InputLayer((None, 5)), 5)
    net = CustomRecurrentLayer(x, inner_2, hidden, nonlinearity=tanh,
                               unroll_scan=True)
    return net, (2, 3, 4), [(inner, 'nonlinearity'), (inner_2, 'nonlinearity'),
                            (hidden, 'nonlinearity')]


def lstm():
    x = InputLayer((2, 3, 4), input_var=T.tensor3('x'))
    net = LSTMLayer(x, 5, ingate=Gate(nonlinearity=rectify),
                    cell=Gate(W_cell=None, nonlinearity=rectify),
                    nonlinearity=rectify, unroll_scan=True)
    return net, (2, 3, 4), [(net, 'nonlinearity'), (net, 'nonlinearity_cell'),
                            (net, 'nonlinearity_ingate')]


def gru():
    x = InputLayer((2, 3, 4), input_var=T.tensor3('x'))
    net = GRULayer(x, 5, resetgate=Gate(W_cell=None, nonlinearity=rectify),
                   hidden_update=Gate(W_cell=None, nonlinearity=T.nnet.relu),
                   unroll_scan=True)
    return net, (2, 3, 4), [(net, 'nonlinearity_hid'),
                            (net, 'nonlinearity_resetgate')]


class Own(lasagne.layers.Layer):
    """A layer with nonlinearities where its author likes them."""

    nonlinearity_of_class = staticmethod(rectify)

    def __init__(self, incoming, inside):
        super().__init__(incoming)
        self.inside = inside
        self.activation = rectify
        self.nonlinearity2 = T.nnet.relu
        self.nonlinearity_name = 'rectify'
        self.nonlinearity3 = None
        self.function = T.nnet.relu
        self.array = np.zeros((2, 3))

    def get_output_for(self, x, **kwargs):
        for part in self.inside:
            x = part.get_output_for(x)
        return (self.nonlinearity_of_class(x - 1) - self.activation(-x)
                - self.nonlinearity2(x) * self.function(2 - x))


def own():
    x = InputLayer((None, 6), input_var=T.matrix('x'))
    inside = DenseLayer((None, 6), 7)
    net = Own(x, [inside, NonlinearityLayer((None, 7), tanh)])
    return net, (4, 6), [(net, 'activation'), (net, 'function'),
                         (net, 'nonlinearity2'),
                         (net, 'nonlinearity_of_class'),
                         (inside, 'nonlinearity')]


KINDS = [dense, shared, convolutional, recurrent, custom_recurrent, lstm, gru,
         own]


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
def test_equal_to_swapping_by_hand(kind):
    network, shape, places = kind()
    before = snapshot(network)
    plain = expressions(network)

    with modified(network, GuidedBackprop) as report:
        got = expressions(network)
    assert_as_before(before)
    assert [(p.layer, p.attribute) for p in report] == places

    by_hand = {}
    for place, attribute in places:
        f = getattr(place, attribute)
        setattr(place, attribute, by_hand.setdefault(f, GuidedBackprop(f)))
    want = expressions(network)

    out, saliency = value(got[0], shape, *got[1:])
    out_2, saliency_2 = value(want[0], shape, *want[1:])
    out_3, gradient = value(plain[0], shape, *plain[1:])
    assert np.array_equal(out, out_2) and np.array_equal(saliency, saliency_2)
    np.testing.assert_allclose(out, out_3, rtol=1e-5)
    assert not np.allclose(saliency, gradient)


def test_equal_to_the_definition():
    net = mlp(rectify, rectify)
    with modified(net, GuidedBackprop):
        x, out, saliency = expressions(net)
    out, saliency = value(x, (4, 6), out, saliency)
    parameters = lasagne.layers.get_all_param_values(net)
    weights = list(zip(parameters[::2], parameters[1::2]))
    X = np.random.RandomState(2).randn(4, 6).astype(x.dtype)
    g = np.random.RandomState(1).randn(999)[:out.size].reshape(out.shape)
    np.testing.assert_allclose(out, reference.mlp_forward(X, weights)[1],
                               rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        saliency, reference.mlp_backward(X, weights, g, reference.guided),
        rtol=1e-4, atol=1e-5)


def test_convolution():
    net = Conv2DLayer(InputLayer((1, 2, 5, 5)), 3, 3)
    with modified(net, GuidedBackprop):
        out = get_output(net)
    assert str(out.owner.op) == 'GuidedBackprop(rectify)'
    assert str(get_output(net).owner.op) != 'GuidedBackprop(rectify)'


# The network

@pytest.mark.parametrize('container', [
    lambda *layers: list(layers), lambda *layers: tuple(layers),
    lambda *layers: dict(zip('ab', layers))])
def test_several_outputs(container):
    x = InputLayer((None, 6))
    common = DenseLayer(x, 5)
    heads = DenseLayer(common, 4), DenseLayer(common, 3)
    report = modified(container(*heads), ZeroBackprop)
    assert [p.layer for p in report] == [common] + list(heads)
    assert len(set(p.rule for p in report)) == 1


def test_only_what_is_below():
    net = mlp(rectify, rectify, rectify)
    report = modified(layer(net, '1'), ZeroBackprop)
    assert [p.name for p in report] == ['0', '1']


def test_names():
    x = InputLayer((None, 2, 6))
    dense = NINLayer(x, 6)
    named = NINLayer(dense, 6, name='named')
    last = CustomRecurrentLayer(
        named, DenseLayer(InputLayer((None, 6)), 4),
        DenseLayer(InputLayer((None, 4)), 4, nonlinearity=None))
    inside = last.input_to_hidden
    report = modified(last, ZeroBackprop)
    assert [p.name for p in report] == [
        '#1 NINLayer', 'named', '#3 CustomRecurrentLayer', '#5 DenseLayer']
    assert report[-1].layer is inside
    report = modified({'x': x, 'dense': dense, 'key': named, 5: last},
                   ZeroBackprop)
    assert [p.name for p in report] == [
        'dense', 'named', '5', '#5 DenseLayer']
    assert modified(last, ZeroBackprop, '#5 DenseLayer')[0].layer is inside


def test_layers_within_two_layers():
    inside = DenseLayer((None, 6), 7)
    first = Own((None, 6), [inside])
    second = Own(first, [NonlinearityLayer((None, 7), rectify), inside])
    report = modified(second, ZeroBackprop)
    assert [p.layer for p in report] == [first] * 4 + [second] * 4 + [
        inside, second.inside[0]]
    assert [(p.layer, p.attribute) for p, _ in report.left_alone] == []


@pytest.mark.parametrize('network', [
    None, 'out', [], {}, [None], GuidedBackprop, T.matrix('x'),
    [InputLayer((1, 2)), 3]])
def test_no_network(network):
    with pytest.raises(TypeError, match='apply: expected network to be a '
                                        'Lasagne layer, or a list, .* got'):
        modified(network, GuidedBackprop)
    with pytest.raises(TypeError, match='modified: expected network'):
        with modified(network, GuidedBackprop):
            pass


# The rule

def test_one_instance_for_each_nonlinearity():
    calls = []

    def rule(nonlinearity):
        calls.append(nonlinearity)
        return GuidedBackprop(nonlinearity)

    net = mlp(rectify, T.nnet.relu, rectify, T.nnet.relu)
    report = modified(net, rule)
    assert calls == [rectify, T.nnet.relu]
    assert report[0].rule is report[2].rule
    assert report[1].rule is report[3].rule
    assert [p.layer.nonlinearity for p in report] == [p.rule for p in report]


@pytest.mark.parametrize('rule', [
    functools.partial(Scaled, factor=3),
    lambda f: Scaled(f, 3),
    lambda f: gradmod.override_gradient(f, lambda inputs, gs: 3 * gs[0])])
def test_functions_as_rules(rule):
    net = mlp(rectify)
    with modified(net, rule):
        x, out, saliency = expressions(net)
    with modified(net, Scaled(rectify, 3)):
        saliency_2 = theano.clone(expressions(net)[2])
    assert np.array_equal(*value(x, (4, 6), saliency, saliency_2))


@pytest.mark.parametrize('instance', [
    GuidedBackprop(T.nnet.relu), GuidedBackprop(tanh),
    gradmod.override_gradient(leaky_rectify, lambda inputs, gs: gs[0])])
def test_an_instance_replaces_its_own_nonlinearity_alone(instance):
    net = mlp(T.nnet.relu, rectify, tanh, leaky_rectify, LeakyRectify(), tanh,
              T.nnet.relu)
    wanted = [x for x in get_all_layers(net)
              if getattr(x, 'nonlinearity', None) is instance._function]
    before = snapshot(net)
    report = modified(net, instance)
    assert [p.layer for p in report] == wanted
    assert all(x.nonlinearity is instance for x in wanted)
    report.undo()
    assert_as_before(before)
    # nothing else, whatever else is selected
    report = modified(net, instance, select=lambda place: True)
    assert [p.layer for p in report] == wanted
    report = modified(net, instance, select=[DenseLayer, wanted[0]])
    assert [p.layer for p in report] == wanted
    report = modified(net, instance, select=wanted[0])
    assert [p.layer for p in report] == wanted[:1]


def test_mapping():
    net = mlp(rectify, rectify, tanh, leaky_rectify, T.nnet.relu)
    report = modified(net, OrderedDict([
        ('0', DeconvNet),
        ((layer(net, '1'), tanh), functools.partial(Scaled, factor=2)),
        (None, GuidedBackprop),
        (lambda place: True, ZeroBackprop)]))
    assert rules(net) == [
        ('0', 'DeconvNet(rectify)'), ('1', 'Scaled(rectify)'),
        ('2', 'Scaled(tanh)'), ('3', 'ZeroBackprop(LeakyRectify)'),
        ('4', 'GuidedBackprop(relu)'), ('out', 'ZeroBackprop(linear)')]
    assert not report.left_alone


def test_mapping_leaves_the_rest_alone():
    net = mlp(rectify, rectify)
    report = modified(net, {'1': GuidedBackprop})
    assert rules(net) == [('1', 'GuidedBackprop(rectify)')]
    assert [(p.name, why) for p, why in report.left_alone] == [
        ('0', 'not selected'), ('out', 'no rectifier')]


def test_a_key_that_comes_too_late():
    net = mlp(rectify, rectify)
    for late in '1', layer(net, '1'):
        with pytest.raises(ValueError) as info:
            modified(net, OrderedDict([(None, GuidedBackprop),
                                    (late, DeconvNet)]))
        assert str(info.value) == (
            'apply: DeconvNet is never used in 1, since an earlier key of the '
            'dict matches, too. Put what is special first')
    assert not rules(net)
    modified(net, OrderedDict([(None, DeconvNet), ('1', DeconvNet)]))
    net = lstm()[0]
    net.name = 'lstm'
    report = modified(net, OrderedDict([
        (lambda place: place.attribute == 'nonlinearity', DeconvNet),
        ('lstm', GuidedBackprop)]))
    assert [repr(p.rule)[0] for p in report] == ['D', 'G', 'G']


@pytest.mark.parametrize('rule', [
    None, 3, 'guided', [GuidedBackprop], rectify, softmax, T.tanh,
    {'0': None}, {'0': GuidedBackprop, '1': 'x'}])
def test_no_rule(rule):
    net = mlp(rectify, rectify)
    before = snapshot(net)
    with pytest.raises(TypeError, match='expected rule to be a subclass of '
                                        'ModifiedBackprop, .* got'):
        modified(net, rule)
    assert_as_before(before)


def test_a_rule_that_makes_nothing():
    net = mlp(rectify)
    with pytest.raises(TypeError, match='apply: expected the rule <lambda> to '
                                        'return a nonlinearity for rectify, '
                                        'got NoneType'):
        modified(net, lambda f: None)
    assert layer(net, '0').nonlinearity is rectify


def test_mapping_and_select():
    with pytest.raises(TypeError, match='no select beside a dict of rules'):
        modified(mlp(rectify), {'0': GuidedBackprop}, select='0')


# The selection

def second_layer(net):
    return layer(net, '1')


SELECTIONS = [
    (None, '014'),
    ('1', '1'),
    (second_layer, '1'),
    (DenseLayer, '014'),
    (rectify, '01'),
    (T.nnet.relu, '4'),
    (leaky_rectify, '2'),
    (LeakyRectify, '23'),
    (tanh, '5'),
    (T.nnet.softplus, '6'),
    (['1', tanh, LeakyRectify], '1235'),
    ((tanh, frozenset(['0', '4'])), '045'),
    (frozenset([None, tanh]), '0145'),
    (lambda place: place.name in '25', '25'),
    (lambda place: place.is_rectifier and place.name != '0', '14'),
    (lambda place: place.nonlinearity is tanh, '5'),
    (lambda place: isinstance(place.layer, DenseLayer), '0123456o'),
]


@pytest.mark.parametrize('select, names', SELECTIONS)
def test_select(select, names):
    net = mlp(rectify, rectify, leaky_rectify, LeakyRectify(.2), T.nnet.relu,
              tanh, T.nnet.softplus)
    select = select(net) if select is second_layer else select
    before = snapshot(net)
    with modified(net, ZeroBackprop, select) as report:
        assert [p.name[0] for p in report] == list(names)
        assert [n[0] for n, _ in rules(net)] == list(names)
    assert_as_before(before)
    if not isinstance(select, list):
        assert list(map(repr, modified(net, {select: ZeroBackprop}))) == list(
            map(repr, report))


def test_select_by_type_of_layer():
    net = NonlinearityLayer(mlp(rectify), name='last')
    report = modified(net, ZeroBackprop, select=NonlinearityLayer)
    assert [p.name for p in report] == ['last']


def test_what_a_predicate_gets():
    net = lstm()[0]
    seen = []
    report = modified(net, ZeroBackprop, select=lambda place: (
        seen.append(place) or place.attribute.endswith('outgate')))
    assert [p.attribute for p in seen] == [
        'nonlinearity', 'nonlinearity_cell', 'nonlinearity_forgetgate',
        'nonlinearity_ingate', 'nonlinearity_outgate']
    assert seen[-1] == Place(net, '#1 LSTMLayer', 'nonlinearity_outgate',
                             sigmoid, None)
    assert list(report) == [seen[-1]._replace(rule=report[0].rule)]
    with pytest.raises(AttributeError):
        seen[0].nonlinearity = tanh


def test_select_a_method():
    class Method(lasagne.layers.Layer):
        def nonlinearity(self, x):
            return T.maximum(x, 0)

    net = Method(mlp(rectify), name='method')
    before = snapshot(net)
    for select in net.nonlinearity, lambda place: place.name == 'method':
        with modified(net, ZeroBackprop, select) as report:
            assert isinstance(net.nonlinearity, ZeroBackprop)
        assert len(report) == 1
        assert_as_before(before)
    with modified(net, ZeroBackprop(net.nonlinearity)) as report:
        assert [p.name for p in report] == ['method']


def test_select_of_another_kind():
    for select in 3, [3], {'0': 1}, True:
        with pytest.raises(TypeError, match='apply: expected select to be a '
                                            'layer, .* got'):
            modified(mlp(rectify), ZeroBackprop, select)


def test_select_that_fails():
    net = mlp(rectify)
    with pytest.raises(TypeError) as info:
        modified(net, ZeroBackprop, lambda place: place.nom == '0')
    assert str(info.value) == (
        'apply: select=<lambda> is no nonlinearity of this network, and as a '
        "function of a place it fails for 0: AttributeError: 'Place' object "
        "has no attribute 'nom'")
    assert isinstance(info.value.__cause__, AttributeError)

    def my_relu(x):
        return T.maximum(x, 0)

    with pytest.raises(TypeError, match='select=my_relu is no nonlinearity of '
                                        'this network'):
        modified(net, ZeroBackprop, my_relu)
    with pytest.raises(KeyboardInterrupt):
        modified(net, ZeroBackprop, interrupt)
    assert layer(net, '0').nonlinearity is rectify


def interrupt(place):
    raise KeyboardInterrupt


# Nothing to replace

def test_nothing_to_replace():
    net = mlp(leaky_rectify, tanh, sigmoid, T.nnet.softplus)
    with pytest.raises(ValueError) as info:
        with modified(net, GuidedBackprop):
            pass
    alone = 'left alone: '
    one = alone + 'not known to be ReLU; to replace it, select it'
    assert str(info.value).splitlines() == [
        'modified: found nothing to replace by GuidedBackprop in the network '
        'that ends in out. What is there:',
        'layer  attribute     nonlinearity   rule',
        '0      nonlinearity  leaky_rectify  ' + one,
        '1      nonlinearity  tanh           ' + alone + 'no rectifier',
        '2      nonlinearity  sigmoid        ' + alone + 'no rectifier',
        '3      nonlinearity  softplus       ' + one,
        'out    nonlinearity  linear         ' + alone + 'no rectifier',
        'Perhaps you meant select=leaky_rectify']
    assert len(modified(net, GuidedBackprop, select=leaky_rectify)) == 1


@pytest.mark.parametrize('rule, select', [
    (GuidedBackprop, []),
    (GuidedBackprop, lambda place: False),
    (GuidedBackprop, LeakyRectify),
    (GuidedBackprop, lasagne.layers.Conv2DLayer),
    (GuidedBackprop, softmax),       # not called as a predicate
    (GuidedBackprop, lasagne.nonlinearities.identity),
    (GuidedBackprop, GuidedBackprop(rectify)),
    (GuidedBackprop(tanh), None),
    (GuidedBackprop(tanh), rectify),
    ({}, None),
    ({LeakyRectify: GuidedBackprop, tanh: ZeroBackprop}, None)])
def test_nothing_selected(rule, select):
    net = NonlinearityLayer(mlp(rectify), rectify)
    layer(net, 'out').nonlinearity = sigmoid
    before = snapshot(net)
    with pytest.raises(ValueError, match='apply: found nothing to replace by'):
        modified(net, rule, select)
    assert_as_before(before)


def test_nothing_names_the_output():
    net = mlp(tanh)
    net.inside = DenseLayer((None, 2), 3, nonlinearity=tanh)
    with pytest.raises(ValueError, match='network that ends in out. What'):
        modified(net, GuidedBackprop)


def test_instance_of_another_rectifier():
    with pytest.raises(ValueError) as info:
        modified(mlp(rectify, leaky_rectify), GuidedBackprop(T.nnet.relu))
    assert str(info.value).splitlines()[-3:] == [
        '1      nonlinearity  leaky_rectify  left alone: not known to be '
        'ReLU; to replace it, select it',
        'out    nonlinearity  linear         left alone: no rectifier',
        'GuidedBackprop(relu) replaces relu alone. Perhaps you meant its '
        'class, GuidedBackprop']


def test_no_nonlinearity_at_all():
    with pytest.raises(ValueError, match='in the network that ends in in. '
                                         'What is there:\nno nonlinearity$'):
        modified(InputLayer((1, 2), name='in'), GuidedBackprop)


def test_unknown_name():
    net = DropoutLayer(mlp(rectify, rectify), name='drop')
    with pytest.raises(ValueError) as info:
        modified(net, GuidedBackprop, select=['1', 'dorp'])
    assert str(info.value) == ("apply: no layer is named 'dorp', perhaps "
                               "you meant 'drop'")
    with pytest.raises(ValueError) as info:
        modified(net, GuidedBackprop, select='xyz')
    assert str(info.value) == (
        "apply: no layer is named 'xyz', the names are 'input', '0', '1', "
        "'out', 'drop'")
    assert not rules(net)


def test_layer_of_another_network():
    with pytest.raises(ValueError, match='apply: the layer DenseLayer .* in '
                                         'select is not part of the network'):
        modified(mlp(rectify), {None: GuidedBackprop,
                             mlp(rectify): ZeroBackprop})


def test_a_layer_with_nothing_to_replace():
    net = DropoutLayer(mlp(rectify, leaky_rectify), name='drop')
    for select in '1', layer(net, '1'):
        with pytest.raises(ValueError) as info:
            modified(net, GuidedBackprop, select=['0', select])
        assert str(info.value).splitlines() == [
            'apply: found nothing to replace by GuidedBackprop in 1. What is '
            'there:',
            'layer  attribute     nonlinearity   rule',
            '1      nonlinearity  leaky_rectify  left alone: not known to be '
            'ReLU; to replace it, select it',
            'Perhaps you meant select=leaky_rectify']
    with pytest.raises(ValueError, match='in drop. What is there:\nno nonlin'):
        modified(net, GuidedBackprop, select='drop')
    assert not rules(net)


# The report

class ParametricRectifierLayer(lasagne.layers.Layer):
    """As in later Lasagnes."""

    def get_output_for(self, x, **kwargs):
        return T.nnet.relu(x, .25)


class LeakyRectifierLayer(NonlinearityLayer):
    """Keeps its nonlinearity, other than one would think."""


def test_report():
    net = mlp(rectify, leaky_rectify, lambda x: T.maximum(x, 0), softmax,
              LeakyRectify(.2), T.nnet.relu)
    net = LeakyRectifierLayer(ParametricRectifierLayer(net))
    with modified(net, GuidedBackprop) as report:
        inside = repr(report)
    assert repr(report) == inside == str(report)
    alone = 'left alone: '
    one = alone + 'not known to be ReLU; to replace it, select it'
    assert inside.splitlines() == [
        'layer                        attribute     nonlinearity   rule',
        '0                            nonlinearity  rectify        '
        'GuidedBackprop(rectify)',
        '1                            nonlinearity  leaky_rectify  ' + one,
        '2                            nonlinearity  <lambda>       ' + one,
        '3                            nonlinearity  softmax        '
        + alone + 'no rectifier; take the gradient of the logits before it',
        '4                            nonlinearity  LeakyRectify   ' + one,
        '5                            nonlinearity  relu           '
        'GuidedBackprop(relu)',
        'out                          nonlinearity  linear         '
        + alone + 'no rectifier',
        '#8 ParametricRectifierLayer  -             -              '
        + alone + 'keeps no nonlinearity; see override_in',
        '#9 LeakyRectifierLayer       nonlinearity  rectify        '
        'GuidedBackprop(rectify)']
    assert isinstance(report, Report)
    assert len(report) == 3 and len(list(report)) == 3
    assert report[0] == Place(layer(net, '0'), '0', 'nonlinearity', rectify,
                              report[0].rule)
    assert report[0].rule.nonlinearity is rectify
    place, why = report.left_alone[5]
    assert (place.attribute, place.nonlinearity, place.rule) == (None,) * 3
    assert place.layer is get_all_layers(net)[8]
    for everything in lambda place: True, object, [None, object]:
        with modified(net, ZeroBackprop, everything) as report:
            assert len(report) == 8
        assert report.left_alone == [(place, why)]


def test_the_function_of_a_layer():
    net = mlp(rectify)
    net.function = T.cosh
    report = modified(net, ZeroBackprop)
    assert [(p.attribute, why) for p, why in report.left_alone] == [
        ('function', 'no rectifier'), ('nonlinearity', 'no rectifier')]
    report = modified(net, ZeroBackprop, select=T.cosh)
    assert [p.attribute for p in report] == ['function']


def test_report_of_a_rule_left_standing():
    net = mlp(rectify, rectify)
    modified(net, GuidedBackprop)
    report = modified(net, ZeroBackprop, select='1')
    assert repr(report).splitlines()[1:3] == [
        '0      nonlinearity  GuidedBackprop(rectify)  left alone: not '
        'selected',
        '1      nonlinearity  rectify                  ZeroBackprop(rectify)']


# Putting back what was there

class Error(Exception):
    pass


@pytest.mark.parametrize('error', [
    Error, TypeError, RuntimeError, KeyboardInterrupt, SystemExit,
    GeneratorExit, StopIteration])
def test_restores_on_exceptions(error):
    net = own()[0]
    before = snapshot(net)
    raised = error('x')
    with pytest.raises(error) as info:
        with modified(net, GuidedBackprop):
            assert isinstance(net.activation, GuidedBackprop)
            raise raised
    assert info.value is raised
    assert_as_before(before)


def test_restores_on_return_and_in_a_generator():
    net = mlp(rectify)
    before = snapshot(net)

    def returns():
        with modified(net, GuidedBackprop):
            return rules(net)

    def generates():
        with modified(net, GuidedBackprop):
            yield rules(net)

    assert returns() == [('0', 'GuidedBackprop(rectify)')]
    assert_as_before(before)
    generator = generates()
    assert next(generator) == [('0', 'GuidedBackprop(rectify)')]
    generator.close()
    assert_as_before(before)


@pytest.mark.parametrize('error', [Error, KeyboardInterrupt])
def test_a_rule_that_fails_half_way(error):
    net = mlp(rectify, T.nnet.relu, tanh)
    before = snapshot(net)
    calls = []

    def rule(nonlinearity):
        calls.append(nonlinearity)
        if nonlinearity is tanh:
            raise error('the third')
        return GuidedBackprop(nonlinearity)

    with pytest.raises(error, match='^the third$'):
        with modified(net, rule, select=[None, tanh]):
            pass
    assert calls == [rectify, T.nnet.relu, tanh]
    assert_as_before(before)


class Stubborn(NonlinearityLayer):
    """Does with another nonlinearity what its author says."""

    def __init__(self, incoming, then):
        super().__init__(incoming)
        self.then = then

    def __setattr__(self, name, value):
        if name == 'nonlinearity' and 'then' in vars(self):
            value = self.then(value)
        super().__setattr__(name, value)


def throw(error):
    raise error


@pytest.mark.parametrize('then, error, message', [
    (lambda f: throw(Error('no!')), AttributeError,
     'modified: cannot replace stubborn.nonlinearity: no!'),
    (lambda f: rectify, AttributeError, 'modified: cannot replace '
     'stubborn.nonlinearity: the layer does not keep it'),
    (lambda f: f if f is rectify else (lambda x: f(x)), AttributeError,
     'the layer does not keep it'),
    (lambda f: throw(KeyboardInterrupt('now')), KeyboardInterrupt, '^now$')])
def test_a_layer_that_fails_half_way(then, error, message):
    stubborn = Stubborn(mlp(rectify, rectify), then)
    stubborn.name = 'stubborn'
    net = DenseLayer(stubborn, 3)
    before = snapshot(net)
    with pytest.raises(error, match=message) as info:
        with modified(net, GuidedBackprop):
            pass
    if 'no!' in message:
        assert isinstance(info.value.__cause__, Error)
    assert_as_before(before)


def test_interrupted_between_two_layers(monkeypatch):
    net = mlp(rectify, rectify, rectify)
    before = snapshot(net)
    do = gradmod.network._Swap.do

    def do_or_interrupt(swap):
        if swap.name == '1':
            raise KeyboardInterrupt
        do(swap)

    monkeypatch.setattr(gradmod.network._Swap, 'do', do_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        modified(net, GuidedBackprop)
    assert_as_before(before)


class ReadOnly(NonlinearityLayer):
    """Has a nonlinearity that nobody can set."""

    def __init__(self, incoming, name):
        lasagne.layers.Layer.__init__(self, incoming, name)

    @property
    def nonlinearity(self):
        return rectify


def test_a_property_that_cannot_be_set():
    net = DenseLayer(ReadOnly(mlp(rectify), 'fixed'), 3)
    before = snapshot(net)
    with pytest.raises(AttributeError, match='cannot replace fixed.nonlinear'):
        modified(net, GuidedBackprop)
    assert_as_before(before)
    with modified(net, GuidedBackprop, lambda p: p.name != 'fixed') as report:
        assert len(report) == 3
    assert_as_before(before)


@pytest.mark.parametrize('settable', [False, True])
def test_a_property_over_an_attribute(settable):
    class Wrapped(lasagne.layers.Layer):
        def __init__(self, incoming):
            super().__init__(incoming)
            self._kept = rectify

        def get_nonlinearity(self):
            return self._kept

        def set_nonlinearity(self, value):
            self._kept = value

        nonlinearity = property(get_nonlinearity,
                                set_nonlinearity if settable else None)

    net = Wrapped((None, 3))
    before = snapshot(net)
    with modified(net, GuidedBackprop) as report:
        assert repr(net.nonlinearity) == 'GuidedBackprop(rectify)'
        assert [p.attribute for p in report] == ['_kept', 'nonlinearity']
    assert net.nonlinearity is rectify
    assert_as_before(before)


def test_slots():
    class Slotted(lasagne.layers.Layer):
        __slots__ = ['nonlinearity']

    net = Slotted((None, 3))
    net.nonlinearity = rectify
    before = snapshot(net)
    with modified(net, GuidedBackprop):
        with modified(net, ZeroBackprop):
            assert repr(net.nonlinearity) == 'ZeroBackprop(rectify)'
        assert repr(net.nonlinearity) == 'GuidedBackprop(rectify)'
    assert net.nonlinearity is rectify
    assert_as_before(before)


def test_an_attribute_of_the_class():
    class Fixed(NonlinearityLayer):
        nonlinearity = staticmethod(rectify)

        def __init__(self, incoming):
            lasagne.layers.Layer.__init__(self, incoming)

    net = Fixed((None, 3))
    with modified(net, GuidedBackprop):
        assert 'nonlinearity' in vars(net)
    assert 'nonlinearity' not in vars(net) and net.nonlinearity is rectify


# Contexts within contexts

def test_of_nested_contexts_the_inner_one_counts():
    net = mlp(rectify, rectify, leaky_rectify)
    before = snapshot(net)
    with modified(net, GuidedBackprop) as outer:
        in_outer = snapshot(net)
        with modified(net, DeconvNet, select='1') as inner:
            assert rules(net) == [('0', 'GuidedBackprop(rectify)'),
                                  ('1', 'DeconvNet(rectify)')]
            assert inner[0].nonlinearity is rectify
            with modified(net, ZeroBackprop):
                assert rules(net) == [('0', 'ZeroBackprop(rectify)'),
                                      ('1', 'ZeroBackprop(rectify)')]
        assert rules(net) == [(p.name, repr(p.rule)) for p in outer]
        for x, then in in_outer:
            assert vars(x).get('nonlinearity') is then.get('nonlinearity')
    assert_as_before(before)


def test_selecting_by_the_rule_that_stands_there():
    net = mlp(rectify, rectify)
    guided = GuidedBackprop(rectify)
    modified(net, guided, select='0')
    assert [p.name for p in modified(net, ZeroBackprop, select=guided)] == ['0']
    modified(net, guided, select='1')
    around = DeconvNet(guided)  # a rule around a rule: told to
    report = modified(net, around)
    assert [(p.name, p.rule) for p in report] == [('1', around)]
    assert [p.nonlinearity for p in report] == [rectify]
    report = modified(net, ZeroBackprop)
    assert [(p.name, repr(p.rule)) for p in report] == [
        ('0', 'ZeroBackprop(rectify)'), ('1', 'ZeroBackprop(rectify)')]


def test_entering_again():
    net = mlp(rectify, leaky_rectify)
    before = snapshot(net)
    for rule in GuidedBackprop, GuidedBackprop(rectify):
        context = modified(net, rule)
        for _ in range(2):
            with context as first:
                with context as second:
                    assert rules(net) == [('0', 'GuidedBackprop(rectify)')]
                    assert layer(net, '0').nonlinearity is second[0].rule
                assert layer(net, '0').nonlinearity is first[0].rule
            assert_as_before(before)


def test_entering_again_in_vain():
    allowed = [True]
    net = Stubborn(mlp(rectify), lambda f: f if allowed else throw(Error()))
    before = snapshot(net)
    context = modified(net, GuidedBackprop)
    with context as report:
        del allowed[:]
        with pytest.raises(AttributeError):
            context.__enter__()
        assert net.nonlinearity is report[1].rule
        assert layer(net, '0').nonlinearity is report[0].rule
        allowed.append(True)
    assert_as_before(before)


@pytest.mark.parametrize('order', ['012', '021', '102', '120', '201', '210'])
@pytest.mark.parametrize('kind', [own, dense])
def test_ending_in_any_order(kind, order):
    net = kind()[0]
    before = snapshot(net)
    classes = [GuidedBackprop, DeconvNet, ZeroBackprop]
    reports = [modified(net, rule) for rule in classes]
    still = [0, 1, 2]
    for i in map(int, order):
        reports[i].undo()
        still.remove(i)
        for p in reports[0] if still else []:
            assert getattr(p.layer, p.attribute) is [
                q.rule for q in reports[still[-1]]
                if (q.layer, q.attribute) == (p.layer, p.attribute)][0]
        reports[i].undo()  # nothing
    assert_as_before(before)


def test_contexts_that_overlap_in_part():
    net = mlp(rectify, rectify, rectify)
    before = snapshot(net)
    first = modified(layer(net, '1'), GuidedBackprop)
    second = modified(net, DeconvNet, select=['1', '2'])
    with contextlib.ExitStack() as stack:
        stack.enter_context(first)
        second.__enter__()
        assert [r[0] for _, r in rules(net)] == ['G', 'D', 'D']
    assert [r[0] for _, r in rules(net)] == ['D', 'D']
    second.__exit__(None, None, None)
    assert_as_before(before)


def test_somebody_else_sets_a_nonlinearity():
    net = mlp(rectify, rectify, rectify)
    before = snapshot(net)
    with pytest.raises(RuntimeError) as info:
        with modified(net, GuidedBackprop):
            layer(net, '1').nonlinearity = tanh
    assert str(info.value) == (
        'modified: while GuidedBackprop(rectify) was in place, somebody else '
        'set 1.nonlinearity to tanh. What was there at first is put back: '
        'rectify')
    assert_as_before(before)
    # an error that is there already is not replaced by that one
    with pytest.raises(KeyboardInterrupt):
        with modified(net, GuidedBackprop):
            layer(net, '1').nonlinearity = tanh
            raise KeyboardInterrupt
    assert_as_before(before)
    # the innermost context tells
    with modified(net, GuidedBackprop):
        with pytest.raises(RuntimeError):
            with modified(net, DeconvNet):
                layer(net, '1').nonlinearity = tanh
        assert len(rules(net)) == 3
    assert_as_before(before)


def test_somebody_else_sets_a_nonlinearity_before_another_rule():
    for order in (0, 1), (1, 0):
        net = mlp(rectify)
        before = snapshot(net)
        applied = [modified(net, GuidedBackprop)]
        layer(net, '0').nonlinearity = tanh
        applied.append(modified(net, DeconvNet, select=tanh))
        with pytest.raises(RuntimeError, match='while GuidedBackprop.rectify. '
                           'was in place, somebody else set .* to tanh'):
            for i in order:
                applied[i].undo()
        for report in applied:
            report.undo()
        assert_as_before(before)


def test_a_shallow_copy_of_a_layer_under_a_rule():
    net = mlp(rectify)
    before = snapshot(net)
    original = layer(net, '0')
    first = modified(net, GuidedBackprop)
    copied = copy.copy(original)
    rule = copied.nonlinearity
    second = modified(copied, DeconvNet, select=lambda place: place.layer is copied)
    first.undo()
    assert_as_before(before)
    second.undo()
    assert_as_before(before)
    assert copied.nonlinearity is rule


def test_somebody_else_deletes_a_nonlinearity():
    net = mlp(rectify)
    before = snapshot(net)
    with pytest.raises(RuntimeError, match='set 0.nonlinearity to NoneType'):
        with modified(net, GuidedBackprop):
            del layer(net, '0').nonlinearity
    assert layer(net, '0').nonlinearity is rectify
    assert dict(vars(layer(net, '0'))) == dict(before[1][1])


def test_all_the_rest_is_put_back_where_one_cannot_be():
    net = Stubborn(mlp(rectify, rectify),
                   lambda f: throw(Error('back')) if f is rectify else f)
    net.name = 'stubborn'
    with pytest.raises(Error, match='back'):
        with modified(DenseLayer(net, 3), GuidedBackprop):
            pass
    assert rules(net) == [('stubborn', 'GuidedBackprop(rectify)')]


# The rest

def test_apply():
    net = mlp(rectify, rectify)
    before = snapshot(net)
    report = modified(net, GuidedBackprop)
    x, out, saliency = expressions(net)
    with modified(net, GuidedBackprop):
        saliency_2 = theano.clone(expressions(net)[2])
    assert np.array_equal(*value(x, (4, 6), saliency, saliency_2))
    assert len(rules(net)) == 2
    report.undo()
    assert_as_before(before)


def test_pickling():
    net = mlp(rectify, rectify)
    report = modified(net, GuidedBackprop)
    copy = pickle.loads(pickle.dumps(net, -1))
    assert rules(copy) == rules(net)
    before = snapshot(copy)
    with modified(copy, DeconvNet):
        assert rules(copy)[0] == ('0', 'DeconvNet(rectify)')
    for x, attributes in before:
        assert vars(x) == attributes
    report.undo()
    assert not rules(net) and len(rules(copy)) == 2


def test_many_layers():
    net = InputLayer((None, 3))
    for _ in range(500):
        net = NonlinearityLayer(net, rectify)
    with modified(net, GuidedBackprop) as report:
        assert len(report) == 500


def test_needs_no_lasagne():
    program = ("import gradmod, gradmod.network, sys; "
               "assert 'lasagne' not in sys.modules")
    subprocess.check_call([sys.executable, '-c', program])


def test_an_error_names_the_last_output():
    outputs = get_all_layers(mlp(tanh))
    with pytest.raises(ValueError, match='network that ends in out. What'):
        modified(outputs, ZeroBackprop)
