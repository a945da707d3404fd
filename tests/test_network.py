import contextlib
import copy
import functools
import itertools
import pickle
import re
import warnings

import numpy as np
import pytest
import theano
import theano.tensor as T
from lasagne.layers import (
    CustomRecurrentLayer, DenseLayer, DropoutLayer, FeaturePoolLayer,
    InputLayer, Layer, LSTMLayer, NINLayer, NonlinearityLayer, get_all_layers,
    get_output)
from lasagne.layers.recurrent import Gate
from lasagne.nonlinearities import (
    LeakyRectify, leaky_rectify, rectify, sigmoid, softmax, tanh)

import gradmod
from gradmod import lrp
from gradmod import (DeconvNet, GuidedBackprop, GuidedGradient,
                     ModifiedBackprop, ZeroBackprop)
from gradmod.network import (BY_ITSELF, NOT_KNOWN, Place, find_layers,
                             modified)

from .models import PY, OldRecipe

# Most tests call no rule, and mix rectifiers. Those of warnings override this.
pytestmark = pytest.mark.filterwarnings('ignore:no rule was called',
                                        'ignore:.*leaves alone')


def mlp(*nonlinearities):
    """A dense network that ends without a nonlinearity, named 0, 1, ..."""
    net = InputLayer((None, 6), input_var=T.matrix('x'), name='input')
    for i, nonlinearity in enumerate(nonlinearities):
        net = DenseLayer(net, 7, nonlinearity=nonlinearity, name=str(i))
    return DenseLayer(net, 3, nonlinearity=None, name='out')


@contextlib.contextmanager
def unchanged(network):
    """Afterwards, layers have the same objects for attributes, in order."""
    before = [(x, dict(vars(x))) for x in get_all_layers(network)]
    yield
    for x, attributes in before:
        now = vars(x)
        assert list(now) == list(attributes)
        assert all(now[a] is attributes[a] for a in now)


def layer(network, name):
    (found,) = [x for x in get_all_layers(network) if x.name == name]
    return found


def rules(network):
    """Name and rule of the layers that have one."""
    return [(x.name, repr(x.nonlinearity)) for x in get_all_layers(network)
            if isinstance(getattr(x, 'nonlinearity', None), ModifiedBackprop)]


def initials(network):
    return ''.join(rule[0] for _, rule in rules(network))


def expressions(network):
    """An input's variable, the output, and a gradient with signs to lose."""
    x = get_all_layers(network)[0].input_var
    out = get_output(network, deterministic=True)
    weights = T.constant(np.random.RandomState(1).randn(999))[:out.size]
    return x, out, theano.grad((out.flatten() * weights).sum(), x)


def value(x, shape, *outputs):
    X = np.random.RandomState(2).randn(*shape).astype(x.dtype)
    return theano.function([x], list(outputs), mode=PY)(X)


def refused(network, *args, error=ValueError):
    """What is said; nothing is changed."""
    with unchanged(network), pytest.raises(error) as info:
        modified(network, *args)
    return str(info.value)


def throw(error):
    raise error


# Where Lasagne keeps nonlinearities

def of_library():
    x = InputLayer((2, 2, 3, 3), input_var=T.tensor4('x'))
    norm = NonlinearityLayer(NINLayer(x, 4, nonlinearity=tanh), T.nnet.relu)
    pool = FeaturePoolLayer(norm, 2, pool_function=T.max)
    conv = NINLayer(pool, 3)
    net = LSTMLayer(conv, 5, ingate=Gate(nonlinearity=rectify), name='lstm',
                    cell=Gate(W_cell=None, nonlinearity=rectify),
                    nonlinearity=rectify, unroll_scan=True)
    return net, x.shape, [(norm, 'nonlinearity'), (conv, 'nonlinearity'),
                          (net, 'nonlinearity'), (net, 'nonlinearity_cell'),
                          (net, 'nonlinearity_ingate')]


