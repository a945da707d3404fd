"""Rules in the place of the nonlinearities of a Lasagne network."""
import difflib
import re
from collections import namedtuple
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import theano
import theano.tensor as T

from .base import ModifiedBackprop
from .errors import describe, name_of

# Lasagne is imported inside of functions: gradmod does not need it otherwise.

RECTIFYING = re.compile('rectif|elu|softplus', re.IGNORECASE)  # by the name
NOT_SELECTED = 'not selected'
NOT_KNOWN = 'not known to be ReLU; to replace it, select it'


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
    attribute : str
        The name of the layer's attribute.
    nonlinearity : callable
        The nonlinearity there; where a rule stands, what the rule is around.
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
    def held(self):
        """The nonlinearity, and the rule."""
        return self.nonlinearity, self.rule


class Report(Sequence):
    """What was replaced, as a sequence of `Place`, and what was left alone.

    It prints as a table of both.

    Attributes
    ----------
    left_alone : list of (Place, str)
        What was not replaced, each with the reason. A layer that computes a
        rectifier without keeping a nonlinearity has the `attribute` None.
    """

    def __init__(self, caller, rows):
        self._caller, self._rows, self._undo = caller, rows, ExitStack()
        self._replaced = [place for place, reason in rows if reason is None]
        self.left_alone = [row for row in rows if row[1] is not None]

    def __len__(self):
        return len(self._replaced)

    def __getitem__(self, index):
        return self._replaced[index]

    def __repr__(self):
        return _table(self._rows)

    def _do(self):
        try:
            for place in self:
                swap = _Swap(self._caller, place)
                self._undo.callback(swap.undo)
                swap.do()
        except BaseException:
            self.undo()
            raise

    def undo(self):
        """Put back what was there. Once done, it does nothing.

        Raises
        ------
        RuntimeError
            If somebody else has meanwhile put something else in one of the
            places. What was there at first is put back before that is said.
        """
        self._undo.close()


