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

STYLES = re.compile(
    r'\b(extendfrac|fontsize|labelpad|labelsize|length|linewidth|pad|rotation'
    r'|width)=[-.\d]+')

# The numbers in the matrices with which `compat.multiplies` tries a BLAS.
NUMBERS = re.compile(r'(?<=\))[-+%]\d[-+]\d(?=\))')

# By module: the line, why, and what it may become. Blanks do not matter.
EQUIVALENT = {
    'base': [
        ("first = ['rectify'] * (parameters[0].default is "
         "parameters[0].empty)",
         'all have one', *(
             "first = ['rectify'] * (parameters[0].default is parameters["
             f'{i}].empty)' for i in (1, -1))),
        ('key = types if len(types) > 1 else types[0]', ONE,
         'key = types if len(types) > 1 else types[-1]'),
        ('stand_ins, [y if inputs == stand_ins else move_to_device(y)],',
         DEVICE,
         'stand_ins, [y if inputs != stand_ins else move_to_device(y)],',
         'stand_ins, [y if not inputs == stand_ins else move_to_device(y)],'),
    ],
    'compat': [
        ('if (sys.version_info < (3, 11) or ext in sys.modules or not '
         'source.exists()', 'a version has more parts than two',
         'if (sys.version_info <= (3, 11) or ext in sys.modules or not '
         'source.exists()'),
    ],
    'errors': [
        ('close = difflib.get_close_matches(str(name), known, 1)',
         'the first is taken',
         'close = difflib.get_close_matches(str(name), known, 2)'),
        ("return (f'perhaps you meant {close[0]!r}' if close else", ONE,
         "return (f'perhaps you meant {close[-1]!r}' if close else"),
    ],
    'expression': [
        ('return (new[0] if single else new), report', ONE,
         'return (new[-1] if single else new), report'),
        ('return graft([output], memo)[0]', ONE,
         'return graft([output], memo)[-1]'),
    ],
    'graphs': [
        ('return lambda v: inputs_of(v) if first <= number(v) <= last else []',
         'the first is a stand-in, the last is thrown away',
         'return lambda v: inputs_of(v) if first < number(v) <= last else []',
         'return lambda v: inputs_of(v) if first <= number(v) < last else []'),
    ],
    'logits': [
        ('return inputs[0]', ONE, 'return inputs[-1]'),
    ],
    'lrp': [
        ('* T.switch(total >= 0, like(r, 1), like(r, -1)))', 'by 1 or -1',
         '/ T.switch(total >= 0, like(r, 1), like(r, -1)))'),
        ('return shares[0] if len(shares) == 1 else shares', ONE,
         'return shares[-1] if len(shares) == 1 else shares'),
        ('check(lambda a, b: (b >= 0) & (abs(a - b - 1) < 1e-9),',
         'any small number does',
         'check(lambda a, b: (b >= 0) & (abs(a - b - 1) <= 1e-9),'),
        ("f'rules={{{refused[0]!r}: lrp.Gradient()}}')", WORDS,
         "f'rules={{{refused[-1]!r}: lrp.Gradient()}}')"),
        ('self.__name__ = layer.name or type(layer).__name__', WORDS,
         'self.__name__ = layer.name and type(layer).__name__'),
        ("f'{norm.name or type(norm).__name__} is no part of the layer '",
         WORDS,
         "f'{norm.name and type(norm).__name__} is no part of the layer '"),
        ('return layer.get_output_for(list(xs) if self.several else xs[0],',
         ONE,
         'return layer.get_output_for(list(xs) if self.several else xs[-1],'),
        ('memo = {x: conform(T.constant(0 * ones), x.type),', '0 as well',
         'memo = {x: conform(T.constant(0 / ones), x.type),'),
    ],
    'matching': [
        ("SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}",
         'a matter of time', *(
             "SCRATCH = {'compute_test_value': 'off', 'traceback.limit': "
             f'{n}}}' for n in (1, -1))),
        ("continue  # only an upper bound, as in Keras' max_value",
         'no other is made by a clip',
         "break  # only an upper bound, as in Keras' max_value"),
        ('if scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):',
         'all outputs have one op',
         'if scalar_op(node.outputs[-1]) not in (scalar.add, scalar.sub):'),
        ('self._sums[node.outputs[0]] = x, v, w', ONE,
         'self._sums[node.outputs[-1]] = x, v, w'),
        ('if {x, g} <= set(ancestors([term])) and term.owner:',
         'the term is among them, too',
         'if {x, g} < set(ancestors([term])) and term.owner:'),
        ('value = _constant(v.owner.inputs[0])', ONE,
         'value = _constant(v.owner.inputs[-1])'),
    ],
    'op': [
        ('parents = parents_since(inputs[0])',
         'nothing is made between the stand-ins',
         'parents = parents_since(inputs[-1])'),
        ("-0.01, 'fast_compile', 'fast_run')", FIRST,
         "+0.01, 'fast_compile', 'fast_run')",
         "-1.01, 'fast_compile', 'fast_run')",
         "--0.99, 'fast_compile', 'fast_run')"),
    ],
    'rectifiers': [
        ('return (5,)', 'the number of a version',
         'return (6,)', 'return (4,)'),
        ("if node.outputs[0].type.dtype == 'float64' else (32, '0xff800000'))",
         ONE, "if node.outputs[-1].type.dtype == 'float64' else (32, "
         "'0xff800000'))"),
    ],
    'rules': [
        ('if g.ndim > 1 else threshold[0])',
         'of a vector, one value: broadcast or not',
         'if g.ndim >= 1 else threshold[0])',
         'if g.ndim > 0 else threshold[0])',
         'if g.ndim > 1 else threshold[-1])'),
    ],
    'sanity': [
        ('batch_size=64, **options):', 'a matter of time',
         'batch_size=65, **options):', 'batch_size=63, **options):'),
        ('zero=~maps.reshape(len(maps), -1).any(axis=1),', UNKNOWN,
         'zero=~maps.reshape(len(maps), -2).any(axis=1),'),
        ("_cosine(*np.array([a, b], 'float64').reshape(2, -1))", UNKNOWN,
         "_cosine(*np.array([a, b], 'float64').reshape(2, -2))"),
        ('p.set_value(random.astype(value.dtype), borrow=True)',
         'one more copy',
         'p.set_value(random.astype(value.dtype), borrow=False)'),
        ('return not np.array_equal(p.get_value(borrow=True), value)',
         'one more copy',
         'return not np.array_equal(p.get_value(borrow=False), value)'),
        ('return found[0]', ONE, 'return found[-1]'),
        ('axes.set_ylim(-1.05 if axes.get_ylim()[0] < -.5 else -.55, 1.05)',
         STYLE,
         'axes.set_ylim(-1.05 if axes.get_ylim()[0] <= -.5 else -.55, 1.05)'),
    ],
    'score': [
        ('def of(self, classes, maximal=False):',
         'of one class both are the same',
         'def of(self, classes, maximal=True):'),
        ('if len(above) != 1 or not is_float_tensor(above[0]):', ONE,
         'if len(above) != 1 or not is_float_tensor(above[-1]):'),
        ('return found[0]', ONE, 'return found[-1]'),
        ('for source in x + outputs[1:]:', 'the output is made from itself',
         'for source in x + outputs[0:]:'),
        ('self.layer = layers[0] if layers else None', ONE,
         'self.layer = layers[-1] if layers else None'),
        ('self.x = x if self.several else x[0]', ONE,
         'self.x = x if self.several else x[-1]'),
        ('lowest = -1 if target.ndim == 2 else 0', 'what was -2 is replaced',
         'lowest = - 2 if target.ndim == 2 else 0'),
        ('rows, T.maximum(classes, 0)]).sum(axis=1)',
         'what is there is not taken',
         'rows, T.maximum(classes, -1)]).sum(axis=1)'),
        ('if 2 < v.ndim in [i.ndim for i in x] and v in layers:',
         'what has pixels has more dimensions',
         'if 2 <= v.ndim in [i.ndim for i in x] and v in layers:',
         'if 1 < v.ndim in [i.ndim for i in x] and v in layers:'),
    ],
    'cam': [
        ('if isinstance(dict(enumerate(op.idx_list)).get(i, '
         'slice(0)), slice)]',
         'only its type counts',
         'if isinstance(dict(enumerate(op.idx_list)).get(i, '
         'slice(1)), slice)]',
         'if isinstance(dict(enumerate(op.idx_list)).get(i, '
         'slice(-1)), slice)]'),
        ("if getattr(i, 'ndim', 0) == v.ndim]", 'a layer has more dimensions',
         "if getattr(i, 'ndim', 1) == v.ndim]",
         "if getattr(i, 'ndim', -1) == v.ndim]"),
    ],
    'methods': [
        ('fractions = ((np.arange(steps) + .5) / '
         'steps).astype(as_list(x)[0].dtype)',
         'only how it is rounded',
         'fractions = ((np.arange(steps) + .5) / '
         'steps).astype(as_list(x)[-1].dtype)'),
        ('if isinstance(values[0], list):', 'all are alike',
         'if isinstance(values[1], list):',
         'if isinstance(values[-1], list):'),
        ('return list(values) if isinstance(x, list) else values[0]', ONE,
         'return list(values) if isinstance(x, list) else values[-1]'),
        ('count = sequences[0].shape[0]', 'all are of one length',
         'count = sequences[-1].shape[0]'),
    ],
    'deeplift': [
        ('v = node.outputs[0]', ONE, 'v = node.outputs[-1]'),
        ('if v in root and root[node.outputs[0]] is not root[v]} | {z}',
         'each output is its own root',
         'if v in root and root[node.outputs[-1]] is not root[v]} | {z}'),
        ('rule, r = RescaleMaximum, node.inputs[0]', ONE,
         'rule, r = RescaleMaximum, node.inputs[-1]'),
        ('return graft([v], {r: z})[0]', ONE,
         'return graft([v], {r: z})[-1]'),
        ('return graft([z], new)[0]', ONE, 'return graft([z], new)[-1]'),
        ('return (isinstance(op, LINEAR) or isinstance(op, '
         'scalar.Mul) and len(used) < 2',
         'the rule of what is linear is its derivative',
         'return (isinstance(op, LINEAR) and isinstance(op, '
         'scalar.Mul) and len(used) < 2',
         'return (isinstance(op, LINEAR) or isinstance(op, '
         'scalar.Mul) and len(used) < 1'),
        ('or isinstance(op, scalar.TrueDiv) and used == [0])',
         'the rule of what is linear is its derivative',
         'and isinstance(op, scalar.TrueDiv) and used == [0])',
         'or isinstance(op, scalar.TrueDiv) and used == [-1])'),
    ],
    'saliency': [
        ("score = Score(network, rule, 0 if is_word(target, 'all') "
         "else target,",
         'of each class in turn',
         "score = Score(network, rule, 1 if is_word(target, 'all') "
         "else target,",
         "score = Score(network, rule, -1 if is_word(target, 'all') "
         "else target,"),
        ('return maps[0]', ONE, 'return maps[-1]'),
        ('errors = [v.tag.completeness_error for v in as_list(result)[:1]',
         'the first has it',
         'errors = [v.tag.completeness_error for v in as_list(result)[:2]'),
        ('count = 0', 'it is set in the step', 'count = 1', 'count = -1'),
        ("f'values, by givens={{{others[0]}: ...}}')", WORDS,
         "f'values, by givens={{{others[-1]}: ...}}')"),
        ('return above[1:half] if np.all(value) else above[half:]',
         'the condition is known',
         'return above[0:half] if np.all(value) else above[half:]'),
        ('if size > n:  # a network with a fixed number of samples',
         'nothing is repeated',
         'if size >= n:  # a network with a fixed number of samples'),
        ('def explain(self, images, target=None, batch_size=64, '
         'progress=False,',
         'a matter of time',
         'def explain(self, images, target=None, batch_size= 65, '
         'progress=False,',
         'def explain(self, images, target=None, batch_size= 63, '
         'progress=False,'),
        ('n = arrays[0].shape[0]', 'all are as many',
         'n = arrays[-1].shape[0]'),
        ('rows = [v.reshape(scores.size, -1) for v in maps]', UNKNOWN,
         'rows = [v.reshape(scores.size, - 2) for v in maps]'),
        ("details['maps'] = maps[0]", ONE, "details['maps'] = maps[-1]"),
        ("details['classes'] = details['classes'][:, 0]", ONE,
         "details['classes'] = details['classes'][:, -1]"),
        ('v = maps[0]', ONE, 'v = maps[-1]'),
        ('n = len(arrays[0])', 'all are as many', 'n = len(arrays[-1])'),
        ('bad = np.isfinite(images).reshape(n, -1).all(axis=1).argmin()',
         UNKNOWN,
         'bad = np.isfinite(images).reshape(n, - 2).all(axis=1).argmin()'),
        ('size = fixed[0] if fixed else n', 'all are the same',
         'size = fixed[-1] if fixed else n'),
    ],
    'doctor': [
        ('random = np.random.RandomState(0)', 'any numbers do',
         'random = np.random.RandomState(1)'),
        ('arrays = [random.randn(n, 8).astype(dtype) for n in (5, 8, 8)]',
         'any size does', *(
             'arrays = [random.randn(n, 8).astype(dtype) for n in '
             f'({n}, 8, 8)]' for n in (4, 6))),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)', 'no z is 0',
         'g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z >= 0)'),
        ('g = (np.maximum(z, 0).dot(w) > 0).dot(w.T) * (z > 0)',
         'where that is 0, no z is above 0',
         'g = (np.maximum(z, 0).dot(w) >= 0).dot(w.T) * (z > 0)'),
        ('return T.switch(z > 0, z, 0)', 'no z is 0',
         'return T.switch(z >= 0, z, 0)'),
    ],
    'pattern': [
        ('return np.where(known, self.xy, 0) / np.where(known, scale, '
         '1), known',
         'it divides 0',
         'return np.where(known, self.xy, 0) / np.where(known, scale, '
         '2), known'),
        ('def fit_patterns(network, batches, batch_size=64, progress=False):',
         'a matter of time',
         'def fit_patterns(network, batches, batch_size= 65, progress=False):',
         'def fit_patterns(network, batches, batch_size= 63, '
         'progress=False):'),
        ('mean = mean.reshape([-1 if i == axis else 1 for i in '
         'range(W.ndim)])',
         UNKNOWN,
         'mean = mean.reshape([- 2 if i == axis else 1 for i in '
         'range(W.ndim)])'),
        ('return [y.size // mean.size, mean.flatten(), correlate(on),',
         'a whole number',
         'return [y.size / mean.size, mean.flatten(), correlate(on),'),
        ('on = T.cast(y > 0, y.dtype) if is_rectified else T.ones_like(y)',
         'no y is 0',
         'on = T.cast(y >= 0, y.dtype) if is_rectified else T.ones_like(y)'),
        ('return theano.grad(None, inputs, known_grads={z: out_grads[0]})',
         ONE,
         'return theano.grad(None, inputs, known_grads={z: out_grads[-1]})'),
    ],
    'plot': [
        ('n, h, w = columns[0].shape[:3]', 'all columns are of one size',
         'n, h, w = columns[1].shape[:3]', 'n, h, w = columns[-1].shape[:3]'),
        ('grey = columns[0].dot(LUMA)[..., np.newaxis]', ONE,
         'grey = columns[-1].dot(LUMA)[..., np.newaxis]'),
        ('rgb = np.repeat(rgb, 3 // rgb.shape[3], axis=3)', 'a whole number',
         'rgb = np.repeat(rgb, 3 / rgb.shape[3], axis=3)'),
        ('rgb = ScalarMappable(cmap=cmap).cmap(rgb[..., 0])[..., :3]', ONE,
         'rgb = ScalarMappable(cmap=cmap).cmap(rgb[..., -1])[..., :3]'),
        ("return rgb if 'N' in axes else rgb[0]", ONE,
         "return rgb if 'N' in axes else rgb[-1]"),
        ('columns = [np.repeat(_as_floats(images), 3 // channels, axis=3)]',
         'a whole number',
         'columns = [np.repeat(_as_floats(images), 3 / channels, axis=3)]'),
        ('rgb = map_to_rgb(view.reshape(n, -1, *view.shape[-2:]), kind,',
         UNKNOWN,
         'rgb = map_to_rgb(view.reshape(n, - 2, *view.shape[-2:]), kind,'),
        ("ink = np.where(rgb.dot(LUMA) < 0.5, 'white', 'black')",
         'no colour is so grey',
         "ink = np.where(rgb.dot(LUMA) <= 0.5, 'white', 'black')"),
        ('values = _reduce(values.reshape(len(sentence), -1), kind)', UNKNOWN,
         'values = _reduce(values.reshape(len(sentence), - 2), kind)'),
        ('rgb = map_to_rgb(values.T, kind, percentile, limit, cmap)[0]', ONE,
         'rgb = map_to_rgb(values.T, kind, percentile, limit, cmap)[-1]'),
        ('rows.append(list(zip(map(str, sentence), values[:, 0], rgb, ink)))',
         ONE,
         'rows.append(list(zip(map(str, sentence), values[:, -1], '
         'rgb, ink)))'),
        ('n, depth = views[0].shape[:2]', 'all are alike',
         'n, depth = views[-1].shape[:2]'),
        ('return np.repeat(np.arange(n), len(chosen[0])), '
         'np.concatenate(chosen)',
         'all are alike',
         'return np.repeat(np.arange(n), len(chosen[-1])), '
         'np.concatenate(chosen)'),
        ('or not -0.001 <= low <= high <= 1.001):  # but for rounding errors',
         'any small number does',
         'or not -0.001 < low <= high <= 1.001):  # but for rounding errors',
         'or not -0.001 <= low <= high < 1.001):  # but for rounding errors'),
        ("interpolation='nearest' if axes.bbox.width > length - 1", STYLE,
         "interpolation='nearest' if axes.bbox.width >= length - 1",
         "interpolation='nearest' if axes.bbox.width > length - 2"),
        ('i + .9 - .8 * (values - low) / (high - low or 1),', 'it divides 0',
         'i + .9 - .8 * (values - low) / (high - low or 2),'),
        ('artist = figure.text(0, 0, text, fontsize=9, **style)',
         'it is only measured',
         'artist = figure.text(1, 0, text, fontsize=9, **style)',
         'artist = figure.text(-1, 0, text, fontsize=9, **style)',
         'artist = figure.text(0, 1, text, fontsize=9, **style)',
         'artist = figure.text(0, -1, text, fontsize=9, **style)'),
        ('left = right = 2 * margin + ceil(max(w for _, w in heads))', STYLE,
         'left = right = 3 * margin + ceil(max(w for _, w in heads))',
         'left = right = 1 * margin + ceil(max(w for _, w in heads))'),
        ('places, y = [], 0  # of base lines, from the upper left corner',
         STYLE,
         'places, y = [], 1  # of base lines, from the upper left corner',
         'places, y = [], -1  # of base lines, from the upper left corner'),
    ],
}


def reason(module, before, after):
    """Why two lines are said to do the same; None if they are not."""
    before, after = before.replace(' ', ''), after.replace(' ', '')
    if STYLES.sub('', before) == STYLES.sub('', after):
        return STYLE
    if NUMBERS.sub('', before) == NUMBERS.sub('', after):
        return 'any whole numbers do'
    for line, why, *others in EQUIVALENT.get(module, ()):
        if before == line.replace(' ', '') and after in [
                other.replace(' ', '') for other in others]:
            return why
    return None


def stale(module, changes):
    """The lines given here of which there is no mutant any more."""
    changes = set(tuple(line.replace(' ', '') for line in change)
                  for change in changes)
    return [other for line, _, *others in EQUIVALENT.get(module, ())
            for other in others
            if (line.replace(' ', ''), other.replace(' ', '')) not in changes]
