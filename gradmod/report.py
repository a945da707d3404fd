"""What users are told: progress; what was given a rule and what was left alone,
as `modified` and `override_in` report it."""
from collections.abc import Sequence

BATCH_SIZE = 64  # how many images are computed at once, by default


def table(rows, align=str.ljust):
    """Rows of strings as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(align(cell, width) for cell, width
                               in zip(row, widths)).rstrip() for row in rows)


def progress_bar(progress, batches):
    """Batches, with a progress bar on the way if that is wanted."""
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install tqdm') from error
    return tqdm(batches, unit='batch')


class Report(Sequence):
    """The places that were given a rule. Prints as a table with all others.

    Parameters
    ----------
    headings : tuple of str
        Those of the columns before the last, the rule.
    rows : list of (place, reason)
        Each place with the reason why it was left alone, or None. A place has
        `cells`, the strings for the columns, the last one its rule.

    Attributes
    ----------
    left_alone : list of (place, str)
        What was not given a rule, each with the reason.
    """

    def __init__(self, headings, rows):
        self._headings, self._rows = headings, rows
        self._given = [place for place, reason in rows if reason is None]
        self.left_alone = [row for row in rows if row[1] is not None]

    def __len__(self):
        return len(self._given)

    def __getitem__(self, index):
        return self._given[index]

    def __repr__(self):
        return table([self._headings + ('rule',)] + [
            place.cells if reason is None else
            place.cells[:-1] + (f'left alone: {reason}',)
            for place, reason in self._rows])