class modified(object):
    """Put a rule in the place of a network's rectifiers, for a while.

    ``with modified(network, rule) as report:`` replaces them, and puts exactly
    what was there back at the end, however that comes about. The rule has to
    be in place only while the output is computed: ``theano.grad`` can follow
    later.

    Parameters
    ----------
    network : lasagne.layers.Layer, or list, tuple or dict of Layer
        The output layer or layers. All layers below count, and all that are
        kept inside of those, such as the networks in a CustomRecurrentLayer.
    rule : callable or dict
        - A subclass of `ModifiedBackprop`, or any other function of a
          nonlinearity that returns one. Called once for each different
          nonlinearity; all layers that have it share the result.
        - An instance of `ModifiedBackprop`, or a result of
          `override_gradient`. It replaces its own nonlinearity, no other.
        - A dict of such rules with `select` for keys. Where several keys
          match, the first one counts; where none does, nothing is replaced.
          The key None stands for the default.
    select : optional
        What to replace. By default, all rectifiers: ``rectify`` of Lasagne and
        ``T.nnet.relu`` of Theano (where `rule` is an instance, all that it is
        around). Or one of these, or a list, tuple or set of them:

        - a layer, the name of one, or a type of layer: the same, in there;
        - a nonlinearity, or a type of nonlinearity: that one, in any layer;
        - a function that gets a `Place` and says whether to replace it.

    Returns
    -------
    Report
        At the ``with``. A sequence of the places replaced, each a `Place`; it
        prints as a table that also has what was left alone, and why.

    Raises
    ------
    TypeError
        If an argument is not of the kind described.
    ValueError
        If there is nothing to replace, or if `select` names a layer that is
        not there, or in which there is nothing to replace (or nothing that an
        earlier key of the dict does not match, too).
    AttributeError
        If a layer does not let its nonlinearity be replaced. All that was
        done so far is then undone.
    RuntimeError
        At the end, if the nonlinearity of a layer was set to something else
        meanwhile. What was there at first is put back before that is said.

    See Also
    --------
    apply : the same without an end.
    override_in : for rectifiers that no layer keeps; on any Theano expression.

    Notes
    -----
    The nonlinearities of a layer are its attributes whose names begin with
    ``nonlinearity`` (an LSTM has several), the ``function`` of an
    ``ExpressionLayer``, and any other attribute that is a rectifier. A layer
    that computes a rectifier without keeping a nonlinearity, such as
    ``ParametricRectifierLayer``, is left alone; see `override_in` for those.

    Leaky and exponential rectifiers are left alone unless selected, for a rule
    made for ReLU says something else there (`GuidedBackprop` drops their slope
    below zero). So are rectifiers of your own, which cannot be told from other
    functions.

    Where a rule stands already, the new one takes its place, around the same
    nonlinearity: of two contexts, one inside the other, the inner one counts.
    They can end in any order, and a context can be entered again. A network
    must not be modified in two threads at a time.

    A network that takes gradients in its forward pass, as ``InverseLayer``
    does, has another forward pass under a rule.

    Examples
    --------
    >>> import gradmod
    >>> import lasagne
    >>> from lasagne.layers import DenseLayer, InputLayer
    >>> import theano, theano.tensor as T
    >>> net = InputLayer((None, 10), T.matrix('x'))
    >>> x = net.input_var
    >>> net = DenseLayer(net, 20, name='first')
    >>> leaky = lasagne.nonlinearities.leaky_rectify
    >>> net = DenseLayer(net, 20, nonlinearity=leaky)
    >>> net = DenseLayer(net, 20)
    >>> net = DenseLayer(net, 5, nonlinearity=None)
    >>> with gradmod.modified(net, gradmod.GuidedBackprop) as report:
    ...     logits = lasagne.layers.get_output(net, deterministic=True)
    >>> saliency = theano.grad(logits.max(axis=1).sum(), x)
    >>> report
    layer          attribute     nonlinearity   rule
    first          nonlinearity  rectify        GuidedBackprop(rectify)
    #2 DenseLayer  nonlinearity  leaky_rectify  left alone: not known to be ReLU; to replace it, select it
    #3 DenseLayer  nonlinearity  rectify        GuidedBackprop(rectify)
    #4 DenseLayer  nonlinearity  linear         left alone: no rectifier

    The leaky one as well, and another rule in the first layer:

    >>> rules = {'first': gradmod.DeconvNet,
    ...          (None, leaky): gradmod.GuidedBackprop}
    >>> with gradmod.modified(net, rules) as report:
    ...     logits = lasagne.layers.get_output(net, deterministic=True)
    >>> for place in report:
    ...     print(place.name, place.rule)
    first DeconvNet(rectify)
    #2 DenseLayer GuidedBackprop(LeakyRectify)
    #3 DenseLayer GuidedBackprop(rectify)

    All rectifiers but one:

    >>> with gradmod.modified(net, gradmod.GuidedBackprop,
    ...                       select=lambda place: place.is_rectifier
    ...                       and place.name != 'first') as report:
    ...     print(len(report))
    1
    """

    def __init__(self, network, rule, select=None):
        self._arguments = network, rule, select
        self._reports = []

    def __enter__(self):
        report = _plan('modified', *self._arguments)
        report._do()
        self._reports.append(report)
        return report

    def __exit__(self, kind, error, traceback):
        try:
            self._reports.pop().undo()
        except RuntimeError:
            if kind is None:  # else there is an error already
                raise


def apply(network, rule, select=None):
    """Put a rule in the place of a network's rectifiers, to stay.

    Parameters
    ----------
    network, rule, select
        As for `modified`.

    Returns
    -------
    Report
        As for `modified`. Its method `undo` puts back what was there.

    Raises
    ------
    TypeError, ValueError, AttributeError
        As for `modified`.

    Examples
    --------
    >>> import gradmod
    >>> from lasagne.layers import DenseLayer
    >>> net = DenseLayer((None, 10), 5)
    >>> report = gradmod.apply(net, gradmod.ZeroBackprop)
    >>> net.nonlinearity
    ZeroBackprop(rectify)
    >>> report.undo()
    >>> net.nonlinearity.__name__
    'rectify'
    """
    report = _plan('apply', network, rule, select)
    report._do()
    return report


def _plan(caller, network, rule, select):
    """The report of what is to be done."""
    names = named_layers(network)
    places = list(_places(names))
    choices = _choices(caller, rule, select, names, places)
    rows, made = [], {}
    for place in places:
        chosen = next((r for wanted, r in choices
                       if place.attribute and wanted(place)), None)
        if chosen is None:
            rows.append((place, _reason(place)))
            continue
        if not isinstance(chosen, ModifiedBackprop):
            key = id(chosen), id(place.nonlinearity)
            if key not in made:
                made[key] = chosen(place.nonlinearity)
            if not callable(made[key]):
                raise TypeError(
                    '%s: expected the rule %s to return a nonlinearity for '
                    '%s, got %s' % (caller, name_of(chosen),
                                    _label(place.nonlinearity),
                                    describe(made[key])))
            chosen = made[key]
        rows.append((place._replace(rule=chosen), None))
    if all(reason for _, reason in rows):
        raise _nothing(caller, rule, 'the network that ends in %s' %
                       names[flatten(network)[-1]], rows)
    return Report(caller, rows)


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
    keys = dict((layer, key) for key, value in keys for layer in flatten(value))
    return {layer: str(layer.name or keys.get(layer)
                       or f'#{i} {type(layer).__name__}')
            for i, layer in enumerate(layers)}


