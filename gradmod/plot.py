"""Pictures of saliency maps, drawn with matplotlib.

`plot_saliency` draws images, signals or volumes with their maps, `plot_words`
sentences; `map_to_rgb` and `normalize` make the colours of a map without a
figure, for pictures of one's own.
"""
import html
import io
from math import ceil

import numpy as np

try:
    from matplotlib import figure as mpl_figure, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_hex
    from matplotlib.text import Text
except ImportError as error:  # pip install matplotlib alone brings numpy 2
    raise ImportError('gradmod.plot draws with matplotlib. Install it with: '
                      'pip install "gradmod[examples]"') from error

__all__ = ['plot_saliency', 'plot_words', 'map_to_rgb', 'normalize', 'Figure']

SPACE = {1: 'T', 2: 'HW', 3: 'DHW'}  # the axes of a signal, an image, a volume
COLOURS = {  # an odd number of them, so that one is in the middle, for 0
    kind: LinearSegmentedColormap.from_list(kind, colours, 257)
    for kind, colours in [
        ('signed', ['#1450a0', '#7db3dc', 'white', '#ee8a72', '#b3101f']),
        ('absolute', ['white', '#b39bd8', '#4a148c']),
        ('rgb', ['black', 'white'])]}
NOT_FINITE = (1, 0, 1)  # magenta, which none of them has
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are (BT.601)
FRAME = '0.7'  # the grey of lines
STYLE = {  # not the user's settings, but for fonts and colours
    'figure.autolayout': False, 'figure.constrained_layout.use': False,
    'font.size': 9, 'axes.titlesize': 'medium', 'axes.titlepad': 4,
    'axes.titleweight': 'normal', 'axes.labelsize': 'medium',
    'axes.labelpad': 4, 'axes.labelweight': 'normal', 'axes.edgecolor': FRAME,
    'xtick.labelsize': 7, 'xtick.major.pad': 3.5, 'xtick.major.size': 3.5,
    'lines.linewidth': .8, 'lines.marker': 'None', 'lines.linestyle': '-'}
ROWS = 32  # more are slow to draw, and nobody looks at them
DPI = 160
TINY = 1e-4  # of a dot; matplotlib rounds figures down, and images up


def normalize(values, percentile=99.5, limit=None):
    """Scale values to -1..1, and 0 to 0.

    Parameters
    ----------
    values : array of any shape
        One map: its values are scaled together.
    percentile : float, optional
        The percentile of the absolute values that becomes 1; what is larger
        is clipped. 100 is the maximum. The default clips the 5 largest of
        1000 values: a gradient often is twice as large at a few pixels as at
        the next, and all others would look pale. Should the percentile be 0
        and not all values, the maximum takes its place.
    limit : float, optional
        The absolute value that becomes 1, instead of a percentile.

    Returns
    -------
    array of float64
        The scaled values. Infinities and NaN do not count for the percentile,
        and become NaN.

    Raises
    ------
    TypeError
        If `values` are not real numbers.
    ValueError
        If `percentile` is not above 0 and up to 100, or `limit` not above 0
        and finite.

    Examples
    --------
    >>> from gradmod.plot import normalize
    >>> print(normalize([-4, 0, 2], percentile=100))
    [-1.   0.   0.5]
    >>> print(normalize([-4, 0, 2], limit=2))
    [-1.  0.  1.]
    """
    if not (0 < percentile <= 100 and (limit is None or 0 < limit < np.inf)):
        raise ValueError('normalize: expected 0 < percentile <= 100 and 0 < limit '
                         f'< inf, got {percentile!r} and {limit!r}')
    values = _real('normalize: values', values).astype(float)
    finite = np.isfinite(values)
    values[~finite] = np.nan
    if limit is None:
        magnitudes = abs(values[finite])
        if not magnitudes.any():
            return values
        limit = np.percentile(magnitudes, percentile) or magnitudes.max()
    limit = float(limit)  # of an unsigned integer, -limit is positive
    return np.clip(values, -limit, limit) / limit


