"""Rules in the place of the nonlinearities of a Lasagne network."""
import re
import warnings
from collections import namedtuple
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import numpy as np
import theano.tensor as T

from ._theano import Op
from .base import ModifiedBackprop, check_rule, is_composite
from .errors import describe, name_of, perhaps
from .report import Report

# Lasagne is imported inside of functions: gradmod does not need it otherwise.

RECTIFYING = re.compile('rectif|elu|softplus', re.IGNORECASE)  # by the name
NOT_KNOWN = 'not known to be ReLU; select it, or see override_in'
BY_ITSELF = 'may rectify by itself; see override_in'
HEADINGS = 'layer', 'attribute', 'nonlinearity'


class Place(namedtuple('Place', 'layer name attribute nonlinearity rule')):
    """Where a layer keeps a nonlinearity.

    Attributes
    ----------
    layer : lasagne.layers.Layer
        The layer.
    name : str
        Its name; if it has none, its key in the dict given as the network; if
        there is none, its number and type, such as ``'#3 DenseLayer'``.
        Numbers count through ``lasagne.layers.get_all_layers``, then through
        the layers inside of layers.
    attribute : str or None
        The name of the layer's attribute; None where the layer computes
        something of its own and keeps no nonlinearity.
    nonlinearity : callable
        What is there; where a rule stands, what the rule is around.
    rule : callable or None
        The rule there, if any.
    """

    __slots__ = ()

    @property
    def is_rectifier(self):
        """Whether it is Lasagne's ``rectify`` or Theano's ``T.nnet.relu``."""
        from lasagne.nonlinearities import rectify
        return any(self.nonlinearity is f for f in (rectify, T.nnet.relu))

    @property
    def label(self):
        """What the nonlinearity is called; without one, the layer's type."""
        from lasagne import nonlinearities
        f = self.nonlinearity
        if f is None:
            return type(self.layer).__name__
        return next((name for name, value in vars(nonlinearities).items()
                     if value is f), name_of(f))

    @property
    def cells(self):
        """The strings of its row in a report."""
        return (self.name, self.attribute or '-',
                self.label if self.attribute else '-', name_of(self.rule))