class Own(Layer):
    """A layer with nonlinearities where its author likes them."""

    nonlinearity_of_class = staticmethod(rectify)

    def __init__(self, incoming, inside):
        super().__init__(incoming)
        self.inside = inside
        self.activation = rectify
        self.nonlinearity2 = self.function = T.nnet.relu
        self.nonlinearity_name = 'rectify'
        self.nonlinearity3 = None
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


@pytest.mark.parametrize('kind', [of_library, own])
def test_equal_to_swapping_by_hand(kind):
    network, shape, places = kind()
    plain = expressions(network)
    with unchanged(network), modified(network, GuidedBackprop) as report:
        got = expressions(network)
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


def test_names():
    x = InputLayer((None, 2, 6))
    dense = NINLayer(x, 6)
    named = NINLayer(dense, 6, name='named')
    last = CustomRecurrentLayer(
        named, DenseLayer(InputLayer((None, 6)), 4),
        DenseLayer(InputLayer((None, 4)), 4, nonlinearity=None))
    report = modified(last, ZeroBackprop)
    assert [p.name for p in report] == [
        '#1 NINLayer', 'named', '#3 CustomRecurrentLayer', '#5 DenseLayer']
    assert report[-1].layer is last.input_to_hidden
    assert modified(last, ZeroBackprop, '#5 DenseLayer')[0] == report[
        -1]._replace(rule=last.input_to_hidden.nonlinearity)
    for network, names in [
            ({'x': x, 'dense': dense, 'key': named, 5: last},
             ['dense', 'named', '5', '#5 DenseLayer']),
            (named, ['#1 NINLayer', 'named']),  # what is below, alone
            ((dense, [named]), ['#1 NINLayer', 'named'])]:
        assert [p.name for p in modified(network, ZeroBackprop)] == names
    # within two layers
    inside = DenseLayer((None, 6), 7)
    first = Own((None, 6), [inside])
    second = Own(first, [NonlinearityLayer((None, 7), rectify), inside])
    report = modified(second, ZeroBackprop)
    assert [p.layer for p in report] == [first] * 4 + [second] * 4 + [
        inside, second.inside[0]]
    assert not report.left_alone


def test_what_is_no_network_and_what_no_rule():
    for network in None, [], {}, [InputLayer((1, 2)), 3]:
        with pytest.raises(TypeError, match='Lasagne'):
            modified(network, GuidedBackprop)
    net = mlp(rectify, rectify)
    for rule in None, rectify, lambda f: None, {'0': DeconvNet, '1': 'x'}:
        refused(net, rule, error=TypeError)


def test_a_rule_is_called_once_for_each_nonlinearity():
    calls = []

    def rule(f):
        calls.append(f)
        return GuidedBackprop(f) if f is not tanh else throw(GeneratorExit())

    net = mlp(rectify, T.nnet.relu, rectify, T.nnet.relu, tanh)
    with unchanged(net), modified(net, rule) as report:
        assert calls == [rectify, T.nnet.relu]
        made = [p.rule for p in report]
        assert made == made[:2] * 2
        assert [p.layer.nonlinearity for p in report] == made
    refused(net, rule, [None, tanh], error=GeneratorExit)
    assert calls[2:] == [rectify, T.nnet.relu, tanh]


def test_an_instance_replaces_its_own_nonlinearity_alone():
    net = mlp(rectify, leaky_rectify, LeakyRectify(), T.nnet.relu,
              leaky_rectify)
    instance = gradmod.override_gradient(leaky_rectify, lambda inputs, gs: gs)
    for select, names in [(None, '14'), (lambda place: True, '14'),
                          ([DenseLayer, '1'], '14'), ('4', '4')]:
        with unchanged(net), modified(net, instance, select) as report:
            assert ''.join(p.name for p in report) == names
            assert all(p.layer.nonlinearity is instance for p in report)
    # the same rule, of others too
    assert [p.name for p in modified(net, instance.around)] == ['0', '3']