def map_to_rgb(saliency, kind='signed', percentile=99.5, limit=None, cmap=None,
               data_format=None):
    """The colours of a map, or of each in a batch.

    Parameters
    ----------
    saliency : array
        A map or a batch of them, with 1 or 3 channels or without a channel
        axis.
    kind : {'signed', 'absolute', 'rgb'}, optional
        - ``'signed'``: the sum over the channels, which is the derivative of
          the score as all channels of a pixel grow together. Red is positive,
          blue negative, white 0.
        - ``'absolute'``: the largest absolute value over the channels [1]_,
          from white, 0, to purple.
        - ``'rgb'``: the channels as red, green and blue [2]_. Mid-grey is 0,
          brighter is positive.
    percentile, limit : float, optional
        What to scale each map by; see `normalize`.
    cmap : str or matplotlib.colors.Colormap, optional
        Other colours than the above, not with ``'rgb'``. For ``'signed'``
        the middle of it is 0, for ``'absolute'`` the beginning.
    data_format : {'channels_first', 'channels_last'}, optional
        Where the channels of `saliency` are, as in Keras. Three axes then are
        one map with channels; a batch without channels needs an axis for them,
        ``saliency[:, np.newaxis]`` or ``saliency[..., np.newaxis]``. By
        default, take what fits the shape, where an axis of length 1, or a last
        one of length 3, is for channels. If several fit, as for three axes of
        which the first is 3 long, that is an error.

    Returns
    -------
    array of float64, (height, width, 3) or (number, height, width, 3)
        Red, green and blue from 0 to 1. A pixel is magenta where the map is
        infinite or NaN (for ``'rgb'``, finite values may be, too).

    Raises
    ------
    TypeError
        If `saliency` is no array of real numbers.
    ValueError
        If another argument is not one of those described, or a shape does not
        fit.

    References
    ----------
    .. [1] Simonyan, Vedaldi, Zisserman (2014): Deep Inside Convolutional
       Networks: Visualising Image Classification Models and Saliency Maps.
       ICLR workshop.
    .. [2] Springenberg, Dosovitskiy, Brox, Riedmiller (2015): Striving for
       Simplicity: The All Convolutional Net. ICLR workshop.

    Examples
    --------
    >>> from gradmod.plot import map_to_rgb
    >>> red, white = map_to_rgb([[2, 0]])[0]
    >>> print(white)
    [1. 1. 1.]
    """
    if kind not in COLOURS:
        raise ValueError("map_to_rgb: expected the kind 'signed', 'absolute' "
                         f"or 'rgb', got {kind!r}")
    if kind == 'rgb' and cmap is not None:
        raise ValueError("map_to_rgb: the kind 'rgb' takes no cmap")
    axes, values = _as_nhwc('map_to_rgb: saliency', saliency, data_format)
    values = np.array([normalize(v, percentile, limit)
                       for v in _reduce(values, kind)])
    rgb = values if kind == 'absolute' else (values + 1) / 2
    if kind == 'rgb':
        rgb = np.repeat(rgb, 3 // rgb.shape[3], axis=3)
    else:
        cmap = COLOURS[kind] if cmap is None else cmap
        rgb = ScalarMappable(cmap=cmap).cmap(rgb[..., 0])[..., :3]
    rgb[np.isnan(values).any(axis=3)] = NOT_FINITE
    return rgb if 'N' in axes else rgb[0]


def plot_saliency(images, maps, titles=None, labels=None, kind='signed',
                  percentile=99.5, limit=None, cmap=None, overlay=False,
                  colorbar=True, data_format=None, size=1, spatial_dims=None,
                  slices=None):
    """Draw images beside their maps: a row an image, a column a method.

    Parameters
    ----------
    images : array
        An image or a batch of up to 32, with 1 or 3 channels or without a
        channel axis: uint8, or floats from 0 to 1. Grey 0 is black. Or signals
        or volumes; see `spatial_dims`.
    maps : dict of arrays by title, list of arrays, or array
        For each method the maps of the images: as many, of the same height
        and width, with channels (see `kind`) or without. A list has an entry
        for each method, not for each image. The channels need not be where
        those of `images` are.
    titles : list of str, optional
        What to write above the columns of maps. By default the keys of
        `maps`, if it is a dict. A ``'\\n'`` breaks a line.
    labels : list of str, optional
        What to write beside the rows, for each image.
    kind : {'signed', 'absolute', 'rgb'}, optional
        What to draw of a map; see `map_to_rgb`.
    percentile : float, optional
        Each map is divided by this percentile of its own absolute values, and
        clipped; see `normalize`. So maps compare by pattern, not by size: one
        method's values may be twenty times another's. The colour bar says
        "P99.5", or "max" for 100.
    limit : float, optional
        Divide all maps by this number instead, and compare their sizes.
    cmap : str or matplotlib.colors.Colormap, optional
        Other colours; see `map_to_rgb`.
    overlay : bool or float, optional
        Draw each map over its image in grey (white, for signals), with this
        opacity: from 0, the image alone, to 1, the map alone. True is 0.7,
        False 1.
    colorbar : bool, optional
        Draw a colour bar below the maps. Pointed ends mean that what lies
        beyond is drawn in the same colour.
    data_format : {'channels_first', 'channels_last'}, optional
        Where the channels of `images` are; see `map_to_rgb`. For the maps, it
        decides only where their shape and the images' size do not.
    size : float, optional
        The longer side of an image in the picture, in inches. A channel of a
        signal is half as high and about three times as wide.
    spatial_dims : {1, 2, 3}, optional
        How many axes of space or time there are. By default 3 if `images` has
        five axes, else 2.

        - 1: signals, (number, channels, time), or (number, time, channels) for
          ``'channels_last'``, of finite numbers and any number of channels.
          Each channel is a line from its own minimum to its own maximum, on
          the colours of its map. A map of one channel is under all lines.
        - 2: images.
        - 3: volumes, (number, channels, depth, height, width), the channels
          as those of images. Each row is a slice; slices of a volume share
          the scale of their map.
    slices : int or list of int, optional
        Which slices of volumes to draw, along the depth, or how many of the
        strongest, by default 3: where the absolute values of the maps, as they
        are scaled, have the largest sum over all methods.

    Returns
    -------
    matplotlib.figure.Figure
        Nothing is shown or saved, and pyplot does not know of it. Call its
        ``savefig('maps.png')``, or make it the last value of a notebook cell.

    Raises
    ------
    TypeError
        If an argument is not of the type described.
    ValueError
        If a number, a name or a shape is not one of those described.

    Notes
    -----
    A pixel of an image is a square of as many whole dots as make 160 to the
    inch or more (nearest-neighbour interpolation), since smoothing would
    invent values between pixels. ``savefig(path, dpi=...)`` overrides that.
    Pictures of very large images are very large: shrink those before.

    Infinities and NaN in a map are magenta, and do not count for its
    percentile. In images they are an error. A map of zeros is white, or grey
    for the kind ``'rgb'``.

    A time step of a signal is whole dots, too, but of more than 960 steps
    (times `size`) several share a dot, and their colours are averaged.

    For more than 32 images draw several figures, of ``images[:32]``,
    ``images[32:64]``, ... and the same slices of the maps.

    Examples
    --------
    >>> import numpy as np
    >>> from gradmod.plot import plot_saliency
    >>> images = np.random.rand(2, 3, 32, 32)
    >>> maps = {'gradient': np.random.randn(2, 3, 32, 32)}
    >>> figure = plot_saliency(images, maps, labels=['cat', 'dog'])
    >>> figure.savefig('maps.png')  # doctest: +SKIP

    Signals of 3 channels; slices of a volume:

    >>> signals, maps = np.random.randn(2, 4, 3, 200)
    >>> figure = plot_saliency(signals, maps, spatial_dims=1)
    >>> volume, map = np.random.rand(2, 1, 1, 20, 32, 32)
    >>> figure = plot_saliency(volume, map, slices=[5, 10, 15])
    """
    images = _real('plot_saliency: images', images)
    if spatial_dims is None:
        spatial_dims = 3 if images.ndim == 5 else 2
    if spatial_dims not in SPACE or (slices is not None and spatial_dims != 3):
        raise ValueError('plot_saliency: expected spatial_dims 1, 2 or 3 (slices: '
                         f'3), got {spatial_dims!r} and slices={slices!r}')
    space, signals = SPACE[spatial_dims], None
    if space == 'T':
        data_format = data_format or 'channels_first'
    _, images = _as_nhwc('plot_saliency: images', images, data_format, None,
                         space, None if space == 'T' else (1, 3))
    n, *_, channels = images.shape
    if isinstance(overlay, (bool, np.bool_)):
        overlay = 0.7 if overlay else 1
    if not (0 <= overlay <= 1 and 0 < size < np.inf):
        raise ValueError('plot_saliency: expected overlay from 0 to 1, and '
                         f'size above 0, got {overlay!r} and {size!r}')
    if not isinstance(maps, dict):
        maps = dict(enumerate(
            maps if isinstance(maps, (list, tuple)) else [maps]))
    elif titles is None:
        titles = list(maps)
    titles = [] if titles is None else list(map(str, titles))
    labels = [] if labels is None else list(map(str, labels))
    if len(titles) not in (0, len(maps)) or len(labels) not in (0, n):
        raise ValueError(f'plot_saliency: expected {len(maps)} titles and {n} '
                         f'labels, got {titles} and {labels}')
    titles = ['image'] * bool(titles and space != 'T') + titles
    views = [_as_nhwc(f'plot_saliency: maps[{key!r}]', array, data_format,
                      images.shape[:-1], space,
                      {1, channels if space == 'T' else 3})[1]
             for key, array in maps.items()]
    rows = slice(None)
    if space == 'T':  # a map is a picture with a row for each channel
        signals = np.moveaxis(images, -1, 1).astype(float)
        if not np.isfinite(signals).all():
            raise ValueError('plot_saliency: expected finite signals')
        views = [np.moveaxis(view, -1, 1)[..., np.newaxis] for view in views]
    elif space == 'DHW':
        rows = _choose_slices(views, slices, percentile, limit)
        labels = [f'{labels[i] if labels else ""}\nslice {depth}'.lstrip()
                  for i, depth in zip(*rows)]
    images = images[rows]
    if not 0 < len(images) <= ROWS:
        raise ValueError(f'plot_saliency: expected up to {ROWS} images, got '
                         f'{len(images)}; draw slices of them and of the maps')
    columns, grey = [], 1  # a signal is drawn on its map
    if signals is None:
        columns = [np.repeat(_as_floats(images), 3 // channels, axis=3)]
        grey = columns[0].dot(LUMA)[..., np.newaxis]
    for view in views:
        rgb = map_to_rgb(view.reshape(n, -1, *view.shape[-2:]), kind,
                         percentile, limit, cmap, 'channels_last')
        rgb = rgb.reshape(view.shape[:-1] + (3,))[rows]
        columns.append(overlay * rgb + (1 - overlay) * grey)
    with rc_context(STYLE):
        figure, bar_axes = _draw_grid(columns, titles, labels, size, colorbar,
                                      signals)
        if colorbar:
            _draw_colorbar(bar_axes, kind, percentile, limit, cmap)
    return figure


def plot_words(words, saliency, labels=None, kind='signed', percentile=100,
               limit=None, cmap=None, colorbar=True, width=6):
    """Draw sentences, each word on the colour of its value.

    Parameters
    ----------
    words : list of lists of str
        The words of up to 32 sentences.
    saliency : array or list of arrays
        For each sentence as many numbers or vectors as it has words: a map of
        shape (sentences, words), or (sentences, words, dimensions) as of an
        embedding. Where sentences were padded, cut it off both.
    labels : list of str, optional
        What to write beside each sentence.
    kind : {'signed', 'absolute'}, optional
        What to draw of a vector: ``'signed'`` its sum, which for gradient
        times input or relevance is the share of the word in the score; red is
        positive, blue negative, white 0. ``'absolute'`` its largest absolute
        value, from white, 0, to purple.
    percentile, limit : float, optional
        What to scale each sentence by; see `normalize`. By default the
        largest absolute value.
    cmap : str or matplotlib.colors.Colormap, optional
        Other colours; see `map_to_rgb`.
    colorbar : bool, optional
        Draw a colour bar below the figure.
    width : float, optional
        Where a line ends, in inches from the first word on.

    Returns
    -------
    Figure
        A matplotlib figure, not shown or saved: call its
        ``savefig('words.png')``. Its attribute ``html`` has the sentences as
        HTML, a paragraph each, in ASCII; a notebook shows that, and each
        value under the mouse.

    Raises
    ------
    TypeError
        If `saliency` are not real numbers.
    ValueError
        If a number, a name or a shape is not one of those described.

    Examples
    --------
    >>> from gradmod.plot import plot_words
    >>> figure = plot_words([['not', 'bad']], [[-.5, 2]], labels=['good'])
    >>> print(figure.html)  # doctest: +ELLIPSIS
    <p><b>good</b> <span title="-0.5" ...>not</span> <span ...>bad</span></p>
    >>> figure.savefig('words.png')  # doctest: +SKIP
    """
    labels = [''] * len(words) if labels is None else list(labels)
    if not (len(words) == len(saliency) == len(labels) in range(1, ROWS + 1)
            and kind in ('signed', 'absolute') and 0 < width < np.inf):
        raise ValueError(
            f'plot_words: expected up to {ROWS} sentences, maps and labels, the '
            "kind 'signed' or 'absolute', width above 0, got "
            f'{(len(words), len(saliency), len(labels), kind, width)}')
    rows = []
    for i, (sentence, values) in enumerate(zip(words, saliency)):
        values = _real(f'plot_words: saliency[{i}]', values)
        if (isinstance(sentence, str) or values.ndim not in (1, 2)
                or len(values) != len(sentence)):
            raise ValueError(
                f'plot_words: expected a list as words[{i}], as many values as '
                f'saliency[{i}], got {sentence!r} and the shape {values.shape}')
        values = _reduce(values.reshape(len(sentence), -1), kind)
        rgb = map_to_rgb(values.T, kind, percentile, limit, cmap)[0]
        ink = np.where(rgb.dot(LUMA) < 0.5, 'white', 'black')
        rows.append(list(zip(map(str, sentence), values[:, 0], rgb, ink)))
    with rc_context(STYLE):
        figure, bar_axes = _draw_words(rows, labels, width, colorbar)
        if colorbar:
            _draw_colorbar(bar_axes, kind, percentile, limit, cmap)
    page = '\n'.join(
        '<p>' + f'<b>{html.escape(str(label))}</b> ' * bool(label) + ' '.join(
            f'<span title="{value:.3g}" style="background: {to_hex(colour)}; '
            f'color: {ink}; padding: 0 .2em">{html.escape(word)}</span>'
            for word, value, colour, ink in row) + '</p>'
        for label, row in zip(labels, rows))
    figure.html = page.encode('ascii', 'xmlcharrefreplace').decode()
    return figure


class Figure(mpl_figure.Figure):
    """A figure that a notebook shows, whether pyplot is in use or not.

    Attributes
    ----------
    html : str or None
        What a notebook shows instead: that of `plot_words`.
    """

    html = None

    def _repr_html_(self):
        return self.html

    def _repr_png_(self):
        png = io.BytesIO()
        self.savefig(png, format='png')
        return png.getvalue()


def _real(name, values):
    # Of a list of unequal shapes, np.asarray makes an array of objects.
    array = (np.stack(values) if isinstance(values, (list, tuple)) and values
             else np.asarray(values))
    if array.dtype.kind not in 'biuf':
        raise TypeError(f'{name}: expected an array of real numbers, got '
                        f'{array.dtype} from {type(values).__name__}')
    return array


def _reduce(values, kind):
    """One channel, the last axis, of several; for 'rgb' all of them."""
    if kind == 'signed':
        with np.errstate(invalid='ignore'):  # infinity - infinity
            return values.sum(axis=-1, keepdims=True, dtype=float)
    if kind == 'absolute':
        return abs(values.astype(float)).max(axis=-1, keepdims=True)
    return values


def _as_nhwc(name, array, data_format, like=None, space='HW',
             channels=(1, 3)):
    """What the axes of an array are, 'CHW' for example, and its NHWC view.

    With `like`, (n, h, w) of the images, `data_format` is no more than
    preferred. Likewise NTC for signals, NDHWC for volumes: `space`.
    """
    array = _real(name, array)
    if data_format not in (None, 'channels_first', 'channels_last'):
        raise ValueError(f"{name}: expected data_format 'channels_first' or "
                         f"'channels_last', got {data_format!r}")
    first, last = 'C' + space, space + 'C'
    formats = {space: None, 'N' + space: None,
               first: 'channels_first', 'N' + first: 'channels_first',
               last: 'channels_last', 'N' + last: 'channels_last'}
    candidates = [axes for axes, where in formats.items()
                  if like or data_format in (None, where) or axes == space]
    views = {}
    for axes in candidates:
        if len(axes) == array.ndim and array.size:
            view = array if 'C' in axes else array[..., np.newaxis]
            view = np.moveaxis(view, -len(first), -1) if first in axes else view
            view = view if 'N' in axes else view[np.newaxis]
            if (view.shape[-1] in (channels or view.shape)
                    and like in (None, view.shape[:-1])):
                views[axes] = view
    if not views:
        raise ValueError(
            f'{name}: expected {" or ".join(candidates)}, where C is '
            f'{" or ".join(map(str, sorted(channels or ["any"])))} and '
            f'{", ".join("N" + space)} are {like or "any"}, got {array.shape}')
    if data_format:
        views = {axes: view for axes, view in views.items()
                 if formats[axes] == data_format} or views
    if len(views) > 1 and (array.shape[0] == 1 or array.shape[-1] in (1, 3)):
        views.pop('N' + space, None)  # one channel, or the channels last
    if len(views) > 1:
        raise ValueError(
            f'{name}: the shape {array.shape} may be {" or ".join(views)}; set '
            'data_format, and give each an axis of channels: array[:, np.newaxis]')
    return views.popitem()


def _choose_slices(views, slices, percentile, limit):
    """Of each volume its slices, or the strongest: what indexes a view."""
    n, depth = views[0].shape[:2]
    if np.ndim(slices):
        chosen = [np.arange(depth)[list(slices)]] * n
    else:
        strength = sum(
            np.array([np.nansum(abs(normalize(v, percentile, limit)), (1, 2, 3))
                      for v in view]) for view in views)
        count = 3 if slices is None else max(slices, 0)
        chosen = [np.sort(np.argsort(-s, kind='stable')[:count])
                  for s in strength]
    return np.repeat(np.arange(n), len(chosen[0])), np.concatenate(chosen)


def _as_floats(images):
    """The images as floats from 0 to 1."""
    if images.dtype == np.uint8:
        return images / 255
    low, high = images.min(), images.max()
    if (images.dtype.kind not in 'bf'
            or not -0.001 <= low <= high <= 1.001):  # but for rounding errors
        raise ValueError(
            'plot_saliency: expected images of uint8, or floats from 0 to 1, got '
            f'{images.dtype} from {low:g} to {high:g}; perhaps you meant images / '
            '255, images + mean, or spatial_dims=1 for signals')
    return np.clip(images.astype(float), 0, 1)


def _new_figure(dpi):
    """A figure, and a function from a text to its width and height in it."""
    figure = Figure(dpi=dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return figure, lambda text: Text(
        text=text, figure=figure).get_window_extent(renderer).size


def _draw_grid(columns, titles, labels, size, colorbar, signals=None):
    """Make a figure of columns of RGB images, and axes for a colour bar.

    The first column has no map, unless the others have `signals` on them.

    Everything is placed by whole dots from the upper left corner, so that all
    pixels get as many.
    """
    n, h, w = columns[0].shape[:3]
    if signals is None:
        scale = ceil(DPI * size / max(h, w))
        dpi = scale * max(h, w) / size
        h, w = scale * h, scale * w
    else:
        h, width = (ceil(DPI * size * d) for d in (signals.shape[1] / 2, 3))
        w = round(width / signals.shape[2]) * signals.shape[2] or width
        dpi = DPI
    margin, gap = ceil(0.08 * dpi), ceil(0.075 * dpi)
    figure, size_of = _new_figure(dpi)
    # The largest width and height, with a margin, or 0 without texts.
    (title_width, top), (left, label_height) = np.ceil([np.max(
        [np.zeros(2)] + [size_of(text) + margin for text in texts], axis=0)
        for texts in (titles, labels)]).astype(int)
    # From a column to the next, and from a row to the next.
    dx, dy = max(w + gap, title_width), max(h + gap, label_height)
    x0 = margin + left + (dx - gap - w) // 2
    y0 = margin + top + (dy - gap - h) // 2
    right = margin + left + len(columns) * dx - gap
    bottom = margin + top + n * dy - gap + margin  # where the bar begins
    bar_x = x0 + (dx if signals is None else 0)
    bar_width = max(x0 + (len(columns) - 1) * dx + w - bar_x, ceil(dpi))
    total_width = max(right, bar_x + bar_width) + margin
    total_height = bottom + (ceil(0.35 * dpi) if colorbar else 0)
    figure.set_size_inches(np.add([total_width, total_height], TINY) / dpi)

    def add_axes(x, y, width, height):
        # From the lower left corner. Lower by TINY, the aspect is kept.
        box = [x, total_height - y - height, width, height - TINY]
        return figure.add_axes(np.divide(box, [*figure.bbox.size] * 2))

    for row in range(n):
        for i, column in enumerate(columns):
            axes = add_axes(x0 + i * dx, y0 + row * dy, w, h)
            if signals is None:
                axes.imshow(column[row], interpolation='nearest',
                            aspect='equal', origin='upper')
            else:
                _draw_signal(axes, column[row], signals[row])
            axes.set(xticks=[], yticks=[])
            if titles and row == 0:
                axes.set_title(titles[i], loc='center')
            if labels and i == 0:
                axes.set_ylabel(labels[row], rotation='horizontal',
                                ha='right', va='center')
    return figure, colorbar and add_axes(bar_x, bottom, bar_width, gap)


def _draw_signal(axes, rgb, signal):
    """Draw each channel as a line, one below the other, on its colours."""
    n, length = signal.shape
    for i, values in enumerate(signal):
        low, high = values.min(), values.max()
        axes.imshow(rgb[i % len(rgb)][np.newaxis], aspect='auto',
                    origin='upper', extent=(0, length, i + 1, i),
                    interpolation='nearest' if axes.bbox.width > length - 1
                    else 'antialiased')
        axes.plot(np.arange(length) + .5,
                  i + .9 - .8 * (values - low) / (high - low or 1),
                  color='0.15')
        axes.axhline(i, color=FRAME)
    axes.set(xlim=(0, length), ylim=(n, 0))


def _draw_words(rows, labels, width, colorbar):
    """Make a figure of lines of words, and axes for a colour bar."""
    figure, size_of = _new_figure(DPI)
    margin, pad, gap, line = (ceil(d * DPI) for d in (.08, .028, .04, .22))

    def plain(text):
        return ' '.join(str(text).split()).replace('$', r'\$')  # no formula

    labels = list(map(plain, labels))
    left = right = 2 * margin + ceil(max(size_of(text)[0] for text in labels))
    places, y = [], 0  # of base lines, from the upper left corner
    for label, row in zip(labels, rows):
        x, y = left, y + line
        places.append((left - margin, y, label, {'ha': 'right'}))
        for word, _, colour, ink in row:
            word = plain(word)
            w = size_of(word)[0] + 2 * pad
            if left < x and x + w > left + width * DPI:
                x, y = left, y + line
            places.append((x + pad, y, word, {'color': ink, 'bbox': {
                'facecolor': colour, 'edgecolor': 'none', 'pad': 2}}))
            right, x = max(right, x + w), x + w + gap
        y += margin
    y += margin
    bar_width, bar_height = max(right - left, DPI), ceil(.075 * DPI)
    size = np.array([left + bar_width + margin,
                     y + (ceil(.35 * DPI) if colorbar else 0)])
    figure.set_size_inches(size / DPI)
    for x, y_word, text, look in places:
        figure.text(x / size[0], 1 - y_word / size[1], text, **look)
    return figure, colorbar and figure.add_axes(np.divide(
        [left, size[1] - y - bar_height, bar_width, bar_height], [*size] * 2))


def _draw_colorbar(axes, kind, percentile, limit, cmap):
    """Draw the colours from -limit, or 0, to limit, or the percentile."""
    high = float(limit or 1)
    name = (f'{high:g}' if limit is not None else
            'max' if percentile == 100 else f'P{percentile:g}')
    signed, clipped = kind != 'absolute', name != 'max'
    ticks = [-high, 0, high] if signed else [0, high]
    axes.figure.colorbar(
        ScalarMappable(Normalize(ticks[0], high),
                       COLOURS[kind] if cmap is None else cmap),
        cax=axes, orientation='horizontal', ticks=ticks, extendfrac=0.03,
        extend=('both' if signed else 'max') if clipped else 'neither')
    axes.tick_params(color=FRAME)
    texts = axes.set_xticklabels(['\u2212' + name] * signed + ['0', name])
    texts[0].set_ha('left')
    texts[-1].set_ha('right')
