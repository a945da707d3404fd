"""examples/story.ipynb, run from scratch, gives what is stored in it.

After a change, run it in Jupyter from the top, look at it, and save it.
"""
import base64
import io
import os
import re

import matplotlib.image
import nbformat
import pytest
from ipykernel.kernelspec import install
from nbclient import NotebookClient

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXAMPLES = os.path.join(ROOT, 'examples')
NOTEBOOK = os.path.join(EXAMPLES, 'story.ipynb')
DECIMAL = re.compile(r' *-?\d+\.\d+')  # a minus takes the place of a space


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def figures(cell):
    """The pictures that a cell shows, as arrays."""
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(
                out.data['image/png'])))
            for out in cell.outputs if 'image/png' in out.get('data', {})]


def text(cell):
    """What a cell prints and returns, but for figures and for warnings.

    Which warnings there are depends on the versions of other packages.
    """
    parts = []
    for out in cell.outputs:
        if out.output_type == 'stream':
            parts += [out.text] * (out.name == 'stdout')
        elif 'image/png' not in out.data:
            parts.append(out.data['text/plain'])
    return ''.join(parts)


def assert_same_text(text, stored):
    """The same words, and decimals within one unit of their last place.

    After training with another BLAS, a number may round to the other side.
    """
    assert DECIMAL.sub('#', text) == DECIMAL.sub('#', stored)
    for a, b in zip(DECIMAL.findall(text), DECIMAL.findall(stored)):
        places = len(b) - b.index('.') - 1
        assert abs(float(a) - float(b)) < 1.01 * 10. ** -places, (text, stored)


@pytest.fixture(scope='module')
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_stored_outputs_are_of_one_clean_run(stored):
    nbformat.validate(stored)
    assert os.path.getsize(NOTEBOOK) < 600e3
    cells = code_cells(stored)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for out in [out for cell in cells for out in cell.outputs]:
        assert out.output_type != 'error' and out.get('name') != 'stderr', out
    assert sum(len(figures(cell)) for cell in cells) >= 5


@pytest.mark.slow
def test_runs_and_gives_what_is_stored(stored, tmp_path, monkeypatch):
    for name in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR',
                 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR'):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv('PYTHONPATH', ROOT)
    install(user=True, kernel_name='this-python')  # in JUPYTER_DATA_DIR

    fresh = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    NotebookClient(fresh, kernel_name='this-python', timeout=900,
                   resources={'metadata': {'path': EXAMPLES}}).execute()
    for cell, before in zip(code_cells(fresh), code_cells(stored)):
        assert_same_text(text(cell), text(before))
        assert len(figures(cell)) == len(figures(before))
        for picture in figures(cell):
            assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > .05


def test_rounding_is_no_difference_and_all_else_is():
    assert_same_text('cosine of 2: -0.1, 0.5', 'cosine of 2:  0.0, 0.4')
    for text, stored in [('True', 'False'), ('0.4', '0.6'), ('0.4', '-0.4'),
                         ('0.00002', '0.00000'), ('2 of 5', '3 of 5')]:
        with pytest.raises(AssertionError):
            assert_same_text(text, stored)