def test_mapping():
    net = mlp(rectify, rectify, tanh, leaky_rectify, T.nnet.relu)
    with modified(net, {
            '0': DeconvNet,
            (layer(net, '1'), tanh): lambda f: GuidedGradient(f),
            None: GuidedBackprop,
            lambda place: True: ZeroBackprop}) as report:
        assert rules(net) == [
            ('0', 'DeconvNet(rectify)'), ('1', 'GuidedGradient(rectify)'),
            ('2', 'GuidedGradient(tanh)'), ('3', 'ZeroBackprop(LeakyRectify)'),
            ('4', 'GuidedBackprop(relu)'), ('out', 'ZeroBackprop(linear)')]
    assert not report.left_alone
    report = modified(net, {'1': GuidedBackprop})
    assert [p.name for p in report] == ['1']
    assert [why for _, why in report.left_alone] == [
        'not selected', 'no rectifier', NOT_KNOWN, 'not selected',
        'no rectifier']
    net = mlp(rectify, rectify)
    for late in '1', layer(net, '1'):
        assert 'never' in refused(net, {None: GuidedBackprop, late: DeconvNet})
    modified(net, {None: DeconvNet, '1': DeconvNet})
    report = modified(of_library()[0], {
        lambda place: place.attribute == 'nonlinearity': DeconvNet,
        'lstm': GuidedBackprop})
    assert [repr(p.rule)[0] for p in report][-3:] == ['D', 'G', 'G']


class Composite:
    """Dense layers give twice as much; others are left alone."""

    def plan(self, names):
        for x, name in names.items():
            was = x.get_output_for
            yield Place(x, name, 'get_output_for', was, functools.partial(
                lambda was, inp, **kwargs: 2 * was(inp), was)), (
                    None if isinstance(x, DenseLayer) else 'not dense')


def test_composite():
    net = mlp(rectify)
    x, out, _ = expressions(net)
    with unchanged(net):  # the method is the class's, so no attribute stays
        first = modified(net, Composite())
        doubled = expressions(net)[1]
        second = modified(net, Composite())  # over the first
        out, doubled, more = value(x, (4, 6), out, doubled,
                                   expressions(net)[1])
        first.undo()
        np.testing.assert_allclose(doubled, 4 * out, rtol=1e-5)
        np.testing.assert_allclose(more, 16 * out, rtol=1e-5)
        assert [p.name for p, _ in second.left_alone] == ['input']
        assert net.get_output_for is second[-1].rule
        del net.get_output_for  # back to the method of the class
        with pytest.raises(RuntimeError, match='out.get_output_for'):
            second.undo()
    for rule in Composite(), {'0': GuidedBackprop}:
        assert 'select' in refused(net, rule, '0', error=TypeError)
    assert 'nothing' in refused(NonlinearityLayer((None, 2)), Composite())
    refusing = Composite()
    refusing.plan = lambda names: throw(OSError())
    refused(net, refusing, error=OSError)


@pytest.mark.parametrize('select, names', [
    (None, '0147'), ('1', '1'), (DenseLayer, '014'), (rectify, '017'),
    (LeakyRectify, '23'), (T.nnet.softplus, '6'),
    ((tanh, frozenset(['0', '4'])), '045'), (frozenset([None, tanh]), '01457'),
    (lambda place: place.is_rectifier and place.name != '0', '147'),
    (lambda place: isinstance(place.layer, DenseLayer), '0123456o')])
def test_select(select, names):
    net = NonlinearityLayer(
        mlp(rectify, rectify, leaky_rectify, LeakyRectify(.2), T.nnet.relu,
            tanh, T.nnet.softplus), rectify, name='7')
    with unchanged(net), modified(net, ZeroBackprop, select) as report:
        assert [n[0] for n, _ in rules(net)] == list(names)
    assert repr(modified(net, {select: ZeroBackprop})) == repr(report)