def _places(names):
    for layer, name in names.items():
        here = list(_places_in(layer, name))
        if not here and RECTIFYING.search(type(layer).__name__):
            here = [Place(layer, name, None, None, None)]
        yield from here


def _places_in(layer, name):
    for attribute in dir(layer):
        by_name = (attribute.startswith('nonlinearity')
                   or attribute == 'function')
        value = (getattr(layer, attribute, None) if by_name
                 else vars(layer).get(attribute))
        nonlinearity = value
        while isinstance(nonlinearity, ModifiedBackprop):
            nonlinearity = nonlinearity.nonlinearity
        rule = None if nonlinearity is value else value
        place = Place(layer, name, attribute, nonlinearity, rule)
        if callable(value) and by_name or place.is_rectifier:
            yield place


def _choices(caller, rule, select, names, places):
    """Pairs: whether a place is one for a rule, as a function; the rule."""
    from lasagne.layers import Layer
    pairs = [(select, rule)]
    if isinstance(rule, Mapping):
        if select is not None:
            raise TypeError('%s: expected no select beside a dict of rules, '
                            'whose keys select, got %s' %
                            (caller, describe(select)))
        pairs = rule.items()
    choices = []
    for key, r in pairs:
        if not callable(r) or _from_library(r):
            raise TypeError(
                '%s: expected rule to be a subclass of ModifiedBackprop, a '
                'function that takes a nonlinearity and returns one, a rule, '
                'or a dict of those, got %s' % (caller, describe(r)))
        for selector in flatten(key):
            wanted = _predicate(caller, selector, r, places)
            if isinstance(selector, (str, Layer)):
                matching = list(filter(wanted, places))
                if not matching:
                    raise _nothing_there(caller, selector, r, names, places)
                if all(any(earlier(place) and other is not r
                           for earlier, other in choices)
                       for place in matching):
                    raise ValueError(
                        '%s: %s is never used in %s, since an earlier key of '
                        'the dict matches, too. Put what is special first' %
                        (caller, name_of(r), matching[0].name))
            choices.append((wanted, r))
    return choices


def _predicate(caller, selector, rule, places):
    """Whether a place is one for `rule`, as a function."""
    from lasagne.layers import Layer
    bound = isinstance(rule, ModifiedBackprop)

    def fits(place):
        return rule.nonlinearity in place.held if bound else place.is_rectifier

    def those_in(is_there):
        return lambda place: is_there(place) and fits(place)

    def those(is_one):
        return lambda place: is_one(place) and (fits(place) or not bound)

    if selector is None:
        return fits
    if isinstance(selector, str):
        return those_in(lambda place: place.name == selector)
    if isinstance(selector, Layer):
        return those_in(lambda place: place.layer is selector)
    if isinstance(selector, type) and issubclass(selector, Layer):
        return those_in(lambda place: isinstance(place.layer, selector))
    if isinstance(selector, type):
        return those(lambda place: isinstance(place.nonlinearity, selector))
    if not callable(selector):
        raise TypeError(
            '%s: expected select to be a layer, the name of one, a '
            'nonlinearity, a type of either, a function of a place, or a '
            'list of those, got %s' % (caller, describe(selector)))
    if (isinstance(selector, ModifiedBackprop) or _from_library(selector)
            or any(selector in place.held for place in places)):
        return those(lambda place: selector in place.held)

    def says_so(place):
        try:
            return bool(selector(place))
        except Exception as error:
            raise TypeError(
                '%s: select=%s is no nonlinearity of this network, and as a '
                'function of a place it fails for %s: %s: %s' %
                (caller, name_of(selector), place.name, type(error).__name__,
                 error)) from error
    return those(says_so)


def _from_library(function):
    """Whether it is one of Lasagne's or Theano's own."""
    if isinstance(function, ModifiedBackprop):  # may have its function's module
        return False
    module = str(getattr(function, '__module__', None)).partition('.')[0]
    return isinstance(function, theano.Op) or module in ('lasagne', 'theano')


def _label(function):
    from lasagne import nonlinearities
    for name, value in vars(nonlinearities).items():
        if value is function:
            return name
    return (str(function) if isinstance(function, theano.Op)
            else name_of(function))


