"""Pictures: what is drawn where, on the axes that were given."""

import matplotlib as mpl
import numpy as np
import pytest

import subsel
from subsel import plots
from subsel.selection import Selection

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

X = np.random.default_rng(0).normal(size=(60, 2))
CHOSEN = subsel.select(X, 8)
NOTHING = Selection(np.empty(0, np.int64), np.empty(0), 0.0, 0)


@pytest.fixture
def ax():
    return Figure(figsize=(3.6, 2.7)).add_subplot()


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    pyplot.close("all")


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_function_draws_on_the_axes_given_and_returns_them(ax):
    images = np.zeros((60, 4, 4))
    before = pyplot.get_fignums()
    assert plots.curve(CHOSEN, ax) is ax
    assert plots.map(X, CHOSEN, ax) is ax
    assert plots.balance([0, 1] * 30, CHOSEN, ax) is ax
    assert plots.contact_sheet(images, CHOSEN, ax) is ax
    assert CHOSEN.plot(ax) is ax
    assert pyplot.get_fignums() == before
    assert CHOSEN.plot(enough=0.5).figure.number in pyplot.get_fignums()


def test_the_curve_shows_f_the_bound_and_how_many_are_enough(ax):
    plots.curve(CHOSEN, ax, enough=0.95)
    drawn, bound, _, mark = ax.lines
    np.testing.assert_array_equal(drawn.get_ydata(), CHOSEN.values)
    assert bound.get_xydata().tolist() == [[8, CHOSEN.bound]]
    k = int(np.argmax(CHOSEN.values >= 0.95 * CHOSEN.value)) + 1
    assert 1 < k < 8
    assert mark.get_xydata().tolist() == [[k, CHOSEN.values[k - 1]]]
    assert words(ax) == ["no selection exceeds this", f"{k} selected reach 95% of F"]


def test_the_curve_as_a_part_of_everything(ax):
    plots.curve(CHOSEN, ax, enough=0.999, everything=2 * CHOSEN.value)
    np.testing.assert_allclose(ax.lines[0].get_ydata()[-1], 0.5)
    assert words(ax) == ["no selection exceeds this"]  # so much of F is not reached


def test_a_map_has_markers_as_large_as_what_they_stand_for_and_lines_to_members(ax):
    plots.map(X, CHOSEN, ax, labels=["a", "b"] * 30)
    lines, points, markers = ax.collections
    np.testing.assert_array_equal(points.get_offsets(), X)
    np.testing.assert_array_equal(markers.get_offsets(), X[CHOSEN.indices])
    areas = markers.get_sizes()
    np.testing.assert_allclose(areas / areas[0], CHOSEN.sizes / CHOSEN.sizes[0])
    ends = np.array(lines.get_segments())
    np.testing.assert_array_equal(ends[:, 0], X)
    np.testing.assert_array_equal(ends[:, 1], X[CHOSEN.indices[CHOSEN.assignment]])
    assert len(np.unique(points.get_facecolors(), axis=0)) == 2


def test_a_map_of_more_features_shows_principal_components(ax):
    wide = np.column_stack([X[:, 0] * 5, np.zeros(60), X[:, 1] * 3])
    shown = plots.map(wide, CHOSEN, ax, lines=False).collections[0].get_offsets().data
    centred = wide - wide.mean(axis=0)
    np.testing.assert_allclose(shown @ shown.T, centred @ centred.T, atol=1e-9)
    for unit in (1e-200, 1e200):
        far = plots.map(unit * wide, CHOSEN, lines=False).collections[0].get_offsets().data
        np.testing.assert_allclose(far / unit, shown, rtol=1e-6, atol=1e-9)
    assert len(plots.map(X[:, :1], CHOSEN).collections) == 3


def test_a_map_leaves_out_what_is_unknown(ax):
    elements = subsel.greedy(subsel.DisparityMin.from_features(X), 5)
    _, markers = plots.map(X, elements, ax).collections
    assert len(set(markers.get_sizes())) == 1
    alone = subsel.greedy(np.eye(60), 5)  # whose points nothing else represents
    assert alone.assignment is None or (alone.assignment < 0).any()
    plots.map(X, alone)