def test_nothing_to_replace():
    net = mlp(lambda x: x, tanh, leaky_rectify, T.nnet.elu)
    for network in net, get_all_layers(net):
        first, _, *rows = refused(network, GuidedBackprop).splitlines()
        assert 'in out.' in first
        assert len(rows) == 5 and rows[2].endswith(NOT_KNOWN)
    assert len(modified(net, GuidedBackprop, select=leaky_rectify)) == 1


@pytest.mark.parametrize('rule, select', [
    (GuidedBackprop, LeakyRectify), (GuidedBackprop, NINLayer),
    (GuidedBackprop, softmax),  # not called as a predicate
    (GuidedBackprop, GuidedBackprop(rectify)), (GuidedBackprop(tanh), None),
    (GuidedBackprop(tanh), rectify), ({}, None),
    ({LeakyRectify: GuidedBackprop, tanh: ZeroBackprop}, None)])
def test_nothing_selected(rule, select):
    net = NonlinearityLayer(mlp(rectify, T.nnet.elu, sigmoid), rectify)
    said = refused(net, rule, select)
    assert ('around' in said) is isinstance(rule, ModifiedBackprop)
    assert 'nothing' in said
    # no hint that cannot be followed
    layer(net, '0').nonlinearity = net.nonlinearity = sigmoid
    said = refused(net, rule, select)
    assert 'nothing' in said and 'around' not in said


def test_layers_by_their_names():
    names = {1: 'a', 2: 'b', 3: 'a'}
    assert find_layers('a', names) == [1, 3]
    for wanted in 2, 'b':
        assert find_layers(wanted, names, one=True) == [2]
    for wanted, one, count in ('a', True, 2), ('c', False, 0), (4, True, 0):
        with pytest.raises(ValueError, match=f'fits {count}'):
            find_layers(wanted, names, one=one)


def test_layers_that_are_not_there_or_have_nothing():
    net = DropoutLayer(mlp(rectify, rectify), name='drop')
    for select, said in [
            (['1', 'dorp'], "'drop'"), ('xyz', "'input', '0', '1', 'out', 'd"),
            (mlp(rectify), 'DenseLayer')]:
        assert said in refused(net, GuidedBackprop, select)
    net = mlp(rectify, leaky_rectify)  # with nothing to replace
    for where in '1', layer(net, '1'):
        for rule, select in (GuidedBackprop, ['0', where]), (
                {'0': GuidedBackprop, where: GuidedBackprop}, None):
            first, _, row = refused(net, rule, select).splitlines()
            assert 'in 1.' in first and ' leaky_rectify ' in row


class ParametricRectifierLayer(Layer):
    """As in later Lasagnes."""

    def get_output_for(self, x, **kwargs):
        return T.nnet.relu(x, .25)

    get_output_for.__module__ = 'lasagne.layers.special'


class Secret(Layer):
    """Of the user's own; nothing tells that it rectifies."""

    def get_output_for(self, x, **kwargs):
        return T.nnet.relu(x)