class modified(Report):
    """Put a rule in the place of a network's rectifiers, for a while.

    ``with modified(network, rule) as report:`` replaces them, and puts back
    exactly what was there at the end, however that comes about. Compute the
    output inside; ``theano.grad`` can follow later.

    ``report = modified(network, rule)`` replaces them as well, until
    ``report.undo()``.

    Parameters
    ----------
    network : lasagne.layers.Layer, or list, tuple or dict of Layer
        The output layer or layers. All layers below count, and all that are
        kept inside of those, such as the networks in a CustomRecurrentLayer.
    rule : callable, dict or composite
        - A subclass of `ModifiedBackprop`, or any other function of a
          nonlinearity that returns one. Called once for each different
          nonlinearity; all layers that have it share the result.
        - An instance of `ModifiedBackprop`, or a result of
          `override_gradient`. It replaces its own nonlinearity, no other.
        - A dict of such rules with `select` for keys. Where several keys
          match, the first one counts; where none does, nothing is replaced.
          The key None stands for the default.
        - An object with a method ``plan(names)``. It gets a dict of the names
          by layer, and returns pairs: a `Place` with the attribute, what is
          there and what to put there; None, or the reason to leave it alone.
    select : optional
        What to replace. By default, all rectifiers: ``rectify`` of Lasagne and
        ``T.nnet.relu`` of Theano (where `rule` is an instance, all that it is
        around). Or one of these, or a list, tuple or set of them:

        - a layer, the name of one, or a type of layer: the same, in there;
        - a nonlinearity, or a type of nonlinearity: that one, in any layer;
        - a function that gets a `Place` and says whether to replace it.

    Attributes
    ----------
    left_alone : list of (Place, str)
        What was not replaced, each with the reason. What was replaced are the
        members of the object itself, a sequence of `Place`; it prints as a
        table of both.

    Raises
    ------
    TypeError
        If `network` is no network; if there is a `select` beside a dict or a
        composite; if a rule's gradient would never be called, as that of a
        copy of the recipe of Theano 0.8 or of one that defines ``L_op``.
    ValueError
        If there is nothing to replace, or if `select` names a layer that is
        not there, or in which there is nothing to replace (or nothing that an
        earlier key of the dict does not match, too).
    AttributeError
        If a layer does not keep what it is given. All that was done so far is
        then undone, as after any other exception.
    RuntimeError
        At the end, if something else was put in one of the places meanwhile.
        What was there at first is put back before that is said.

    Warns
    -----
    UserWarning
        If the default selection replaces some rectifiers and leaves others
        alone that may be some, too. If a layer has a nonlinearity with a
        gradient that is never called. At the end, if no rule was called.

    See Also
    --------
    override_in : for rectifiers that no layer keeps; on any Theano expression.

    Notes
    -----
    The nonlinearities of a layer are its attributes whose names begin with
    ``nonlinearity`` (an LSTM has several), the ``function`` of an
    ``ExpressionLayer``, and any other attribute that is a rectifier. What a
    layer computes without keeping a nonlinearity cannot be seen: the report
    names the layers of a type that may do so.

    Leaky and exponential rectifiers are left alone unless selected, for a rule
    made for ReLU says something else there (`GuidedBackprop` drops their slope
    below zero). So are rectifiers of your own, which cannot be told from other
    functions.

    Where a rule stands already, the new one takes its place, around the same
    nonlinearity: of two, one inside the other, the inner one counts. They can
    end in any order; ``with`` puts one that has ended in place again. A
    network must not be modified in two threads at a time.

    A network that takes gradients in its forward pass, as ``InverseLayer``
    does, has another forward pass under a rule.

    Examples
    --------
    >>> import gradmod
    >>> import lasagne
    >>> from lasagne.layers import DenseLayer, InputLayer
    >>> from lasagne.nonlinearities import leaky_rectify
    >>> import theano, theano.tensor as T
    >>> x = T.matrix('x')
    >>> net = InputLayer((None, 10), x)
    >>> net = DenseLayer(net, 20, name='first')
    >>> net = DenseLayer(net, 20)
    >>> net = DenseLayer(net, 5, nonlinearity=None)
    >>> with gradmod.modified(net, gradmod.GuidedBackprop) as report:
    ...     logits = lasagne.layers.get_output(net, deterministic=True)
    >>> saliency = theano.grad(logits.max(axis=1).sum(), x)
    >>> report
    layer          attribute     nonlinearity  rule
    first          nonlinearity  rectify       GuidedBackprop(rectify)
    #2 DenseLayer  nonlinearity  rectify       GuidedBackprop(rectify)
    #3 DenseLayer  nonlinearity  linear        left alone: no rectifier

    Leaky rectifiers as well, another rule in the first layer, and no ``with``:

    >>> net = DenseLayer(net, 5, nonlinearity=leaky_rectify)
    >>> report = gradmod.modified(net, {
    ...     'first': gradmod.DeconvNet,
    ...     None: gradmod.GuidedBackprop,
    ...     leaky_rectify: gradmod.GuidedGradient})
    >>> for place in report:
    ...     print(place.name, place.rule)
    first DeconvNet(rectify)
    #2 DenseLayer GuidedBackprop(rectify)
    #4 DenseLayer GuidedGradient(LeakyRectify)
    >>> out = lasagne.layers.get_output(net, deterministic=True)
    >>> report.undo()
    >>> net.nonlinearity is leaky_rectify
    True

    All rectifiers but one:

    >>> with gradmod.modified(net, gradmod.GuidedBackprop,
    ...                       select=lambda place: place.is_rectifier
    ...                       and place.name != 'first') as report:
    ...     out = lasagne.layers.get_output(net, deterministic=True)
    >>> len(report)
    1
    """

    def __init__(self, network, rule, select=None):
        names = named_layers(network)
        told = is_composite(rule) or isinstance(rule, Mapping)
        if told and select is not None:
            raise TypeError('expected no select beside a dict of rules or a '
                            'composite, which select by themselves')
        rows = (list(rule.plan(names)) if is_composite(rule) else
                _rows(list(_places(names)), names, rule, select))
        super().__init__(HEADINGS, rows)
        if not len(self):
            raise _nothing(rule, 'the network that ends in '
                           + names[flatten(network)[-1]], rows)
        # Before anything is changed: a warning may be an error.
        for warning in _warnings(rows, rule, told or select is not None):
            warnings.warn(warning, stacklevel=2)
        self._apply()

    def _apply(self):
        self._calls_before = self._calls()
        with ExitStack() as undo:
            for place in self:
                swap = _Swap(place)
                undo.callback(swap.undo)
                swap.do()
            self._undo = undo.pop_all()

    def _calls(self):
        # What does not count its calls counts as NaN, which equals nothing.
        return sum(getattr(place.rule, 'calls', np.nan) for place in self)

    def _end(self, failed):
        undo, self._undo = self._undo, None
        if undo is None:
            return
        # Where there is an error already, that one is told.
        with suppress(RuntimeError) if failed else ExitStack():
            undo.close()
        if not failed and self._calls() == self._calls_before:
            warnings.warn('no rule was called while in place: call get_output '
                          'inside of `with`, or before undo()', stacklevel=3)

    def undo(self):
        """Put back what was there. Once done, it does nothing.

        Raises
        ------
        RuntimeError
            If something else was put in one of the places meanwhile. What was
            there at first is put back before that is said.
        """
        self._end(failed=False)

    def __enter__(self):
        if self._undo is None:
            self._apply()
        return self

    def __exit__(self, kind, error, traceback):
        self._end(failed=kind is not None)


