"""Pictures of saliency maps, drawn with matplotlib.

`plot_saliency` draws images beside their maps; `map_to_rgb` and `normalize`
make the colours of a map without a figure, for pictures of one's own.
"""
import io
import numbers
from math import ceil

import numpy as np

try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('gradmod.plot draws with matplotlib, which cannot be '
                      'imported (%s). Install it with: '
                      'pip install "gradmod[examples]"' % error) from error

__all__ = ['plot_saliency', 'map_to_rgb', 'normalize']

LAYOUTS = ('HW', 'CHW', 'HWC', 'NHW', 'NCHW', 'NHWC')
COLOURS = {  # odd numbers of them, so that one is in the middle, for 0
    'signed': LinearSegmentedColormap.from_list(
        'signed', ['#1450a0', '#7db3dc', 'white', '#ee8a72', '#b3101f'], 257),
    'absolute': LinearSegmentedColormap.from_list(
        'absolute', ['white', '#b39bd8', '#4a148c'], 257),
    'rgb': LinearSegmentedColormap.from_list('rgb', ['black', 'white'], 257),
}
NOT_FINITE = (1, 0, 1)  # magenta, which none of them has
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are (BT.601)
FRAME = '0.7'  # the grey of lines
OPACITY = 0.7  # of a map over its image
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
        If `values` is no array of real numbers.
    ValueError
        If `percentile` is no number above 0 and up to 100, or `limit` no finite
        number above 0.

    Examples
    --------
    >>> from gradmod.plot import normalize
    >>> print(normalize([-4, 0, 2], percentile=100))
    [-1.   0.   0.5]
    >>> print(normalize([-4, 0, 2], limit=2))
    [-1.  0.  1.]
    """
    if not (isinstance(percentile, numbers.Real) and 0 < percentile <= 100):
        raise ValueError('normalize: expected a percentile above 0 and up to '
                         '100, got %r' % (percentile,))
    if limit is not None and not (isinstance(limit, numbers.Real)
                                  and 0 < limit < np.inf):
        raise ValueError('normalize: expected a finite limit above 0, got %r' %
                         (limit,))
    values = np.asarray(values)
    if values.dtype.kind not in 'biuf':
        raise TypeError('normalize: expected an array of real numbers, got %s' %
                        values.dtype)
    values = values.astype(float)
    finite = np.isfinite(values)
    values[~finite] = np.nan
    if limit is None:
        magnitudes = abs(values[finite])
        if not magnitudes.any():
            return values
        limit = np.percentile(magnitudes, percentile) or magnitudes.max()
    limit = float(limit)
    return np.clip(values, -limit, limit) / limit


def map_to_rgb(saliency, mode='signed', percentile=99.5, limit=None, cmap=None,
               layout=None):
    """The colours of a map, or of each in a batch.

    Parameters
    ----------
    saliency : array
        A map or a batch of them; a channel axis may be there or not.
    mode : {'signed', 'absolute', 'rgb'}, optional
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
    layout : {'HW', 'CHW', 'HWC', 'NHW', 'NCHW', 'NHWC'}, optional
        The axes of `saliency`: N counts maps, C is for 1 or 3 channels. By
        default the one that fits the shape; where several do, as CHW and NHW
        do for three rows of equal length, that is an error.

    Returns
    -------
    array of float64, HWC or NHWC
        Red, green and blue from 0 to 1. A pixel is magenta where the map is
        infinite or NaN (in the mode ``'rgb'``, finite values may be, too).

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
    view, layout = _as_nhwc('map_to_rgb: saliency', saliency, layout)
    if not (isinstance(mode, str) and mode in COLOURS):
        raise ValueError("map_to_rgb: expected the mode 'signed', 'absolute' "
                         "or 'rgb', got %r" % (mode,))
    values = view.astype(float)
    if mode == 'signed':
        with np.errstate(invalid='ignore'):  # infinity - infinity
            values = values.sum(axis=3)
    elif mode == 'absolute':
        values = abs(values).max(axis=3)
    scaled = np.array([normalize(v, percentile, limit) for v in values])
    if mode == 'rgb':
        if cmap is not None:
            raise ValueError("map_to_rgb: expected no cmap in the mode 'rgb', "
                             'got %r' % (cmap,))
        rgb = np.repeat((scaled + 1) / 2, 3 // scaled.shape[3], axis=3)
    else:
        colours = _as_cmap(cmap, mode)
        rgb = colours((scaled + 1) / 2 if mode == 'signed' else scaled)
        rgb = rgb[..., :3]
        scaled = scaled[..., np.newaxis]
    rgb[np.isnan(scaled).any(axis=3)] = NOT_FINITE
    return rgb if 'N' in layout else rgb[0]


def plot_saliency(images, maps, titles=None, labels=None, mode='signed',
                  percentile=99.5, limit=None, cmap=None, overlay=False,
                  colorbar=True, layout=None, size=1):
    """Draw images beside their maps: a row an image, a column a method.

    Parameters
    ----------
    images : array
        An image or a batch of them, of 1 channel, of 3 or without channels:
        uint8, or floats from 0 to 1. Grey 0 is black.
    maps : dict of arrays by title, list of arrays, or array
        For each method the maps of the images: as many, of the same height
        and width, and with channels (see `mode`) or without. Their axes need
        not be in the same order as those of `images`.
    titles : list of str, optional
        What to write above the columns of maps. By default the keys of
        `maps`, if it is a dict. A ``'\\n'`` breaks a line.
    labels : list of str, optional
        What to write beside the rows, for each image.
    mode : {'signed', 'absolute', 'rgb'}, optional
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
    overlay : bool, optional
        Draw each map over its image: 0.7 of the map's colour and 0.3 of the
        image in grey.
    colorbar : bool, optional
        Draw a colour bar below the maps. Pointed ends mean that what lies
        beyond is drawn in the same colour.
    layout : {'HW', 'CHW', 'HWC', 'NHW', 'NCHW', 'NHWC'}, optional
        The axes of `images`; see `map_to_rgb`. Those of the maps follow from
        their shape and the images' size.
    size : float, optional
        The longer side of an image in the picture, in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Nothing is shown or saved, and pyplot does not know of it. Call its
        ``savefig('maps.png')``, or make it the last value of a notebook cell.

    Raises
    ------
    TypeError
        If an argument is not of the kind described.
    ValueError
        If a number, a name or a shape is not one of those described.

    Notes
    -----
    A pixel of an image is a square of as many whole dots as make 160 to the
    inch or more (nearest-neighbour interpolation), since smoothing would
    invent values between pixels. ``savefig(path, dpi=...)`` overrides that.
    Pictures of very large images are very large: shrink those before.

    Infinities and NaN in a map are magenta, and do not count for its
    percentile. In images they are an error.

    Examples
    --------
    >>> import numpy as np
    >>> from gradmod.plot import plot_saliency
    >>> images = np.random.rand(2, 3, 32, 32)
    >>> maps = {'gradient': np.random.randn(2, 3, 32, 32)}
    >>> figure = plot_saliency(images, maps, labels=['cat', 'dog'])
    >>> figure.savefig('maps.png')  # doctest: +SKIP
    """
    images, layout = _as_nhwc('plot_saliency: images', images, layout)
    images = _check_images(images)
    n, height, width, channels = images.shape
    columns = [np.repeat(images, 3 // channels, axis=3)]
    grey = columns[0].dot(LUMA)[..., np.newaxis]
    if isinstance(maps, np.ndarray):
        maps = [maps]
    if not isinstance(maps, (dict, list, tuple)):
        raise TypeError('plot_saliency: expected maps in a dict, a list or an '
                        'array, got %s' % type(maps).__name__)
    if isinstance(maps, dict):
        titles = list(maps) if titles is None else titles
    else:
        maps = dict(enumerate(maps))
    for key, array in maps.items():
        view, _ = _as_nhwc('plot_saliency: maps[%r]' % (key,), array, layout,
                           (n, height, width))
        rgb = map_to_rgb(view, mode, percentile, limit, cmap, 'NHWC')
        if overlay:
            rgb = OPACITY * rgb + (1 - OPACITY) * grey
        columns.append(rgb)
    if not maps:
        raise ValueError('plot_saliency: expected at least one map, got none')
    for texts, number, what in [
            (titles, len(maps), 'titles, one for each map'),
            (labels, n, 'labels, one for each image')]:
        if texts is not None and (isinstance(texts, (str, bytes))
                                  or not hasattr(type(texts), '__len__')):
            raise TypeError('plot_saliency: expected a list of %s, got %r' %
                            (what, texts))
        if texts is not None and len(texts) != number:
            raise ValueError('plot_saliency: expected %d %s, got %d: %r' %
                             (number, what, len(texts), texts))
    if not (isinstance(size, numbers.Real) and 0 < size < np.inf):
        raise ValueError('plot_saliency: expected a size in inches above 0, '
                         'got %r' % (size,))
    titles = [] if titles is None else ['image'] + [str(t) for t in titles]
    labels = [] if labels is None else [str(t) for t in labels]
    figure, bar_axes = _draw_grid(columns, titles, labels, size, colorbar)
    if colorbar:
        if limit is not None:
            end = '%g' % limit
        else:
            end = 'max' if percentile == 100 else 'P%g' % percentile
        _draw_colorbar(bar_axes, _as_cmap(cmap, mode), float(limit or 1), end,
                       signed=mode != 'absolute', clipped=end != 'max')
    return figure


def _as_cmap(cmap, mode):
    try:
        return ScalarMappable(cmap=COLOURS[mode] if cmap is None else cmap).cmap
    except (TypeError, ValueError) as error:
        raise ValueError('map_to_rgb: expected cmap to be a Colormap of '
                         'matplotlib or the name of one, got %r' %
                         (cmap,)) from error


class _Figure(Figure):
    """A figure that a notebook shows, whether pyplot is in use or not."""

    def _repr_png_(self):
        png = io.BytesIO()
        self.savefig(png, format='png')
        return png.getvalue()


def _as_nhwc(name, array, layout, like=None):
    """View an array as NHWC, and say what its layout is.

    With `like`, (n, h, w) of the images, `layout` is no more than preferred.
    """
    array = np.asarray(array)
    if array.dtype.kind not in 'biuf':
        raise TypeError('%s: expected an array of real numbers, got %s' %
                        (name, array.dtype))
    if not (layout is None or isinstance(layout, str) and layout in LAYOUTS):
        raise ValueError('%s: expected one of the layouts %s, got %r' %
                         (name, ', '.join(LAYOUTS), layout))
    views = {}
    for candidate in LAYOUTS if like or layout is None else [layout]:
        if len(candidate) == array.ndim and array.size:
            missing = [axis for axis in 'NHWC' if axis not in candidate]
            axes = missing + list(candidate)
            view = array.reshape((1,) * len(missing) + array.shape).transpose(
                [axes.index(axis) for axis in 'NHWC'])
            if view.shape[3] in (1, 3) and like in (None, view.shape[:3]):
                views[candidate] = view
    if not views:
        expected = ('as many maps as images, %d, each of %d x %d pixels, as '
                    'the images are, with 1 or 3 channels or without' % like
                    if like else 'the axes %s, where C is 1 or 3' %
                    (layout or ' or '.join(LAYOUTS)))
        raise ValueError('%s: expected %s; got an array of shape %s' %
                         (name, expected, array.shape))
    if layout in views:
        return views[layout], layout
    if len(views) > 1 and (array.shape[0] == 1 or array.shape[-1] in (1, 3)):
        views.pop('NHW', None)  # one channel, or the channels last
    if len(views) > 1:
        raise ValueError(
            '%s: expected a shape that tells the layout, got %s, which may be '
            "%s; perhaps you meant layout='%s'" %
            (name, array.shape, ' or '.join(views), list(views)[0]))
    (layout, view), = views.items()
    return view, layout


def _check_images(images):
    """The images as floats from 0 to 1."""
    if images.dtype == np.uint8:
        return images / 255.
    if images.dtype.kind not in 'bf':
        raise TypeError('plot_saliency: expected images of uint8, or floats '
                        'from 0 to 1, got %s' % images.dtype)
    low, high = images.min(), images.max()
    if not -0.001 <= low <= high <= 1.001:  # rounding errors are no errors
        raise ValueError(
            'plot_saliency: expected images of uint8, or floats from 0 to 1, '
            'got floats from %g to %g; perhaps you meant images / 255, or '
            'images + mean' % (low, high))
    return np.clip(images.astype(float), 0, 1)


def _draw_grid(columns, titles, labels, size, colorbar):
    """Make a figure of columns of RGB images, and axes for a colour bar.

    Everything is placed by whole dots from the upper left corner, so that all
    pixels get as many.
    """
    n, h, w = columns[0].shape[:3]
    scale = ceil(DPI * size / max(h, w))
    dpi = scale * max(h, w) / size
    h, w = scale * h, scale * w
    margin, gap = ceil(0.08 * dpi), ceil(0.075 * dpi)
    with rc_context({'figure.autolayout': False,
                     'figure.constrained_layout.use': False}):
        figure = _Figure(dpi=dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()

    def extent(texts):
        """The largest width and height, with a margin, or 0 without texts."""
        sizes = [(0, 0)]
        for text in texts:
            artist = figure.text(0, 0, text, fontsize=9)
            sizes.append(artist.get_window_extent(renderer).size + margin)
            artist.remove()
        return [ceil(d) for d in np.max(sizes, axis=0)]

    (title_width, top), (left, label_height) = extent(titles), extent(labels)
    # From a column to the next, and from a row to the next.
    dx, dy = max(w + gap, title_width), max(h + gap, label_height)
    x0 = margin + left + (dx - gap - w) // 2
    y0 = margin + top + (dy - gap - h) // 2
    right = margin + left + len(columns) * dx - gap
    bottom = margin + top + n * dy - gap
    bar_width = max((len(columns) - 2) * dx + w, ceil(dpi))
    total_width = max(right, x0 + dx + bar_width) + margin
    total_height = bottom + margin + (ceil(0.35 * dpi) if colorbar else 0)
    figure.set_size_inches((total_width + TINY) / dpi,
                           (total_height + TINY) / dpi)

    def add_axes(x, y, width, height):
        y = total_height - y - height  # now from the lower left corner
        return figure.add_axes(
            [x / figure.bbox.width, y / figure.bbox.height,
             width / figure.bbox.width,
             (height - TINY) / figure.bbox.height])  # the aspect is kept

    for row in range(n):
        for i, column in enumerate(columns):
            axes = add_axes(x0 + i * dx, y0 + row * dy, w, h)
            axes.imshow(column[row], interpolation='nearest', aspect='equal',
                        origin='upper')
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color=FRAME, linewidth=0.6)
            if titles and row == 0:
                axes.set_title(titles[i], fontsize=9, pad=4)
            if labels and i == 0:
                axes.set_ylabel(labels[row], fontsize=9, rotation=0,
                                ha='right', va='center', labelpad=5)
    bar = [x0 + dx, bottom + margin, bar_width, gap]
    return figure, add_axes(*bar) if colorbar else None


def _draw_colorbar(axes, colours, limit, end, signed, clipped):
    """Draw what is between -limit, or 0, and limit, which is called `end`."""
    low = -limit if signed else 0
    extend = ('both' if signed else 'max') if clipped else 'neither'
    bar = axes.figure.colorbar(
        ScalarMappable(Normalize(low, limit), colours), cax=axes,
        orientation='horizontal', extend=extend, extendfrac=0.03,
        ticks=[-limit, 0, limit] if signed else [0, limit])
    bar.outline.set(edgecolor=FRAME, linewidth=0.6)
    axes.tick_params(length=2, width=0.6, color=FRAME, pad=2, labelsize=7)
    texts = axes.set_xticklabels(['\u2212' + end] * signed + ['0', end])
    texts[0].set_ha('left')
    texts[-1].set_ha('right')