def test_report():
    Renamed = type('Renamed', (DropoutLayer,), {})  # a forward pass of Lasagne
    net = mlp(rectify, lambda x: T.maximum(x, 0), softmax, LeakyRectify(.2))
    Keeping = type('LeakyRectifierLayer', (NonlinearityLayer,), {})
    net = Keeping(Renamed(Secret(ParametricRectifierLayer(net))))
    with modified(net, GuidedBackprop) as report:
        lines = str(report).splitlines()
    assert [re.split('   *', line) for line in lines] == [
        ['layer', 'attribute', 'nonlinearity', 'rule'],
        ['0', 'nonlinearity', 'rectify', 'GuidedBackprop(rectify)'],
        ['1', 'nonlinearity', '<lambda>', f'left alone: {NOT_KNOWN}'],
        ['2', 'nonlinearity', 'softmax',
         f'left alone: {report.left_alone[1][1]}'],
        ['3', 'nonlinearity', 'LeakyRectify', f'left alone: {NOT_KNOWN}'],
        ['out', 'nonlinearity', 'linear', 'left alone: no rectifier'],
        ['#6 ParametricRectifierLayer', '-', '-', f'left alone: {BY_ITSELF}'],
        ['#7 Secret', '-', '-', f'left alone: {BY_ITSELF}'],
        ['#9 LeakyRectifierLayer', 'nonlinearity', 'rectify',
         'GuidedBackprop(rectify)']]
    assert 'logits' in report.left_alone[1][1]
    assert len({line.index('left') for line in lines
                if 'left' in line}) == 1  # in columns
    assert len(report) == len(list(report)) == 2
    for everything in lambda place: True, object, [None, object]:
        with modified(net, ZeroBackprop, everything) as everywhere:
            assert everywhere.left_alone == report.left_alone[4:]
    net = mlp(rectify, rectify)
    net.function = T.cosh
    report = modified(net, ZeroBackprop)
    assert [(p.attribute, why) for p, why in report.left_alone] == [
        ('function', 'no rectifier'), ('nonlinearity', 'no rectifier')]
    report = modified(net, DeconvNet, select=['1', T.cosh])
    assert [str(p.rule) for p in report] == ['DeconvNet(rectify)',
                                             'DeconvNet(cosh)']
    assert report.left_alone[0][1].endswith('ZeroBackprop(rectify) stays')