def flatten(value):
    """The members of nested lists, tuples, sets and dicts; else the value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [v for member in value for v in flatten(member)]
    return [value]


def named_layers(network):
    """The names of all layers, also those kept inside of others, by layer."""
    from lasagne.layers import Layer, get_all_layers
    outputs = flatten(network)
    if not outputs or not all(isinstance(layer, Layer) for layer in outputs):
        raise TypeError('expected network to be a Lasagne layer, or a list, '
                        f'tuple or dict of layers, got {describe(network)}')
    layers = get_all_layers(outputs)
    seen = set(layers)
    for layer in layers:  # which grows
        inside = [v for v in flatten(vars(layer))
                  if isinstance(v, Layer) and v not in seen]
        more = [v for v in get_all_layers(inside) if v not in seen]
        layers.extend(more)
        seen.update(more)
    keys = network.items() if isinstance(network, Mapping) else ()
    keys = {layer: key for key, value in keys for layer in flatten(value)}
    return {layer: str(layer.name or keys.get(layer)
                       or f'#{i} {type(layer).__name__}')
            for i, layer in enumerate(layers)}


def find_layers(wanted, names, what='the layers', one=False):
    """What is wanted, itself or by its name; of one name, several if not `one`."""
    found = [layer for layer, name in names.items() if wanted in (layer, name)]
    if not found or one and len(found) > 1:
        raise ValueError(f'expected one of {what}, got {describe(wanted)}, which '
                         f'fits {len(found)}: {perhaps(wanted, [*names.values()])}')
    return found


def _places(names):
    for layer, name in names.items():
        here = []
        for attribute in dir(layer):
            by_name = (attribute.startswith('nonlinearity')
                       or attribute == 'function')
            value = f = (getattr(layer, attribute, None) if by_name
                         else vars(layer).get(attribute))
            while isinstance(f, ModifiedBackprop):
                f = f.nonlinearity
            rule = None if f is value else value
            place = Place(layer, name, attribute, f, rule)
            if callable(value) and by_name or place.is_rectifier:
                here.append(place)
        if not here and (RECTIFYING.search(type(layer).__name__)
                         or not _from_library(type(layer).get_output_for)):
            here = [Place(layer, name, None, None, None)]
        yield from here


def _rows(places, names, rule, select):
    """Each place, with its rule and None, or with why it is left alone."""
    from lasagne.layers import Layer
    given = {}  # by the number of the place
    pairs = rule.items() if isinstance(rule, Mapping) else [(select, rule)]
    for key, r in pairs:
        check_rule(r)
        for selector in flatten(key):
            wanted = _predicate(selector, r, places)
            found = [i for i, place in enumerate(places)
                     if place.attribute and wanted(place)]
            if isinstance(selector, (str, Layer)):
                name = names[find_layers(selector, names)[0]]
                if not found:
                    raise _nothing(rule, name, [
                        (p, _reason(p)) for p in places if p.name == name])
                if all(given.get(i, r) is not r for i in found):
                    raise ValueError(f'{name_of(r)} is never used in {name}: '
                                     'an earlier key of the dict matches, too')
            given.update((i, r) for i in found if i not in given)
    rows, made = [], {}
    for i, place in enumerate(places):
        r = given.get(i)
        if r is None:
            rows.append((place, _reason(place)))
            continue
        if not isinstance(r, ModifiedBackprop):
            key = id(r), id(place.nonlinearity)
            if key not in made:
                made[key] = r(place.nonlinearity)
                check_rule(made[key])
            r = made[key]
        rows.append((place._replace(rule=r), None))
    return rows


def _predicate(selector, rule, places):
    """Whether a place is one for `rule`, as a function."""
    from lasagne.layers import Layer
    bound = isinstance(rule, ModifiedBackprop)
    a_type = isinstance(selector, type)
    where = (selector is None or isinstance(selector, (str, Layer))
             or a_type and issubclass(selector, Layer))
    known = (isinstance(selector, ModifiedBackprop) or _from_library(selector)
             or any(selector in _held(place) for place in places))

    def wanted(place):
        fits = (rule.nonlinearity in _held(place) if bound else
                place.is_rectifier or not where)
        there = place.layer if where else place.nonlinearity
        return fits and (isinstance(there, selector) if a_type else
                         selector in (None, there, place.name) if where else
                         selector in _held(place) if known else
                         selector(place))

    return wanted


def _held(place):
    return place.nonlinearity, place.rule


def _from_library(function):
    """Whether it is one of Lasagne's or Theano's own."""
    module = str(getattr(function, '__module__', None)).partition('.')[0]
    return isinstance(function, Op) or module in ('lasagne', 'theano')


def _reason(place):
    reason = (BY_ITSELF if place.attribute is None else
              'not selected' if place.is_rectifier else
              'no rectifier; take the gradient of the logits before it'
              if place.label == 'softmax' else
              NOT_KNOWN if _may_rectify(place) else 'no rectifier')
    return reason + (f'; {name_of(place.rule)} stays' if place.rule else '')


def _may_rectify(place):
    """Whether it is a relative of rectifiers, or of the user's own."""
    return bool(RECTIFYING.search(place.label) or place.attribute
                and not _from_library(place.nonlinearity))