def _reason(place):
    if place.attribute is None:
        return 'keeps no nonlinearity; see override_in'
    if place.is_rectifier:
        return NOT_SELECTED
    f = place.nonlinearity
    if _label(f) == 'softmax':
        return 'no rectifier; take the gradient of the logits before it'
    if _from_library(f) and not RECTIFYING.search(_label(f)):
        return 'no rectifier'
    return NOT_KNOWN


def _nothing(caller, rule, where, rows):
    """The error that says what is there instead."""
    what = 'any of the rules' if isinstance(rule, Mapping) else name_of(rule)
    message = ('%s: found nothing to replace by %s in %s. What is there:\n%s' %
               (caller, what, where,
                _table(rows) if rows else 'no nonlinearity'))
    reasons = dict((reason, place) for place, reason in reversed(rows))
    if NOT_SELECTED in reasons:
        if isinstance(rule, ModifiedBackprop):
            message += ('\n%s replaces %s alone. Perhaps you meant its class, '
                        '%s' % (what, _label(rule.nonlinearity),
                                type(rule).__name__))
    elif NOT_KNOWN in reasons:
        message += ('\nPerhaps you meant select=%s' %
                    _label(reasons[NOT_KNOWN].nonlinearity))
    return ValueError(message)


def _nothing_there(caller, selector, rule, names, places):
    """The same for one layer, or that there is no such layer."""
    if selector in names:
        selector = names[selector]
    elif not isinstance(selector, str):
        return ValueError('%s: the layer %s in select is not part of the '
                          'network' % (caller, describe(selector)))
    known = list(names.values())
    if selector not in known:
        return _unknown_name(caller, selector, known)
    return _nothing(caller, rule, selector, [
        (place, _reason(place)) for place in places if place.name == selector])


def _unknown_name(caller, name, known):
    close = difflib.get_close_matches(name, known, 1)
    return ValueError(
        '%s: no layer is named %r, ' % (caller, name)
        + ('perhaps you meant %r' % close[0] if close else
           'the names are %s' % ', '.join(map(repr, known))))


def _table(rows):
    cells = [('layer', 'attribute', 'nonlinearity', 'rule')]
    for place, reason in rows:
        f = place.nonlinearity
        if reason is not None and place.rule is not None:
            f = place.rule
        cells.append((
            place.name, place.attribute or '-',
            '-' if f is None else _label(f),
            name_of(place.rule) if reason is None else 'left alone: ' + reason))
    widths = [max(map(len, column)) for column in zip(*cells)]
    return '\n'.join(
        '  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
        for row in cells)


class _Swap(object):
    """A rule put in its place, which keeps what was there.

    Those that are in place are listed in their layer, in the attribute
    `_gradmod_swaps`, so that they can be undone in any order: one that is not
    the last hands what it keeps to the next.
    """

    def __init__(self, caller, place):
        self.caller, self.name, self.rule = caller, place.name, place.rule
        self.layer, self.attribute = place.layer, place.attribute
        self.kept = getattr(self.layer, self.attribute)
        self.of_instance = self.attribute in vars(self.layer)
        self.done = False

    def do(self):
        # A list of its own: one in a shallow copy of the layer is another.
        vars(self.layer)['_gradmod_swaps'] = vars(self.layer).get(
            '_gradmod_swaps', []) + [self]
        error = None
        try:
            setattr(self.layer, self.attribute, self.rule)
        except Exception as e:
            error = e
        if getattr(self.layer, self.attribute) is not self.rule:
            raise AttributeError(
                '%s: cannot replace %s.%s: %s' %
                (self.caller, self.name, self.attribute,
                 error or 'the layer does not keep it')) from error
        self.done = True

    def undo(self):
        swaps = vars(self.layer).get('_gradmod_swaps', [])
        if self not in swaps:
            return
        later = [s for s in swaps[swaps.index(self) + 1:]
                 if s.attribute == self.attribute]
        current = getattr(self.layer, self.attribute, None)
        found = later[0].kept if later else current
        if later:
            later[0].kept, later[0].of_instance = self.kept, self.of_instance
        elif self.attribute in vars(self.layer) and not self.of_instance:
            delattr(self.layer, self.attribute)
        elif current is not self.kept:
            setattr(self.layer, self.attribute, self.kept)
        left = [s for s in swaps if s is not self]
        if left:
            vars(self.layer)['_gradmod_swaps'] = left
        else:
            del vars(self.layer)['_gradmod_swaps']
        if self.done and found is not self.rule:
            raise RuntimeError(
                '%s: while %r was in place, somebody else set %s.%s to %s. '
                'What was there at first is put back: %s' %
                (self.caller, self.rule, self.name, self.attribute,
                 _label(found), _label(self.kept)))