@contextlib.contextmanager
def warns(*messages):
    """These warnings, no others, each of the line of the caller."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        yield
    caught = [w for w in caught if issubclass(w.category, UserWarning)]
    assert [w.filename for w in caught] == [__file__] * len(messages)
    for warning, message in zip(caught, messages):
        assert message in str(warning.message)


@pytest.mark.parametrize('unit, what', [
    (leaky_rectify, 'leaky_rectify'), (LeakyRectify(0), 'LeakyRectify'),
    (T.nnet.elu, 'elu'), (T.nnet.softplus, 'softplus'),
    (lambda x: T.nnet.relu(x), '<lambda>')])
def test_warns_of_rectifiers_left_alone(unit, what):
    net = mlp(rectify, unit, unit, tanh)
    with warns(f' {what} (in 2)'):
        handle = modified(net, GuidedBackprop)
    handle.undo()
    with warns():  # The advice is followed.
        modified(net, GuidedBackprop, lambda place: place.is_rectifier)
        modified(net, {None: GuidedBackprop, unit: GuidedGradient})
        assert len(modified(net, GuidedBackprop, [None, unit])) == 3
        modified(net, GuidedBackprop)  # A rule stands there, so it is meant.


def test_what_is_said_of_others_left_alone():
    with warns('override_in'):
        modified(ParametricRectifierLayer(mlp(rectify)), GuidedBackprop)
    with warns('rule.around'):
        modified(mlp(rectify, T.nnet.relu), GuidedBackprop(rectify))
    with warns():  # a function is told; nothing tells by its name
        modified(mlp(leaky_rectify, rectify), GuidedGradient(leaky_rectify))
        modified(Secret(mlp(rectify, tanh, softmax)), GuidedBackprop)


def test_warns_where_no_rule_was_called():
    net = mlp(rectify, rectify)
    get_output(net)
    called = GuidedBackprop(rectify)
    with warns('call get_output inside'):
        with modified(net, GuidedBackprop):
            pass
    with warns():
        for _ in range(2):
            with modified(net, called) as handle:
                get_output(net)
        handle.undo()
        with modified(net, {'0': called, '1': lambda f: tanh}):
            pass  # the second cannot tell
        modified(net, Composite()).undo()
        with pytest.raises(OSError), modified(net, called):
            raise OSError
    with warns('no rule was called'):  # though it was, earlier
        modified(net, called).undo()


def test_a_gradient_that_is_never_called():
    net, rule = mlp(rectify, rectify), OldRecipe
    for given in rule, rule(rectify), {'1': rule}, lambda f: rule(f):
        assert 'ModifiedBackprop' in refused(net, given, error=TypeError)
    # in the network already
    there = layer(net, '0').nonlinearity = rule(tanh)
    with warns('from gradmod import ModifiedBackprop'):
        modified(net, ZeroBackprop)
    with warns():  # its place is taken
        modified(net, ZeroBackprop, select=there)


def test_a_warning_that_is_an_error_comes_before_any_change():
    net = mlp(rectify, leaky_rectify)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert 'alone' in refused(net, GuidedBackprop, error=UserWarning)
        with unchanged(net), pytest.raises(UserWarning, match='no rule was'):
            modified(net, {None: GuidedBackprop}).undo()


def test_the_handle():
    net = mlp(rectify, rectify)
    with unchanged(net):
        handle = modified(net, GuidedBackprop)
        assert rules(net) == [(p.name, repr(p.rule)) for p in handle] != []
        with handle as report:
            assert report is handle and len(rules(net)) == 2
            x, out, saliency = expressions(net)
        assert not rules(net)
    for _ in range(2):  # in place again
        with unchanged(net), handle:
            assert len(rules(net)) == 2
            saliency_2 = theano.clone(expressions(net)[2])
        with unchanged(net):
            handle.undo()
    with unchanged(net), handle, handle:
        handle.undo()
    assert np.array_equal(*value(x, (4, 6), saliency, saliency_2))


class Stubborn(NonlinearityLayer):
    """Does with another nonlinearity what its author says."""

    def __init__(self, incoming, then):
        super().__init__(incoming, name='stubborn')
        self.then = then

    def __setattr__(self, name, value):
        if name == 'nonlinearity' and 'then' in vars(self):
            value = self.then(value)
        super().__setattr__(name, value)


def test_a_layer_that_fails_half_way():
    for then, error in [
            (lambda f: throw(KeyboardInterrupt()), KeyboardInterrupt),
            (lambda f: throw(AttributeError()), AttributeError),
            (lambda f: f if f is rectify else lambda x: f(x), AttributeError)]:
        net = DenseLayer(Stubborn(mlp(rectify, rectify), then), 3)
        said = refused(net, GuidedBackprop, error=error)
        assert ('stubborn' in said) is (error is AttributeError)
    # one that cannot be put back; all the rest is
    net = DenseLayer(Stubborn(mlp(rectify, rectify), lambda f: (
        throw(OSError('back')) if f is rectify else f)), 3)
    with pytest.raises(OSError, match='back'), modified(net, GuidedBackprop):
        pass
    assert rules(net) == [('stubborn', 'GuidedBackprop(rectify)')]


def test_methods_slots_and_properties():
    net = type('Method', (Layer,), {
        'nonlinearity': lambda self, x: T.maximum(x, 0)})((None, 3))
    for rule, select in [(ZeroBackprop, net.nonlinearity),
                         (ZeroBackprop(net.nonlinearity), None)]:
        with unchanged(net), modified(net, rule, select):
            assert initials(net) == 'Z'
    net = type('Slotted', (Layer,), {'__slots__': ['nonlinearity']})((None, 3))
    net.nonlinearity = rectify
    with unchanged(net), modified(net, GuidedBackprop):
        with modified(net, ZeroBackprop):
            assert initials(net) == 'Z'
        assert initials(net) == 'G'
    assert net.nonlinearity is rectify
    for setter in None, lambda self, f: setattr(self, '_kept', f):
        net = type('Wrapped', (Layer,), {'nonlinearity': property(
            lambda self: self._kept, setter)})((None, 3))
        net._kept = rectify
        with unchanged(net), modified(net, GuidedBackprop) as report:
            assert initials(net) == 'G'
            assert [p.attribute for p in report] == ['_kept', 'nonlinearity']
        assert net.nonlinearity is rectify


def test_selecting_by_the_rule_that_stands_there():
    net = mlp(rectify, rectify)
    guided = GuidedBackprop(rectify)
    modified(net, guided, select='0')
    assert [p.name for p in modified(net, ZeroBackprop, guided)] == ['0']
    modified(net, guided, select='1')
    around = DeconvNet(guided)  # a rule around a rule: told to
    assert list(modified(net, around)) == [
        Place(layer(net, '1'), '1', 'nonlinearity', rectify, around)]
    modified(net, ZeroBackprop)
    assert repr(net.input_layer.nonlinearity) == 'ZeroBackprop(rectify)'


@pytest.mark.parametrize('order', [*itertools.permutations(range(3))])
def test_ending_in_any_order(order):
    net = own()[0]
    with unchanged(net):
        reports = dict(enumerate(modified(net, rule) for rule in (
            GuidedBackprop, DeconvNet, ZeroBackprop)))
        for i in order:
            ended = reports.pop(i)
            for _ in range(2):  # the second time nothing
                ended.undo()
                for p in reports[max(reports)] if reports else []:
                    assert getattr(p.layer, p.attribute) is p.rule


def test_somebody_else_sets_a_nonlinearity():
    net = mlp(rectify, rectify, rectify)
    # an error that is there already is not replaced by that one
    with unchanged(net), pytest.raises(KeyboardInterrupt):
        with modified(net, GuidedBackprop):
            layer(net, '1').nonlinearity = tanh
            raise KeyboardInterrupt
    # the innermost one says so
    with unchanged(net), modified(net, GuidedBackprop):
        with pytest.raises(RuntimeError, match='tanh'):
            with modified(net, DeconvNet):
                layer(net, '1').nonlinearity = tanh
        assert initials(net) == 'GGG'
    with pytest.raises(RuntimeError, match='0.* NoneType'):
        with modified(net, GuidedBackprop):
            del layer(net, '0').nonlinearity
    assert layer(net, '0').nonlinearity is rectify


def test_somebody_else_before_another_rule():
    net = mlp(rectify)
    for order in (0, 1), (1, 0):
        with unchanged(net):
            applied = [modified(net, GuidedBackprop)]
            layer(net, '0').nonlinearity = tanh
            applied.append(modified(net, DeconvNet, select=tanh))
            with pytest.raises(RuntimeError, match='tanh'):
                for i in order:
                    applied[i].undo()
            for report in applied:
                report.undo()
    # and where it puts back all attributes
    with unchanged(net):
        before = dict(vars(layer(net, '0')))
        handle = modified(net, GuidedBackprop)
        layer(net, '0').__dict__ = before
        handle.undo()


def test_copies_of_a_layer_under_a_rule():
    net = mlp(rectify)
    with unchanged(net):
        first = modified(net, GuidedBackprop)
        copied = copy.copy(layer(net, '0'))
        rule = copied.nonlinearity
        second = modified(copied, DeconvNet, lambda p: p.layer is copied)
        first.undo()
        assert not rules(net)
        second.undo()
    assert copied.nonlinearity is rule
    net = mlp(rectify, rectify)
    handle = modified(net, GuidedBackprop)
    copied = pickle.loads(pickle.dumps(net, -1))
    with unchanged(net), modified(copied, DeconvNet):
        assert initials(copied) == 'DD'
    handle.undo()
    assert not rules(net) and initials(copied) == 'GG'


def test_rules_of_layers_say_how_they_are_given():
    for rule in lrp.Epsilon(), lrp.EpsilonPlus, {'0': lrp.ZPlus}:
        for use in gradmod.modified, gradmod.saliency_map:
            with pytest.raises(TypeError, match='lrp.EpsilonPlus'):
                use(mlp(rectify), rule)
    with pytest.raises(TypeError, match='network'):
        gradmod.override_in(T.nnet.relu(T.dmatrix()), lrp.Epsilon())