def test_balance_before_and_after(ax):
    labels = np.array(["rare"] * 10 + ["common"] * 50)
    chosen = subsel.select(X, {"rare": 5, "common": 5}, labels=labels)
    plots.balance(labels, chosen, ax)
    before, after = ([bar.get_width() for bar in bars] for bars in ax.containers)
    np.testing.assert_allclose(before, [5 / 6, 1 / 6])
    np.testing.assert_allclose(after, [0.5, 0.5])
    assert words(ax) == ["all 60", "selected 10"]


def test_a_contact_sheet_of_images_of_any_kind(ax):
    sizes = [(4, 8), (8, 4, 3), (4, 4, 4)]
    images = [np.full(sizes[i % 3], 0.5) for i in range(60)]
    plots.contact_sheet(images, CHOSEN, ax, most=5, columns=3)
    assert len(ax.images) == 5
    assert [int(text.get_text()) for text in ax.texts] == CHOSEN.sizes[:5].tolist()
    for picture, index in zip(ax.images, CHOSEN.indices, strict=False):
        left, right, bottom, top = picture.get_extent()
        high, wide = images[index].shape[:2]
        np.testing.assert_allclose((right - left) / (top - bottom), wide / high)


def test_tensors_are_read_like_arrays(ax):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((60, 4, 4), np.float32)
    expected = [plots.map(X, CHOSEN, ax, labels=[0, 1] * 30).collections[-1].get_offsets()]
    expected += [image.get_array() for image in plots.contact_sheet(images, CHOSEN, ax).images]
    rows, labels = torch.tensor(X, requires_grad=True), torch.arange(60) % 2
    shown = [plots.map(rows, CHOSEN, labels=labels).collections[-1].get_offsets()]
    pictures = torch.tensor(images, requires_grad=True)
    shown += [image.get_array() for image in plots.contact_sheet(pictures, CHOSEN).images]
    for ours, theirs in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(plots.contact_sheet(pictures.bfloat16(), CHOSEN).images) == len(CHOSEN)


@pytest.mark.parametrize("draw", [
    lambda own: plots.curve(own),
    lambda own: plots.map(X, own),
    lambda own: plots.balance([0, 1] * 30, own),
    lambda own: plots.contact_sheet(np.zeros((60, 4, 4)), own),
])  # fmt: skip
def test_indices_are_no_selection(draw):
    with pytest.raises(TypeError, match=r"selection must be a Selection, .* not of type ndarray"):
        draw(CHOSEN.indices)


def test_the_axes_must_be_one():
    for ax in ("picture.png", pyplot.subplots(1, 2)[1]):
        with pytest.raises(TypeError, match="ax must be one Axes of matplotlib, not of type"):
            plots.curve(CHOSEN, ax)


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: plots.curve(NOTHING), "selection is empty"),
        (lambda: plots.curve(CHOSEN, enough=0), "enough must be"),
        (lambda: plots.curve(CHOSEN, everything=-1), "everything must be"),
        (lambda: plots.map(X[:5], CHOSEN), "X has 5 rows"),
        (lambda: plots.map(X[0], CHOSEN), "X must be 2-D"),
        (lambda: plots.map(X, CHOSEN, labels=[1, 2]), "labels must have shape .* one entry"),
        (lambda: plots.balance([0, 1], CHOSEN), "labels has 2 entries"),
        (lambda: plots.balance([0], NOTHING), "selection is empty"),
        (lambda: plots.contact_sheet(np.zeros((60, 4)), CHOSEN), r"must be \(height, width\)"),
        (lambda: plots.contact_sheet(np.zeros((60, 3, 8, 8)), CHOSEN), "the colours last"),
        (lambda: plots.contact_sheet(np.zeros((5, 4, 4)), CHOSEN), "there are 5 images"),
        (lambda: plots.contact_sheet(np.zeros((60, 4, 4)), CHOSEN, columns=0), "columns must be"),
        (lambda: plots.contact_sheet(np.zeros((60, 4, 4)), NOTHING), "selection is empty"),
    ],
)
def test_what_is_refused(draw, match):
    with pytest.raises(ValueError, match=match):
        draw()
