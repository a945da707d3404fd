"""Mutants that no test can or should tell from the original, with the reason.

`run.py` does not run them, and counts them as survivors.
"""
import re

ONE = 'there is one'
UNKNOWN = 'numpy takes any number below 0'
FIRST = 'its place decides the time that it takes, not the values'
WORDS = 'the wording of an error'
STYLE = 'how it looks: any value close by does'
DEVICE = 'the same on the host; tests/device tells, on a device'

STYLES = re.compile(r"('(\w+\.)+\w+':|\bwidth=|\bfontsize=)[-.\d]+")

# By module: the line, why, and what may become what in it, by default what
# `become` says. Blanks do not matter.
EQUIVALENT = {
    'base': [
        ('key = types if len(types) > 1 else types[0]', ONE),
        ('stand_ins, [y if inputs == stand_ins else move_to_device(y)],',
         DEVICE, '== => !=', 'inputs => not inputs'),
    ],
    'cam': [
        ('if isinstance(dict(enumerate(op.idx_list)).get(i, slice(0)), slice)]',
         'only its type counts', '0 => 1', '0 => -1'),
        ("if getattr(i, 'ndim', 0) == v.ndim]",
         'a layer has more dimensions', '0 => 1', '0 => -1'),
        ('if 2 < v.ndim in [i.ndim for i in x] and v in layers:',
         'what has pixels has more dimensions', '2 < => 2 <=', '2 < => 1 <'),
    ],
    'compat': [
        ('a, b = (np.arange(i * j).reshape(i, j) % 127 - 63',
         'any whole numbers do', '127 => 126', '127 => 128', '63 => 62',
         '63 => 64', '- => +'),
        ('if (sys.version_info < (3, 11) or ext in sys.modules or not '
         'source.exists()',
         'a version has more parts than two', '< => <='),
    ],
    'deeplift': [
        ('v = node.outputs[0]', ONE),
        ('if v in root and root[node.outputs[0]] is not root[v]} | {z}',
         'each output is its own root'),
        ('rule, r = RescaleMaximum, node.inputs[0]', ONE),
        ('return graft([v], {r: z})[0]', ONE),
        ('return graft([z], new)[0]', ONE),
        ('return (isinstance(op, LINEAR) or isinstance(op, scalar.Mul) and '
         'len(used) < 2',
         'the rule of what is linear is its derivative', 'or => and', '2 => 1'),
        ('or isinstance(op, scalar.TrueDiv) and used == [0])',
         'the rule of what is linear is its derivative', 'or => and', '0 => -1'),
    ],
    'doctor': [
        ('random = np.random.RandomState(0)', 'any numbers do', '0 => 1'),
        ('arrays = [random.randn(n, 8).astype(dtype) for n in (5, 8, 8)]',
         'any size does', '5 => 4', '5 => 6'),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)',
         'no z is 0', 'z > 0) => z >= 0)'),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)',
         'where that is 0, no z is above 0', ') > 0) => ) >= 0)'),
        ('return T.switch(z > 0, z, 0)', 'no z is 0', '> => >='),
    ],
    'errors': [
        ('close = difflib.get_close_matches(str(name), known, 1)',
         'the first is taken', '1 => 2'),
        ("return (f'perhaps you meant {close[0]!r}' if close else", ONE),
    ],
    'expression': [
        ('return (new[0] if single else new), report', ONE),
        ('return graft([output], memo)[0]', ONE),
        ('ops = Counter(str(node.op) for node in nodes_above(outputs))'
         '.most_common(8)', WORDS, '8 => 9', '8 => 7'),
    ],
    'graphs': [
        ('return lambda v: inputs_of(v) if first <= number(v) <= last else []',
         'the first is a stand-in, the last is thrown away',
         '<= number => < number', '<= last => < last'),
    ],
    'logits': [
        ('return inputs[0]', ONE),
    ],
    'lrp': [
        ('* T.switch(total >= 0, like(r, 1), like(r, -1)))',
         'by 1 or -1', '* => /'),
        ('return shares[0] if len(shares) == 1 else shares', ONE),
        ('check(lambda a, b: (b >= 0) & (abs(a - b - 1) < 1e-9),',
         'any small number does', '< => <='),
        ("f'{{{refused[0]!r}: lrp.Gradient()}} in lrp.EpsilonPlus(rules=...)')",
         WORDS),
        ('self.__name__ = layer.name or type(layer).__name__', WORDS, 'or => and'),
        ("f'{norm.name or type(norm).__name__} is no part of the layer '",
         WORDS, 'or type => and type'),
        ('return layer.get_output_for(list(xs) if self.several else xs[0],', ONE),
        ('memo = {x: conform(T.constant(0 * ones), x.type),',
         '0 as well', '* => /'),
    ],
    'matching': [
        ("SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}",
         'a matter of time', '0 => 1', '0 => -1'),
        ("continue  # only an upper bound, as in Keras' max_value",
         'no other is made by a clip', 'continue => break'),
        ('if scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):',
         'all outputs have one op'),
        ('self._sums[node.outputs[0]] = x, v, w', ONE),
        ('if {x, g} <= set(ancestors([term])) and term.owner:',
         'the term is among them, too', '= => '),
        ('value = _constant(v.owner.inputs[0])', ONE),
    ],
    'methods': [
        ('fractions = ((np.arange(steps) + .5) / '
         'steps).astype(as_list(x)[0].dtype)',
         'only how it is rounded'),
        ('if isinstance(values[0], list):', 'all are alike', '0 => 1', '0 => -1'),
        ('return list(values) if isinstance(x, list) else values[0]', ONE),
        ('count = sequences[0].shape[0]', 'all are of one length', '[0]. => [-1].'),
    ],
    'network': [
        ('name = names[find_layers(selector, names)[0]]', 'all have that name'),
    ],
    'op': [
        ('parents = parents_since(inputs[0])',
         'nothing is made between the stand-ins'),
        ("-0.01, 'fast_compile', 'fast_run')",
         FIRST, '- => +', '0. => 1.', '0.01 => -0.99'),
    ],
    'pattern': [
        ('if abs(W - s.W).max() > 1e-5 * abs(W).max():',
         'any small number does', '> => >='),
        ('return T.TensorType(theano.config.floatX, (False,) * ndim)()',
         'its rank and dtype count', 'False => True'),
        ('return np.where(known, self.xy, 0) / np.where(known, scale, 1), known',
         'it divides 0', '1 => 2'),
        ('mean = mean.reshape([-1 if i == axis else 1 for i in range(W.ndim)])',
         UNKNOWN),
        ('return [y.size // mean.size, mean.flatten(), correlate(on),',
         'a whole number', '/ mean => mean'),
        ('on = T.cast(y > 0, y.dtype) if is_rectified else T.ones_like(y)',
         'no y is 0', '> => >='),
        ('return theano.grad(None, inputs, known_grads={z: out_grads[0]})', ONE),
    ],
    'plot': [
        ('n, h, w = columns[0].shape[:3]',
         'all columns are of one size', '0 => 1', '0 => -1'),
        ('grey = columns[0].dot(LUMA)[..., np.newaxis]', ONE),
        ('rgb = np.repeat(rgb, 3 // rgb.shape[3], axis=3)',
         'a whole number', '/ rgb => rgb'),
        ('rgb = ScalarMappable(cmap=cmap).cmap(rgb[..., 0])[..., :3]',
         ONE, '0 => -1'),
        ("return rgb if 'N' in axes else rgb[0]", ONE),
        ('columns = [np.repeat(_as_floats(images), 3 // channels, axis=3)]',
         'a whole number', '/ channels => channels'),
        ('rgb = map_to_rgb(view.reshape(n, -1, *view.shape[-2:]), kind,', UNKNOWN),
        ("ink = np.where(rgb.dot(LUMA) < 0.5, 'white', 'black')",
         'no colour is so grey', '< => <='),
        ('values = _reduce(values.reshape(len(sentence), -1), kind)', UNKNOWN),
        ('rgb = map_to_rgb(values.T, kind, percentile, limit, cmap)[0]', ONE),
        ('rows.append(list(zip(map(str, sentence), values[:, 0], rgb, ink)))',
         ONE, '0 => -1'),
        ('n, depth = views[0].shape[:2]', 'all are alike'),
        ('return np.repeat(np.arange(n), len(chosen[0])), np.concatenate(chosen)',
         'all are alike'),
        ('or not -0.001 <= low <= high <= 1.001):  # but for rounding errors',
         'any small number does', '<= low => < low', '<= 1 => < 1'),
        ("interpolation='nearest' if axes.bbox.width > length - 1",
         STYLE, '> => >=', '1 => 2'),
        ('i + .9 - .8 * (values - low) / (high - low or 1),',
         'it divides 0', '1 => 2'),
        ('places, y = [], 0  # of base lines, from the upper left corner',
         STYLE, '0 => 1', '0 => -1'),
        ('f\'{", ".join("N" + space)} are {like or "any"}, got {array.shape}\')',
         WORDS, 'or => and'),
        ('if left < x and x + w > left + width * DPI:',
         'no line is filled to the dot', 'w > => w >='),
        ('left = right = 2 * margin + ceil(max(size_of(text)[0] for text in '
         'labels))',
         STYLE, '2 * => 3 *', '2 * => 1 *'),
    ],
    'rectifiers': [
        ('return (5,)', 'the number of a version', '5 => 6', '5 => 4'),
        ("if node.outputs[0].type.dtype == 'float64' else (32, '0xff800000'))",
         ONE),
    ],
    'report': [
        ('BATCH_SIZE = 64  # how many images are computed at once, by default',
         'a matter of time', '64 => 63', '64 => 65'),
    ],
    'rules': [
        ('if g.ndim > 1 else threshold[0])',
         'of a vector, one value: broadcast or not',
         '> => >=', '1 => 0', '0 => -1'),
    ],
    'saliency': [
        ("score = Score(network, rule, 0 if is_word(target, 'all') else target,",
         'of each class in turn', '0 => 1', '0 => -1'),
        ('return maps[0]', ONE),
        ('errors = [v.tag.completeness_error for v in as_list(result)[:1]',
         'the first has it', '1 => 2'),
        ('count = 0', 'it is set in the step', '0 => 1', '0 => -1'),
        ("f'values, by givens={{{others[0]}: ...}}')", WORDS),
        ('return above[1:half] if np.all(value) else above[half:]',
         'the condition is known', '1 => 0'),
        ('if size > n:  # a network with a fixed number of samples',
         'nothing is repeated', '> => >='),
        ('n = arrays[0].shape[0]', 'all are as many', '[0]. => [-1].'),
        ('rows = [v.reshape(scores.size, -1) for v in maps]', UNKNOWN),
        ("details['maps'] = maps[0]", ONE),
        ("details['classes'] = details['classes'][:, 0]", ONE, '0 => -1'),
        ('v = maps[0]', ONE),
        ('n = len(arrays[0])', 'all are as many'),
        ('bad = np.isfinite(images).reshape(n, -1).all(axis=1).argmin()', UNKNOWN),
        ('size = fixed[0] if fixed else n', 'all are the same'),
    ],
    'sanity': [
        ('figure = Figure((panels * max(3.5, 1 + .2 * steps), 4),', STYLE,
         '3.5 => 4.5', '3.5 => 2.5', '1 + => 2 +', '.2 => 1.2', '4) => 5)',
         '4) => 3)'),
        ('zero=~maps.reshape(len(maps), -1).any(axis=1),', UNKNOWN),
        ("_cosine(*np.array([a, b], 'float64').reshape(2, -1))", UNKNOWN),
        ('p.set_value(random.astype(value.dtype), borrow=True)',
         'one more copy', 'True => False'),
        ('return not np.array_equal(p.get_value(borrow=True), value)',
         'one more copy', 'True => False'),
    ],
    'score': [
        ('def of(self, classes, maximal=False):',
         'of one class both are the same', 'False => True'),
        ('if len(above) != 1 or not is_float_tensor(above[0]):', ONE),
        ('for source in x + outputs[1:]:',
         'the output is made from itself', '1 => 0'),
        ("v, self._layers, 'the layers below what is explained', one=True)[0]",
         ONE),
        ('self.layer = layers[0] if layers else None', ONE),
        ('self.x = x if self.several else x[0]', ONE),
        ('lowest = -1 if target.ndim == 2 else 0', 'what was -2 is replaced'),
        ('rows, T.maximum(classes, 0)]).sum(axis=1)',
         'what is there is not taken', '0 => -1'),
    ],
}


def become(line, *changes):
    """What a line of `EQUIVALENT` becomes, without blanks."""
    if changes:
        lines = [line.replace(*change.split(' => ')) for change in changes]
    elif '[0]' in line:
        lines = [line.replace('[0]', '[-1]')]
    else:
        lines = [line.replace('-1', '-2')]
    return [line.replace(' ', '') for line in lines]


def reason(module, before, after):
    """Why two lines are said to do the same; None if they are not."""
    before, after = before.replace(' ', ''), after.replace(' ', '')
    if STYLES.sub('', before) == STYLES.sub('', after):
        return STYLE
    for line, why, *changes in EQUIVALENT.get(module, ()):
        if before == line.replace(' ', '') and after in become(line, *changes):
            return why
    return None


def stale(module, changes):
    """The lines given here of which there is no mutant any more."""
    there = {tuple(line.replace(' ', '') for line in change)
             for change in changes}
    return [after for line, _, *changes in EQUIVALENT.get(module, ())
            for after in become(line, *changes)
            if (line.replace(' ', ''), after) not in there]