def _mistake(f):
    """What to say of a nonlinearity whose gradient is never called."""
    if not isinstance(f, ModifiedBackprop) and all(
            hasattr(f, a) for a in ('nonlinearity', 'ops', 'grad')):
        return (f'{type(f).__name__}.grad is never called: Theano 1.0 ignores '
                "the recipe's. Derive it from another ModifiedBackprop: "
                'from gradmod import ModifiedBackprop')


def _warnings(rows, rule, told):
    """What to say of what is left alone, where nobody `told` so."""
    left = [place for place, reason in rows if reason]
    yield from {_mistake(p.rule or p.nonlinearity) for p in left} - {None}
    alike = [p for p in left if _may_rectify(p)
             and not (p.rule or _mistake(p.nonlinearity))]
    if told or not alike or not any(p.is_rectifier for p, r in rows if not r):
        return
    examples = {p.label: f'{p.label} (in {p.name})' for p in alike}
    around = '.around' * isinstance(rule, ModifiedBackprop)
    kept = any(p.attribute for p in alike)
    yield (f'{name_of(rule)} replaces rectifiers, but leaves alone what may '
           f'be some, too: {", ".join(examples.values())}. To leave them alone: '
           'select=lambda place: place.is_rectifier. '
           + f'To replace a function f, too: rule{around} with select=[None, f]; '
           'GuidedGradient keeps slopes below zero. ' * kept
           + 'override_in reaches what layers compute by themselves')


def _nothing(rule, where, rows):
    """The error that says what is there instead."""
    message = (f'{name_of(rule)}: found nothing to replace in {where}. '
               f'What is there:\n{Report(HEADINGS, rows)}')
    if isinstance(rule, ModifiedBackprop) and any(
            place.is_rectifier for place, _ in rows):
        message += (f'\nIt replaces {name_of(rule.nonlinearity)} alone; its '
                    'method `around`, as the rule, replaces others')
    return ValueError(message)


class _Swap:
    """A rule put in its place, which keeps what was there.

    Those that are in place are listed in their layer, in the attribute
    `_gradmod_swaps`, so that they can be undone in any order: one that is not
    the last hands what it keeps to the next.
    """

    def __init__(self, place):
        self.place = place
        self.kept = getattr(place.layer, place.attribute)
        self.of_instance = place.attribute in vars(place.layer)
        self.done = False

    def do(self):
        layer, name, attribute, _, rule = self.place
        # A list of its own: one in a shallow copy of the layer is another.
        swaps = vars(layer).get('_gradmod_swaps', [])
        vars(layer)['_gradmod_swaps'] = swaps + [self]
        with suppress(AttributeError):  # a property over what has the rule now
            setattr(layer, attribute, rule)
        if getattr(layer, attribute) is not rule:
            raise AttributeError(f'cannot replace {name}.{attribute}: the '
                                 'layer does not keep it')
        self.done = True

    def undo(self):
        layer, name, attribute, _, rule = self.place
        swaps = vars(layer).get('_gradmod_swaps', [])
        if self not in swaps:
            return
        later = [s for s in swaps[swaps.index(self) + 1:]
                 if s.place.attribute == attribute]
        current = getattr(layer, attribute, None)
        found = current
        if later:
            found = later[0].kept
            later[0].kept, later[0].of_instance = self.kept, self.of_instance
        elif attribute in vars(layer) and not self.of_instance:
            delattr(layer, attribute)
        elif current is not self.kept and (
                self.of_instance or current != self.kept):  # equal methods
            setattr(layer, attribute, self.kept)
        vars(layer)['_gradmod_swaps'] = [s for s in swaps if s is not self]
        if len(swaps) == 1:
            del vars(layer)['_gradmod_swaps']
        if self.done and found is not rule:
            raise RuntimeError(
                f'{name}.{attribute} was set to {name_of(found)} while '
                f'{name_of(rule)} was there: {name_of(self.kept)} is put back')
